"""What a teacher tells a learner, by hand: positions without gaps, the seal behind the last of them."""

import pytest

from replica.consensus.interface import Command, Configuration, Deliver, Member, Sealed
from replica.storage.learning import NEAR_POSITIONS, Learner, Lesson, LessonBroken, News

NEXT = Configuration(epoch=2, members=(Member(1), Member(4)), protocol="multipaxos")


def delivery(position: int, size: int = 10) -> Deliver:
    return Deliver(position, (Command(b"x" * size),))


def positions(news: News) -> list[int]:
    return [each.position for each in news.deliveries]


def lesson(**bounds: int) -> Lesson:
    return Lesson(4, 10, **bounds)


def test_what_the_snapshot_covers_is_not_told() -> None:
    given = lesson()
    given.delivered([delivery(9), delivery(10), delivery(11)])
    assert positions(given.take()) == [11]
    assert not given.unsaid


def test_news_is_cut_into_pieces_and_a_position_is_never_cut() -> None:
    given = lesson()
    given.delivered([delivery(11, 50), delivery(12, 50), delivery(13, 500)])
    assert positions(given.take(100)) == [11, 12]
    assert positions(given.take(100)) == [13]


def test_the_seal_is_told_behind_everything_and_nothing_after_it() -> None:
    given = lesson()
    given.delivered([delivery(11, 50), delivery(12, 50)])
    given.ended(Sealed(13, NEXT))
    given.delivered([delivery(14)])
    assert given.take(50).sealed is None
    assert given.unsaid
    last = given.take(50)
    assert (positions(last), last.sealed) == ([12], Sealed(13, NEXT))
    assert not given.unsaid


def test_what_was_not_acknowledged_is_told_again_after_a_loss() -> None:
    given = lesson()
    given.delivered([delivery(position) for position in range(11, 16)])
    given.take()
    given.acknowledge(12)
    given.rewind()
    assert positions(given.take()) == [13, 14, 15]
    given.rewind()
    given.acknowledge(14)
    assert positions(given.take()) == [15]


def test_a_learner_is_near_once_it_has_the_snapshot_and_all_but_a_little() -> None:
    given = lesson()
    assert (given.lag, given.near) == (None, False)
    given.acknowledge(10)
    assert (given.lag, given.near) == (0, True)
    given.delivered([delivery(position) for position in range(11, 12 + NEAR_POSITIONS)])
    assert (given.lag, given.near) == (NEAR_POSITIONS + 1, False)
    given.take()
    given.acknowledge(11)
    assert given.near
    given.broken("it is over")
    assert not given.near


def test_a_learner_that_takes_nothing_does_not_fill_the_teachers_memory() -> None:
    given = lesson(untaken_bytes_max=100)
    given.delivered([delivery(position, 30) for position in range(11, 15)])
    with pytest.raises(LessonBroken, match="more than 100 bytes"):
        given.take()


def test_what_is_acknowledged_makes_room() -> None:
    given = lesson(untaken_bytes_max=100)
    for position in range(11, 60):
        given.delivered([delivery(position, 30)])
        given.take()
        given.acknowledge(position)
    assert given.near


def test_a_position_that_the_teacher_never_saw_breaks_the_lesson() -> None:
    given = lesson()
    given.delivered([delivery(12)])
    with pytest.raises(LessonBroken, match="11 to 11"):
        given.take()


@pytest.mark.parametrize("position", [9, 12])
def test_an_acknowledgement_of_what_cannot_be_is_refused(position: int) -> None:
    given = lesson()
    given.delivered([delivery(11)])
    with pytest.raises(LessonBroken, match="is not one of 10 to 11"):
        given.acknowledge(position)


def test_a_learner_applies_each_position_once_and_in_order() -> None:
    learner = Learner(4, 10)
    assert [each.position for each in learner.accept(News((delivery(10), delivery(11), delivery(12))))] == [11, 12]
    assert learner.accept(News((delivery(11),))) == []
    with pytest.raises(LessonBroken, match="position 14 came after 12"):
        learner.accept(News((delivery(14),)))


def test_a_learner_stands_at_the_seal_only_with_everything_before_it() -> None:
    learner = Learner(4, 12)
    anchor = learner.anchor(Sealed(13, NEXT))
    assert anchor is not None
    assert (anchor.frontier, anchor.base, anchor.configuration) == (13, 13, NEXT)
    with pytest.raises(LessonBroken, match="the seal at 15 came after 12"):
        learner.anchor(Sealed(15, NEXT))


def test_a_learner_that_the_next_epoch_leaves_out_has_no_place_in_it() -> None:
    assert Learner(5, 12).anchor(Sealed(13, NEXT)) is None
