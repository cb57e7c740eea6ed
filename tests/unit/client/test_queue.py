"""The queue keeps order and deadlines through every way of taking from it."""

from hypothesis import given
from hypothesis import strategies as st

from replica.client.queue import Queue, spans

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([1.0, 2.0, 5.0])),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("put back"), st.integers(1, 4)),
        st.tuples(st.just("tick"), st.sampled_from([0.0, 0.5, 2.0])),
        st.tuples(st.just("expire"), st.sampled_from([0.5, 2.0])),
    ),
    max_size=40,
)


@given(steps)
def test_order_and_deadlines_survive_any_use(story):
    queue: Queue[int] = Queue()
    expected: list[tuple[int, float]] = []
    now = 0.0
    number = 0
    for step, value in story:
        if step == "add":
            number += 1
            queue.add(f"operation {number}", number, value)
            expected.append((number, queue.now + value))
        elif step == "tick":
            now += value
            queue.tick(now)
        elif step == "expire":
            now += value
            assert queue.remove_expired(now) == [token for token, deadline in expected if deadline <= now]
            expected = [(token, deadline) for token, deadline in expected if deadline > now]
        else:
            batch = queue.take(int(value))
            taken = [
                (token, deadline)
                for start, end, deadline in spans(batch.marks, len(batch.tokens))
                for token in batch.tokens[start:end]
            ]
            assert taken == expected[: int(value)]
            assert batch.operations == [f"operation {token}" for token, _ in taken]
            if step == "put back":
                queue.put_back(batch)
            else:
                expected = expected[int(value) :]
        assert queue.tokens == [token for token, _ in expected]
    batch = queue.take(1000)
    assert [deadline for start, end, deadline in spans(batch.marks, len(batch.tokens)) for _ in range(start, end)] == [
        deadline for _, deadline in expected
    ]


def test_operations_with_the_same_timeout_in_one_tick_share_a_mark():
    queue: Queue[int] = Queue()
    queue.tick(10.0)
    for number in range(1000):
        queue.add("operation", number, 5.0)
    assert queue.take(1000).marks == [(0, 15.0)]
