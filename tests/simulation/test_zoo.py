"""Every planted bug is found, by a check that was named for it; the same seed is clean with the switch off."""

import pytest

from replica.simulation.zoo import QUICK_SEEDS_MAX, SEEDS_MAX, Catch, hunt, table
from tests.simulation.zoo import collect

ZOO = collect()


def assert_good(catch: Catch) -> None:
    assert catch.seed is not None, f"not found in {catch.tried} seeds"
    assert catch.expected, f"found by {catch.check!r}, which is not named for it: {catch.text}"
    assert catch.clean, f"seed {catch.seed} fails with the switch off, too"


@pytest.mark.parametrize("name", [name for name, specimen in ZOO.items() if not specimen.rare])
def test_a_planted_bug_is_found(name):
    assert_good(hunt(ZOO[name], range(QUICK_SEEDS_MAX)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name, specimen in ZOO.items() if specimen.rare])
def test_a_planted_bug_that_seldom_shows_is_found(name):
    assert_good(hunt(ZOO[name], range(SEEDS_MAX)))


def test_every_specimen_says_what_comes_of_it_and_what_may_find_it():
    for name, specimen in ZOO.items():
        assert specimen.consequence, name
        assert specimen.caught_by, name


def test_the_table_shows_what_found_each_bug_and_marks_what_is_wrong():
    lines = table(
        [
            Catch(name="a: one", tried=7, seed=6, check="prefixes", expected=True, clean=True),
            Catch(name="a: two", tried=9, seed=8, check="liveness", expected=False, clean=False),
            Catch(name="a: three", tried=2000),
        ]
    )
    assert lines[2] == "| a: one | prefixes | 7 |"
    assert "not a check that was named" in lines[3]
    assert "fails without the bug" in lines[3]
    assert lines[4] == "| a: three | nothing | 2000 |"
