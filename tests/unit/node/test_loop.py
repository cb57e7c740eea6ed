"""The turn, on a protocol that does what it is told: what comes before what, and what bounds it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

import replica.node.loop
from replica.consensus.interface import (
    Capabilities,
    Command,
    Configuration,
    Context,
    Deliver,
    Effects,
    Event,
    GrantRead,
    Member,
    Message,
    Persist,
    Persisted,
    Proposed,
    Protocol,
    ProtocolSpec,
    Put,
    ReadRequested,
    Reason,
    Received,
    Record,
    Reject,
    RejectRead,
    Sealed,
    Send,
    Status,
    Write,
)
from replica.kv import operations as kv
from replica.kv import runs
from replica.kv.machine import StateMachine
from replica.kv.memory import MemoryStore
from replica.node.config import Limits
from replica.node.loop import FLUSH_PASSES_MAX, Loop
from replica.node.metrics import NodeMetrics
from replica.node.sessions import Sessions
from replica.storage.coordinator import Anchor, Coordinator
from replica.wire import typed as wire


class Say(Message, frozen=True, tag=1):
    word: str


class Note(Record, frozen=True, tag=1):
    number: int


class Options(msgspec.Struct, frozen=True):
    pass


class Scripted(Protocol):
    """Decides what is proposed once it is durable; a test replaces what it does with an event."""

    def __init__(self, context: Context, _options: Options) -> None:
        self.seen: list[list[str]] = []
        self.tickets = 0
        assert isinstance(context.applied, int)
        self.position = context.applied
        self.waiting: dict[int, tuple[Command, ...]] = {}
        self.on: dict[type, Callable[[Any, Effects], None]] = {
            Proposed: self._proposed,
            Persisted: self._persisted,
            ReadRequested: self._read_requested,
        }

    def start(self, now: float) -> Effects:
        return Effects()

    def step(self, now: float, events: Sequence[Event]) -> Effects:
        self.seen.append([type(event).__name__ for event in events])
        effects = Effects()
        for event in events:
            handler = self.on.get(type(event))
            if handler is not None:
                handler(event, effects)
        return effects

    def _proposed(self, event: Proposed, effects: Effects) -> None:
        self.tickets += 1
        self.waiting[self.tickets] = event.commands
        effects.persists.append(Persist(self.tickets, (Put("notes", b"k", Note(self.tickets)),)))
        effects.sends.append(Send((2,), Say("at once")))
        effects.sends.append(Send((2,), Say("when durable"), after=self.tickets))

    def _read_requested(self, event: ReadRequested, effects: Effects) -> None:
        effects.reads.append(GrantRead(event.token, self.position))

    def _persisted(self, event: Persisted, effects: Effects) -> None:
        self.position += 1
        effects.deliveries.append(Deliver(self.position, self.waiting.pop(event.ticket)))

    def status(self) -> Status:
        return Status(
            role="leader", leader=1, ballot="", decided=self.position, delivered=self.position, accepting=True
        )


SPEC = ProtocolSpec(
    name="scripted",
    summary="",
    capabilities=Capabilities(
        total_order=True,
        transactions=True,
        compare_and_set=True,
        exactly_once=True,
        reads=frozenset({"read-index"}),
        routing="leader",
        crash_recovery=True,
        reconfiguration=False,
    ),
    messages=(Say,),
    tables={"notes": Note},
    options=Options,
    create=Scripted,
    validate=lambda _configuration, _options: None,
)


class Bench:
    """A loop with everything around it, and an account of what it did in which order."""

    def __init__(self, mode: str = "inline", **limits: int) -> None:
        self.account: list[str] = []
        self.failure: BaseException | None = None
        self.mode = mode
        self.in_flight = 0
        self.unsent_passes = 0
        self.now = 0.0
        self.submitted: list[tuple[int, int]] = []
        self.notifications: list[Callable[[], None]] = []
        self.machine = StateMachine(MemoryStore())
        self.coordinator = Coordinator(
            lambda _name: SPEC,
            replica=1,
            anchor=Anchor(configuration=Configuration(1, (Member(1), Member(2)), "scripted")),
            stable=lambda _spec: self,  # type: ignore[arg-type,return-value]
            randomness=self,  # type: ignore[arg-type]
            incarnation=1,
            applied=0,
        )
        assert isinstance(self.coordinator.protocol, Scripted)
        self.protocol = self.coordinator.protocol
        metrics = NodeMetrics(dict)
        bounds = Limits(**limits)
        self.sessions = Sessions(self, cluster="test", limits=bounds, batch_max=512, metrics=metrics)  # type: ignore[arg-type]
        self.loop = Loop(
            coordinator=self.coordinator,
            writer=self,
            network=self,
            machine=self.machine,
            sessions=self.sessions,
            clock=lambda: self.now,
            limits=bounds,
            metrics=metrics,
            fail=self._fail,
            detached_base=1000,
        )
        self.loop.on_applied = lambda _operations: self.account.append("applied")
        self.loop.start()

    def _fail(self, error: BaseException) -> None:
        self.failure = error

    # The network, the writer and what the sessions ask of a replica.

    def send(self, send: Send) -> None:
        assert isinstance(send.message, Say)
        self.account.append(f"sent {send.message.word}")

    @property
    def unsent(self) -> bool:
        self.unsent_passes -= 1
        return self.unsent_passes >= 0

    def submit(self, group: int, writes: Sequence[Write], notify: Callable[[], None] | None = None) -> int:
        self.account.append(f"committed {len(writes)}")
        if self.mode == "inline":
            if notify is not None:
                notify()
            return group
        self.in_flight += 1
        self.submitted.append((group, len(writes)))
        if notify is not None:
            self.notifications.append(notify)
        return 0

    def complete(self) -> None:
        """The writer thread reports everything that was submitted."""
        self.in_flight = 0
        group = max(group for group, _ in self.submitted)
        self.submitted.clear()
        if group:
            self.loop.durable(group)
        for notify in self.notifications:
            notify()

    def propose(self, command: Command) -> None:
        self.loop.propose(command)

    def foresee(self, payload: bytes, acknowledged: int, operations: list[kv.ClientOperation]) -> None:
        self.machine.foresee(payload, acknowledged, operations)

    def request_read(self, read: Any) -> None:
        self.loop.request_read(read)

    def read_now(self, operations: bytes, count: int) -> bytes:
        return runs.encode_results(self.machine.query(runs.validate_reads(operations, count)))

    def unavailable(self) -> str:
        return ""

    def refusal(self, *, removing: bool = False) -> None:
        return None

    def describe(self) -> wire.ServerFrame.Welcome:
        return wire.ServerFrame.Welcome()

    def leader(self, _hint: int | None = None) -> tuple[int, str]:
        return 2, "elsewhere:1"

    default_read = "read-index"

    def put(self, key: bytes) -> list[Any]:
        """Propose a put outside any session; what came of it turns up in the list."""
        came: list[Any] = []
        self.loop.propose_detached(runs.encode_operations([kv.Put(key, b"value")]), 1, came.append)
        return came


async def passes(count: int = 20) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_waits_for_nothing_is_sent_before_the_commit_and_the_rest_after_it():
    bench = Bench()
    came = bench.put(b"key")
    assert bench.account == []
    await passes()
    assert bench.account == ["sent at once", "committed 1", "sent when durable", "applied"]
    (results,) = came
    assert isinstance(runs.decode_results(results, 1)[0], kv.Written)


async def test_an_inline_commit_waits_for_the_sockets_but_not_for_ever():
    bench = Bench()
    bench.unsent_passes = 10 * FLUSH_PASSES_MAX
    bench.put(b"key")
    await passes(1 + FLUSH_PASSES_MAX)
    assert bench.account == ["sent at once"]
    await passes(2)
    assert "committed 1" in bench.account


async def test_everything_that_arrives_together_is_one_turn_one_commit_and_one_position():
    bench = Bench()
    for number in range(50):
        bench.put(b"key%d" % number)
    await passes()
    assert bench.protocol.seen == [["Proposed"], ["Persisted"]]
    assert bench.account.count("committed 1") == 1
    assert (bench.machine.applied, bench.machine.revision) == (1, 50)


async def test_while_the_thread_commits_turns_go_on_and_the_order_is_kept():
    bench = Bench("thread")
    first = bench.put(b"a")
    await passes()
    second = bench.put(b"b")
    await passes()
    assert bench.account == ["sent at once", "committed 1"] * 2
    assert not first
    bench.complete()
    await passes()
    assert first
    assert second
    assert bench.account[4:] == ["sent when durable"] * 2 + ["applied"]
    assert bench.machine.applied == 2


async def test_a_turn_proposes_no_more_than_its_budget_and_the_rest_follows():
    bench = Bench(turn_operations_max=10)
    for number in range(25):
        bench.put(b"key%d" % number)
    await passes(40)
    assert bench.protocol.seen.count(["Proposed"]) == 3
    assert bench.machine.revision == 25


async def test_a_turn_digests_no_more_messages_than_its_bound():
    bench = Bench(turn_events_max=10)
    for _ in range(5):
        bench.loop.received(2, [Say("hello")] * 6)
    assert bench.loop.received_waiting == 30
    room = asyncio.ensure_future(bench.loop.room())
    await passes()
    assert [len(events) for events in bench.protocol.seen] == [12, 12, 6]
    assert bench.loop.received_waiting == 0
    await asyncio.wait_for(room, 10)


async def test_reads_that_arrive_together_share_one_token_and_wait_for_their_frontier():
    bench = Bench("thread")
    attachment = bench.sessions.attach()
    read = wire.Read(count=1, operations=runs.encode_operations([kv.Get(b"key")]))
    bench.protocol.on[ReadRequested] = lambda event, effects: effects.reads.append(GrantRead(event.token, 1))
    bench.sessions.receive(attachment, wire.ClientFrame(hello=wire.Hello(wire_version=1), reads=[read] * 3))
    bench.put(b"key")
    await passes()
    assert bench.protocol.seen[0] == ["Proposed", "ReadRequested"]
    frame = await attachment.next_frame()
    assert frame is not None
    assert not frame.read_results
    assert bench.sessions.reads_waiting == 3
    bench.complete()
    await passes()
    frame = await attachment.next_frame()
    assert frame is not None
    assert len(frame.read_results) == 3
    for result in frame.read_results:
        (got,) = runs.decode_results(result.results, 1)
        assert isinstance(got, kv.Got)
        assert got.item is not None
    assert bench.sessions.reads_waiting == 0


async def test_a_session_gets_the_results_of_a_turn_in_one_frame():
    bench = Bench("thread")
    attachment = bench.sessions.attach()
    bench.sessions.receive(attachment, wire.ClientFrame(hello=wire.Hello(wire_version=1, session=1)))
    bench.loop.propose_detached(runs.encode_operations([kv.OpenSession(b"n")]), 1, lambda _: None, system=True)
    encoded = [runs.encode_operations([kv.Put(b"key%d" % number, b"v")]) for number in range(5)]
    incoming = [
        wire.Run(first_sequence=number + 1, count=1, operations=operations) for number, operations in enumerate(encoded)
    ]
    bench.sessions.receive(attachment, wire.ClientFrame(runs=incoming))
    assert bench.sessions.in_flight_operations == 5
    await passes()
    assert (await attachment.next_frame()) is not None  # the welcome
    bench.complete()
    await passes()
    frame = await attachment.next_frame()
    assert frame is not None
    assert [result.first_sequence for result in frame.results] == [1, 2, 3, 4, 5]
    assert bench.sessions.in_flight_operations == 0
    assert bench.sessions.in_flight_bytes == 0


async def test_a_refusal_of_the_protocol_reaches_whoever_asked():
    bench = Bench()
    attachment = bench.sessions.attach()
    bench.sessions.receive(attachment, wire.ClientFrame(hello=wire.Hello(wire_version=1, session=7)))

    def refuse(event: Proposed, effects: Effects) -> None:
        effects.rejections.extend(Reject(command, Reason.NOT_LEADER, True, 2) for command in event.commands)

    bench.protocol.on[Proposed] = refuse
    bench.protocol.on[ReadRequested] = lambda event, effects: effects.refused_reads.append(
        RejectRead(event.token, Reason.NOT_LEADER, hint=2)
    )
    operations = runs.encode_operations([kv.Put(b"key", b"value")])
    frame = wire.ClientFrame(
        runs=[wire.Run(first_sequence=3, count=1, operations=operations)],
        reads=[wire.Read(id=9, count=1, operations=runs.encode_operations([kv.Get(b"key")]))],
    )
    bench.sessions.receive(attachment, frame)
    came = bench.put(b"key")
    await passes()
    answer = await attachment.next_frame()
    assert answer is not None
    for_run, for_read = answer.rejections
    assert (for_run.first_sequence, for_run.count, for_run.definite) == (3, 1, True)
    assert (for_read.read_id, for_read.code, for_read.leader_address) == (9, wire.Code.NOT_LEADER, "elsewhere:1")
    assert isinstance(came[0], Reject)
    assert bench.sessions.in_flight_operations == 0


async def test_a_timer_fires_once_it_is_due():
    bench = Bench()

    def arm(_event: Received, effects: Effects) -> None:
        effects.timers["alarm"] = 0.01

    bench.protocol.on[Received] = arm
    bench.loop.received(2, [Say("set the alarm")])
    await passes()
    assert bench.protocol.seen == [["Received"]]
    fired = asyncio.ensure_future(bench.loop.until(lambda: ["TimerFired"] in bench.protocol.seen))
    bench.now = 1.0
    await asyncio.wait_for(fired, 10)
    assert bench.coordinator.next_deadline() is None


async def test_at_rest_nothing_is_in_flight_and_nothing_is_stepped_until_it_goes_on():
    bench = Bench("thread")
    bench.put(b"a")
    await passes()
    rest = asyncio.ensure_future(bench.loop.quiesce())
    came = bench.put(b"b")
    await passes()
    assert not rest.done()
    bench.complete()
    await asyncio.wait_for(rest, 10)
    assert bench.machine.applied == 1
    outside = bench.loop.commit([Put("notes", b"x", Note(1))])
    await passes()
    bench.complete()
    await asyncio.wait_for(outside, 10)
    assert bench.protocol.seen.count(["Proposed"]) == 1
    bench.loop.resume()
    await passes()
    bench.complete()
    await passes()
    assert came


async def test_rest_comes_also_when_only_writes_outside_the_protocol_were_in_flight():
    bench = Bench("thread")
    outside = bench.loop.commit([Put("notes", b"x", Note(1))])
    rest = asyncio.ensure_future(bench.loop.quiesce())
    await passes()
    assert not rest.done()
    bench.complete()
    await asyncio.wait_for(asyncio.gather(rest, outside), 10)


async def test_an_admission_that_becomes_durable_at_rest_is_told_when_the_loop_goes_on():
    bench = Bench()
    bench.coordinator.voting = False
    await asyncio.wait_for(bench.loop.quiesce(), 10)
    bench.loop.admit()
    await passes()
    assert bench.protocol.seen == []
    assert not bench.coordinator.voting
    bench.loop.resume()
    await passes()
    assert bench.protocol.seen == [["Admitted"]]
    assert bench.coordinator.voting


async def test_an_admission_that_meets_a_seal_counts_for_the_next_epoch():
    bench = Bench()
    bench.coordinator.voting = False
    bench.coordinator.sealed = Sealed(1, bench.coordinator.configuration)
    bench.loop.admit()
    await passes()
    assert bench.protocol.seen == []
    assert bench.coordinator.voting


async def test_whatever_goes_wrong_in_a_turn_halts_the_loop_and_is_reported():
    bench = Bench()

    def fail(_event: Proposed, _effects: Effects) -> None:
        raise AssertionError("an invariant does not hold")

    bench.protocol.on[Proposed] = fail
    waiting = asyncio.ensure_future(bench.loop.until(lambda: False))
    bench.put(b"key")
    await passes()
    assert str(bench.failure) == "an invariant does not hold"
    assert bench.loop.halted
    await asyncio.wait_for(waiting, 10)
    seen = len(bench.protocol.seen)
    bench.put(b"key")
    await passes()
    assert len(bench.protocol.seen) == seen


@pytest.mark.parametrize("mode", ["inline", "thread"])
async def test_writes_of_the_node_share_the_commit_of_a_group(mode):
    bench = Bench(mode)
    bench.put(b"key")
    await passes(1)
    future = bench.loop.commit([Put("notes", b"x", Note(1)), Put("notes", b"y", Note(2))])
    await passes()
    if mode == "thread":
        assert [writes for _, writes in bench.submitted] == [1, 2]
        assert not future.done()
        bench.complete()
    else:
        assert "committed 3" in bench.account
    await asyncio.wait_for(future, 10)


async def test_a_vote_leaves_before_the_own_state_is_brought_up_but_a_client_that_waits_comes_first():
    bench = Bench("thread")
    bench.put(b"key")
    await passes()
    bench.complete()
    assert bench.account[-1] == "sent when durable"
    await passes()
    assert bench.account[-1] == "applied"
    attachment = bench.sessions.attach()
    bench.sessions.receive(attachment, wire.ClientFrame(hello=wire.Hello(wire_version=1, session=1)))
    run = wire.Run(first_sequence=1, count=1, operations=runs.encode_operations([kv.Put(b"key", b"value")]))
    bench.sessions.receive(attachment, wire.ClientFrame(runs=[run]))
    await passes()
    bench.complete()
    assert bench.account[-1] == "applied"


async def test_what_nobody_waits_for_is_applied_at_leisure(monkeypatch):
    monkeypatch.setattr(replica.node.loop, "LEISURE_S", 0.0)
    bench = Bench("thread")
    applied = asyncio.Event()
    bench.loop.on_applied = lambda _operations: applied.set()
    bench.loop.propose(somebody_elses_put())
    await passes()
    bench.complete()
    await asyncio.wait_for(applied.wait(), 10)


@pytest.mark.parametrize("waits", ["a read", "whoever looks after each turn"])
async def test_what_is_applied_at_leisure_is_applied_at_once_when_somebody_comes_to_wait(monkeypatch, waits):
    monkeypatch.setattr(replica.node.loop, "LEISURE_S", 3600.0)
    bench = Bench("thread")
    bench.loop.propose(somebody_elses_put())
    await passes()
    bench.complete()
    await passes()
    assert bench.machine.applied == 0
    if waits == "a read":
        bench.loop.ask(ReadRequested, lambda _refused: None)
    else:
        task = asyncio.ensure_future(bench.loop.until(lambda: bench.machine.applied == 2))
        await passes()
        bench.loop.propose(somebody_elses_put())
        await passes()
        bench.complete()
        await asyncio.wait_for(task, 10)
    await passes()
    assert bench.machine.applied == (1 if waits == "a read" else 2)


def somebody_elses_put() -> Command:
    """A command of which nobody here wants to hear."""
    return Command(runs.pack_payload(0, runs.encode_operations([kv.Put(b"key", b"value")])), 0, 7, 1)


async def test_what_no_answer_needs_is_done_when_the_answers_are_on_their_way():
    bench = Bench()
    attachment = bench.sessions.attach()
    bench.sessions.receive(attachment, wire.ClientFrame(hello=wire.Hello(wire_version=1, session=1)))
    await attachment.next_frame()

    async def answered() -> bool:
        frame = await attachment.next_frame()
        assert frame is not None
        assert len(frame.results) == 1
        return bench.machine.settled

    opening = runs.encode_operations([kv.OpenSession(b"n")])
    bench.loop.propose_detached(opening, 1, lambda _outcome: None, system=True)
    await passes()
    answer = asyncio.ensure_future(answered())
    run = wire.Run(first_sequence=1, count=1, operations=runs.encode_operations([kv.Put(b"key", b"value")]))
    bench.sessions.receive(attachment, wire.ClientFrame(runs=[run]))
    assert not await asyncio.wait_for(answer, 10)
    await passes()
    assert bench.machine.settled


@pytest.mark.parametrize("remaining", [0.0001, 0.0004, 0.0016, 0.01])
async def test_no_timer_is_called_before_it_is_due(remaining):
    bench = Bench()
    asked: list[float] = []

    def call_later(delay: float, _callback: Callable[[], None]) -> asyncio.TimerHandle:
        asked.append(round(delay * 1000) / 1000)  # as uvloop counts
        return asyncio.get_running_loop().call_later(3600, lambda: None)

    def arm(_event: Received, effects: Effects) -> None:
        effects.timers["alarm"] = bench.now + remaining

    bench.protocol.on[Received] = arm
    bench.loop._events = type("Events", (), {"call_later": staticmethod(call_later)})()
    bench.loop._received.append((2, [Say("set the alarm")]))
    bench.loop._guarded_turn()
    assert asked
    assert asked[-1] >= remaining
    bench.loop.halt()
