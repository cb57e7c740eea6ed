"""What the leader gives up when nobody asks, with a clock that is moved by hand."""

from replica.node.compaction import Compactor
from replica.node.config import CompactionPolicy


class Looks:
    """A compactor whose proposals are carried out at once."""

    def __init__(self, **policy: float) -> None:
        self.now = 1000.0
        self.revision = 0
        self.compacted = 0
        self.leads = True
        self.proposed: list[int] = []
        self.compactor = Compactor(
            CompactionPolicy(**policy),  # type: ignore[arg-type]
            clock=lambda: self.now,
            standing=lambda: (self.revision, self.compacted),
            leads=lambda: self.leads,
            propose=self.propose,
        )

    def propose(self, revision: int) -> None:
        self.proposed.append(revision)
        self.compacted = revision

    def look(self, *, after_s: float = 0.0, revision: int | None = None) -> int:
        """Look again later; returns the oldest revision that can be read then."""
        self.now += after_s
        self.revision = self.revision if revision is None else revision
        self.compactor.look()
        return self.compacted


def test_the_last_revisions_stay_readable() -> None:
    looks = Looks(keep_revisions=10)
    assert looks.look(revision=10) == 0
    assert looks.look(revision=11) == 1
    assert looks.look(revision=500) == 490
    assert looks.proposed == [1, 490]


def test_nothing_new_is_nothing_to_give_up() -> None:
    looks = Looks(keep_revisions=10)
    looks.look(revision=50)
    looks.look()
    assert looks.proposed == [40]


def test_what_is_young_stays_readable() -> None:
    looks = Looks(keep_s=60)
    assert looks.look(revision=100) == 0
    assert looks.look(after_s=30, revision=200) == 0
    assert looks.look(after_s=29, revision=300) == 0
    assert looks.look(after_s=1, revision=400) == 100
    assert looks.look(after_s=30, revision=500) == 200
    assert looks.look(after_s=1000, revision=600) == 500


def test_what_either_bound_keeps_is_kept() -> None:
    looks = Looks(keep_s=60, keep_revisions=50)
    looks.look(revision=100)
    assert looks.look(after_s=60, revision=120) == 70
    assert looks.look(after_s=60, revision=1000) == 120


def test_a_replica_that_does_not_lead_proposes_nothing_and_knows_how_old_revisions_are_when_it_comes_to() -> None:
    looks = Looks(keep_s=60)
    looks.leads = False
    looks.look(revision=100)
    assert looks.look(after_s=61, revision=200) == 0
    looks.leads = True
    assert looks.look(after_s=1) == 100


def test_a_client_that_gave_up_more_is_not_undone() -> None:
    looks = Looks(keep_revisions=10)
    looks.compacted = 95
    assert looks.look(revision=100) == 95
    assert not looks.proposed
