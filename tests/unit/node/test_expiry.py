"""The timers of leases, with a clock that is moved by hand and a state machine that is one."""

from typing import Any

import pytest

from replica.kv.memory import MemoryStore
from replica.kv.operations import (
    AnyOperation,
    DescribeLease,
    GrantLease,
    KeepAlive,
    LeaseDescribed,
    ListLeases,
    RevokeLease,
)
from replica.node.expiry import LATE_S, PROPOSED_MAX, RETRY_S, SLACK, TICK_S, Expiry
from tests.unit.kv.support import Replica


class Timers:
    """An `Expiry` whose proposals are carried out at once, unless they are held back."""

    def __init__(self) -> None:
        self.now = 0.0
        self.term = "1"
        self.replica = Replica(MemoryStore())
        self.proposed: list[RevokeLease] = []
        self.decides = True
        self.expiry = Expiry(
            lambda: self.replica.machine.leases,
            clock=lambda: self.now,
            term=lambda: self.term,
            propose=self.propose,
        )
        self.expiry.tick()

    def propose(self, ended: list[RevokeLease]) -> None:
        self.proposed += ended
        if self.decides:
            self.do(*ended)

    def do(self, *operations: AnyOperation) -> list[Any]:
        results = self.replica.do(*operations)
        self.expiry.observe()
        return results

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + TICK_S)
            self.expiry.tick()

    @property
    def leases(self) -> list[int]:
        return [lease.lease for lease in self.replica.one(ListLeases()).leases]


@pytest.fixture
def timers():
    return Timers()


def test_a_lease_ends_when_its_time_has_run_out_and_not_before(timers):
    timers.do(GrantLease(3000), GrantLease(5000))
    timers.wait(2.9)
    assert timers.leases == [1, 2]
    timers.wait(0.2)
    assert timers.leases == [2]
    timers.wait(2.0)
    assert timers.leases == []


def test_a_renewed_lease_has_its_full_time_again(timers):
    timers.do(GrantLease(3000))
    for _ in range(5):
        timers.wait(2.5)
        timers.do(KeepAlive(1))
    timers.wait(2.9)
    assert timers.leases == [1]
    timers.wait(0.2)
    assert timers.leases == []


def test_the_proposal_names_the_renewal_it_saw_so_that_a_later_one_wins(timers):
    (granted,) = timers.do(GrantLease(1000))
    timers.decides = False
    timers.wait(1.1)
    assert timers.proposed == [RevokeLease(1, granted.renewal)]
    timers.do(KeepAlive(1))  # decided before the proposal
    timers.do(*timers.proposed)
    assert timers.leases == [1]


def test_a_proposal_that_was_lost_is_made_again(timers):
    timers.do(GrantLease(1000))
    timers.decides = False
    timers.wait(1.0 + RETRY_S / 2)
    assert len(timers.proposed) == 1
    timers.decides = True
    timers.wait(RETRY_S)
    assert (len(timers.proposed), timers.leases) == (2, [])


def test_whoever_does_not_lead_lets_leases_be(timers):
    timers.term = ""
    timers.do(GrantLease(1000))
    timers.wait(60.0)
    assert (timers.proposed, timers.leases) == ([], [1])


def test_a_new_leader_grants_every_lease_its_full_time(timers):
    timers.do(GrantLease(3000))
    timers.wait(2.9)
    timers.term = "2"
    timers.wait(2.9)
    assert timers.leases == [1]
    timers.wait(0.3)
    assert timers.leases == []


def test_a_leader_that_was_not_run_for_a_while_lets_leases_live_as_much_longer(timers):
    timers.do(GrantLease(3000))
    timers.wait(1.0)
    timers.now += 100.0
    timers.expiry.tick()
    timers.wait(1.8)
    assert timers.leases == [1]
    timers.wait(0.4)
    assert timers.leases == []


def test_a_leader_that_could_propose_nothing_for_a_while_lets_leases_live_as_much_longer(timers):
    timers.do(GrantLease(3000))
    timers.wait(1.0)
    timers.term = ""
    timers.wait(50.0)
    timers.term = "1"
    timers.wait(1.8)
    assert timers.leases == [1]
    timers.wait(0.6)
    assert timers.leases == []


def test_a_leader_that_is_overloaded_now_and_then_still_ends_leases(timers):
    timers.do(GrantLease(3000))
    for _ in range(10):
        timers.term = ""
        timers.wait(0.5)
        timers.term = "1"
        timers.wait(1.0)
    assert timers.leases == []


def test_a_time_without_leases_is_no_absence(timers):
    timers.now += 10 * LATE_S
    timers.expiry.idle()
    timers.do(GrantLease(1000))
    timers.wait(1.2)
    assert timers.leases == []


def test_a_shorter_lease_under_an_old_id_ends_in_its_own_time(timers):
    timers.do(GrantLease(60_000, 7), RevokeLease(7), GrantLease(1000, 7))
    timers.wait(1.1)
    assert timers.leases == []


def test_only_so_many_ends_are_proposed_at_once(timers):
    timers.do(*[GrantLease(1000)] * (PROPOSED_MAX + 1))
    timers.now = 0.95
    timers.expiry.tick()
    timers.now = 1.01
    timers.expiry.tick()
    assert len(timers.leases) == 1
    timers.wait(TICK_S)
    assert timers.leases == []


def test_timers_of_leases_that_are_gone_do_not_pile_up(timers):
    for _ in range(1000):
        (granted,) = timers.do(GrantLease(10_000_000))
        timers.do(RevokeLease(granted.lease))
    assert len(timers.expiry._timers) <= SLACK + 2
    assert not timers.leases


def test_what_is_left_of_the_time_is_told_with_the_lease(timers):
    timers.do(GrantLease(3000), GrantLease(9000))
    timers.wait(1.0)
    described = timers.expiry.annotate(timers.replica.one(DescribeLease(1)))
    assert isinstance(described, LeaseDescribed)
    assert described.remaining_ms == 2000
    listed = timers.expiry.annotate(timers.replica.one(ListLeases()))
    assert [lease.remaining_ms for lease in listed.leases] == [2000, 8000]


def test_leases_that_came_with_a_restart_begin_anew(timers):
    timers.do(GrantLease(3000))
    timers.wait(2.0)
    timers.replica.restart()
    timers.expiry.tick()
    timers.wait(2.9)
    assert timers.leases == [1]
    timers.wait(0.2)
    assert timers.leases == []
