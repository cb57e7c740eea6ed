"""How many peers must have a disk on record before its replica votes."""

import pytest

from replica.node.stored import admissions_needed


@pytest.mark.parametrize("members", range(1, 10))
def test_two_disks_cannot_both_be_admitted_under_one_id(members):
    needed, others = admissions_needed(members), members - 1
    assert needed <= others
    assert members == 1 or 2 * needed > others, "any two sets of admitters meet"


@pytest.mark.parametrize("members", [3, 5, 7, 9])
def test_a_minority_that_is_down_keeps_nobody_from_being_admitted_after_a_replacement(members):
    majority = members // 2 + 1
    assert admissions_needed(members) == members - majority + 1
    assert admissions_needed(members) <= majority, "the others that decided the change suffice"
