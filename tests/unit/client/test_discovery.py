"""Which replica is tried next, and when."""

import random

from replica.client.discovery import BACKOFF_MAX_S, HINTS_IN_A_ROW_MAX, Discovery


def discovery(*endpoints: str) -> Discovery:
    return Discovery(endpoints, random.Random(1))


def test_the_first_round_tries_all_endpoints_without_waiting():
    found = discovery("a", "b", "c")
    assert [found.next() for _ in range(3)] == [("a", 0.0), ("b", 0.0), ("c", 0.0)]


def test_later_rounds_wait_longer_and_longer_up_to_a_bound():
    found = discovery("a", "b")
    waits = [found.next()[1] for _ in range(40)]
    assert 0 < waits[2] < waits[6] < waits[10] <= BACKOFF_MAX_S
    assert max(waits) <= BACKOFF_MAX_S
    assert min(waits[20:]) >= BACKOFF_MAX_S / 2


def test_two_clients_do_not_wait_alike():
    one, other = Discovery(["a"], random.Random(1)), Discovery(["a"], random.Random(2))
    assert [one.next()[1] for _ in range(9)] != [other.next()[1] for _ in range(9)]


def test_a_hint_is_followed_at_once_even_to_an_unknown_place():
    found = discovery("a", "b")
    found.next()
    found.hint("z")
    assert found.next() == ("z", 0.0)


def test_replicas_that_point_at_each_other_are_not_followed_forever():
    found = discovery("a", "b")
    waits = []
    for step in range(4 * HINTS_IN_A_ROW_MAX):
        found.hint("b" if step % 2 else "a")
        waits.append(found.next()[1])
    assert waits[:HINTS_IN_A_ROW_MAX] == [0.0] * HINTS_IN_A_ROW_MAX
    assert waits[-1] > 0


def test_an_answer_makes_good_what_went_wrong_before():
    found = discovery("a", "b")
    for _ in range(10):
        found.failed(found.next()[0], "it is down")
    found.progress()
    assert found.next()[1] == 0.0
    assert "down" not in found.account()


def test_staying_tries_the_same_endpoint_once_more():
    found = discovery("a", "b")
    found.next()
    found.stay()
    assert found.next() == ("a", 0.0)
    assert found.next()[0] == "b"


def test_what_the_cluster_says_of_its_endpoints_is_added_to_what_was_given():
    found = discovery("name-in-front")
    found.learned(["a", "b", ""])
    assert list(found.known) == ["name-in-front", "a", "b"]
    found.learned(["c"])
    assert list(found.known) == ["name-in-front", "c"]
    assert found.next()[0] == "name-in-front"


def test_the_account_names_each_endpoint_s_last_trouble():
    found = discovery("a", "b")
    found.failed("a", "a: refused")
    found.failed("b", "b: silent")
    found.failed("a", "a: another cluster")
    assert found.account() == "b: silent; a: another cluster"
