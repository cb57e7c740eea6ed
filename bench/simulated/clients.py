"""Clients in virtual time: a generator process with one session, as the client library has it.

Whatever accumulates while the client's processor is busy leaves as one frame: writes as runs of consecutive sequences,
reads beside them. Answers come back in frames, too. What is refused for certain is sent again, to whoever the refusal
names; what is in doubt stays so and is counted, since nothing in a simulated run makes it certain again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from bench.load.drive import PAUSE_AFTER_FAILURE_S, arrival_times
from bench.load.generator import GeneratorSpec
from bench.load.measure import Notes
from bench.load.record import Recorder
from bench.operations import Planned, Stream
from bench.simulated.costs import Costs
from bench.simulated.machine import size_of
from replica.kv.operations import Failed, Get, Range
from replica.kv.runs import decode_results, encode_operations
from replica.simulation import frames
from replica.simulation.world import World

__all__ = ["Client", "Load"]

Done = Callable[[str, Any], None]
"""Told ``ok`` and the result, or ``fail`` or ``unknown`` and the error."""

RETRY_S: Final = 0.005
"""What was refused for certain is sent again after so long."""

OPEN_LOOP_MAX: Final = 4096
"""Operations that an open loop has outstanding at most."""


class RefusedInDoubt(Exception):
    """Nobody knows whether the operation took effect."""


class _Written(msgspec.Struct):
    sequence: int
    operation: Any
    done: Done


class Client:
    """One session, at one place.

    ``way`` names the replica to ask, given the last hint (0: none); ``in_runs``: reads travel with the writes.
    """

    def __init__(
        self,
        world: World,
        number: int,
        *,
        costs: Costs,
        batch_max: int,
        in_runs: bool,
        stale: bool,
        way: Callable[[int], int],
        carry: Callable[[int, int, int, Any], None],
    ) -> None:
        self.world = world
        self.endpoint = -1 - number
        self.busy_s = 0.0
        self.session = 0
        self._costs = costs
        self._batch_max = batch_max
        self._in_runs = in_runs
        self._stale = stale
        self._way = way
        self._carry = carry
        self._hint = 0
        self._free_at = 0.0
        self._scheduled = False
        self._writes: list[_Written] = []
        self._reads: list[tuple[int, Any, Done]] = []
        self._in_flight: dict[int, _Written] = {}
        self._reading: dict[int, tuple[Any, Done]] = {}
        self._next_sequence = 1
        self._next_read = 1
        self._acknowledged = 0
        self._finished: set[int] = set()
        self._opened: Callable[[], None] = lambda: None

    def open(self, opened: Callable[[], None]) -> None:
        """Open the session; ``opened`` is called when it is there."""
        self._opened = opened
        self._ask_for_session()

    def _ask_for_session(self) -> None:
        self._post([frames.OpenSession(b"%16d" % -self.endpoint)])

    def issue(self, operation: Any, done: Done) -> None:
        """Send an operation as soon as the processor gets to it."""
        if isinstance(operation, Get | Range) and not self._in_runs:
            self._reads.append((self._next_read, operation, done))
            self._next_read += 1
        else:
            self._writes.append(_Written(self._next_sequence, operation, done))
            self._next_sequence += 1
        self._schedule()

    # ---------------------------------------------------------------------------------------------------------- sending

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.world.at(max(self.world.now, self._free_at), self._turn)

    def _spend(self, seconds: float) -> float:
        """Use the processor; when it is done."""
        self.busy_s += seconds
        self._free_at = max(self._free_at, self.world.now) + seconds
        return self._free_at

    def _turn(self) -> None:
        self._scheduled = False
        writes, self._writes = self._writes, []
        reads, self._reads = self._reads, []
        parts: list[Any] = []
        for begin, end in _stretches(writes, self._batch_max):
            stretch = writes[begin:end]
            for each in stretch:
                self._in_flight[each.sequence] = each
            encoded = encode_operations([each.operation for each in stretch])
            parts.append(frames.Run(self.session, stretch[0].sequence, len(stretch), self._acknowledged, encoded))
        for number, operation, done in reads:
            self._reading[number] = (operation, done)
            parts.append(frames.Read(number, 1, encode_operations([operation]), self._stale))
        if parts:
            count = len(writes) + len(reads)
            at = self._spend(self._costs.client_frame_s + count * self._costs.client_operation_s)
            self.world.at(at, self._post, parts)

    def _post(self, parts: list[Any]) -> None:
        self._carry(self.endpoint, self._way(self._hint), sum(size_of(part) for part in parts), parts)

    # -------------------------------------------------------------------------------------------------------- receiving

    def receive(self, _sender: int, _size: int, parts: list[Any]) -> None:
        """A frame of a replica has arrived."""
        self.world.at(self._spend(self._costs.client_frame_s), self._digest, parts)

    def _digest(self, parts: list[Any]) -> None:
        for part in parts:
            match part:
                case frames.Results():
                    for place, result in enumerate(decode_results(part.results, part.count)):
                        self._settle(part.first_sequence + place, result)
                case frames.ReadResults():
                    _, done = self._reading.pop(part.id)
                    (result,) = decode_results(part.results, 1)
                    done("ok", result)
                case frames.Opened():
                    if not self.session:
                        self.session = part.session
                        self._opened()
                case frames.Rejected():
                    self._rejected(part)
                case frames.ReadRejected():
                    self._hint = part.hint or 0
                    operation, done = self._reading.pop(part.id)
                    self.world.after(RETRY_S, self.issue, operation, done)
        if self._writes or self._reads:
            self._schedule()

    def _settle(self, sequence: int, result: Any) -> None:
        written = self._in_flight.pop(sequence, None)
        if written is None:
            return
        self._finish(sequence)
        if isinstance(result, Failed):
            written.done("fail", RefusedInDoubt(result.message))
        else:
            written.done("ok", result)

    def _finish(self, sequence: int) -> None:
        self._finished.add(sequence)
        while self._acknowledged + 1 in self._finished:
            self._acknowledged += 1
            self._finished.remove(self._acknowledged)

    def _rejected(self, part: frames.Rejected) -> None:
        self._hint = part.hint or 0
        if not part.session:
            self.world.after(RETRY_S, self._ask_for_session)
            return
        lost = [self._in_flight.pop(n) for n in range(part.first_sequence, part.first_sequence + part.count)
                if n in self._in_flight]  # fmt: skip
        if part.definite:
            self.world.after(RETRY_S, self._again, lost)
            return
        for written in lost:
            self._finish(written.sequence)
            written.done("unknown", RefusedInDoubt(part.reason))

    def _again(self, written: list[_Written]) -> None:
        self._writes = sorted([*written, *self._writes], key=lambda each: each.sequence)
        self._schedule()


def _stretches(writes: list[_Written], count_max: int) -> Iterator[tuple[int, int]]:
    """Consecutive sequences, at most so many together."""
    begin = 0
    for place in range(1, len(writes) + 1):
        ends = place == len(writes) or writes[place].sequence != writes[place - 1].sequence + 1
        if ends or place - begin >= count_max:
            yield begin, place
            begin = place


class Load:
    """Keeps a system under load as `bench.load.drive.Driver` does, in virtual time."""

    def __init__(self, client: Client, spec: GeneratorSpec, stream: Stream, notes: Notes, recorder: Recorder) -> None:
        self._client = client
        self._world = client.world
        self._spec = spec
        self._operations = iter(stream)
        self._notes = notes
        self._recorder = recorder
        self.outstanding = 0
        self._waiting: list[float] = []
        self._end = 0.0

    def start(self, start: float, end: float) -> None:
        """Begin at ``start``, issue nothing after ``end``."""
        self._end = end
        spec = self._spec
        if spec.load.loop == "closed":
            for _ in range(spec.in_flight):
                self._world.at(start, self._next)
            return
        self._arrivals = arrival_times(spec.rate, spec.load.arrivals, seed=spec.seed * 31 + spec.client, start=start)
        self._await_arrival()

    def _await_arrival(self) -> None:
        intended = next(self._arrivals)
        if intended < self._end:
            self._world.at(intended, self._arrive, intended)

    def _arrive(self, intended: float) -> None:
        self._notes.offer(intended)
        if self.outstanding < OPEN_LOOP_MAX // self._spec.clients:
            self._issue(next(self._operations), intended)
        else:
            self._waiting.append(intended)
        self._await_arrival()

    def _next(self) -> None:
        """The next operation of a closed loop's worker."""
        if self._world.now < self._end:
            self._issue(next(self._operations), None)

    def _issue(self, planned: Planned, intended: float | None) -> None:
        started = self._world.now
        recorded = planned.recorded and self._recorder.admit(started)
        self.outstanding += 1

        def done(outcome: str, answer: Any) -> None:
            now = self._world.now
            if recorded:
                self._recorder.add(planned.operation, started, now, outcome=outcome, answer=answer, intended=intended)
            if outcome == "ok" and planned.after is not None:
                self._follow(planned, started, intended)
            else:
                self._over(planned, started, intended, outcome, answer)

        self._client.issue(planned.operation, done)

    def _follow(self, planned: Planned, started: float, intended: float | None) -> None:
        """The write of an update."""
        invoked = self._world.now
        recorded = planned.recorded and self._recorder.admit(invoked)

        def done(outcome: str, answer: Any) -> None:
            if recorded:
                self._recorder.add(
                    planned.after, invoked, self._world.now, outcome=outcome, answer=answer, intended=intended
                )
            self._over(planned, started, intended, outcome, answer)

        self._client.issue(planned.after, done)

    def _over(self, planned: Planned, started: float, intended: float | None, outcome: str, answer: Any) -> None:
        now = self._world.now
        self.outstanding -= 1
        if outcome != "ok":
            self._notes.failure(now, answer, unknown=outcome == "unknown")
        elif intended is not None:
            self._notes.note_open(planned.kind, intended, started, now)
        else:
            self._notes.note(planned.kind, started, now)
        if intended is None:
            if outcome == "ok":
                self._next()
            else:
                self._world.after(PAUSE_AFTER_FAILURE_S, self._next)
        elif self._waiting:
            self._issue(next(self._operations), self._waiting.pop(0))
