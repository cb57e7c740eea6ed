"""Clients of the simulated cluster: sessions with pipelined runs, retries, timeouts, and a record of what they saw.

A client behaves as the client library does. It numbers its operations in a session, keeps several runs outstanding,
sends the same sequences again (to another replica, if it must) until it has their results, and tells the cluster
up to where it holds them. When it has waited too long it gives its session up, and the outcome of whatever was
outstanding is *unknown*. A definite refusal of a run that was sent but once may be taken at its word: that operation
has failed, and must never be found among the decided ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from replica.consensus.interface import ReplicaId
from replica.kv import operations as kv
from replica.kv.objects.abilities import EVERYTHING, Abilities
from replica.kv.runs import decode_results, encode_operations
from replica.simulation import frames
from replica.simulation.judge import Judge
from replica.simulation.network import Endpoint, Network
from replica.simulation.seen import FAIL, OK, UNKNOWN, Seen
from replica.simulation.violation import Violation
from replica.simulation.world import World

PATIENCE_FACTOR_MAX: Final = 16.0
"""How much longer than the first attempt a client may come to wait for an answer."""

PATIENCE_FACTOR_ENDURING: Final = 4.0
"""The same where only one replica may reach a quorum: each client has to come upon it in the time for liveness."""


FAILED_SHARE_MAX: Final = 0.25
"""Share of its operations that a client lets go because a refusal was definite."""


class ClientProfile(msgspec.Struct, frozen=True, kw_only=True):
    """How clients behave; times in seconds."""

    operations: int = 100
    """How many operations a client issues while there is chaos."""
    window: int = 4
    """Runs outstanding at once."""
    run_operations: int = 4
    """At most so many operations in a run."""
    think_s: float = 0.0
    """Mean of the pause before the next run."""
    attempt_s: float = 0.3
    """Without an answer for so long, another replica is asked."""
    backoff_s: float = 0.02
    give_up_s: float = 5.0
    """After so long the session is given up."""
    keys: int = 12
    read_index: float = 0.2
    """Share of reads outside the log, if the protocol offers it."""
    stale: float = 0.05
    believe: float = 0.5
    """How often a definite refusal is taken as the end of an operation."""
    leases: float = 0.06
    """Share of operations that have to do with leases."""
    weights: tuple[int, ...] = (50, 15, 10, 5, 5, 10, 5, 2)
    """Of put, get, add, delete, range, transaction, conditional put, delete range."""


class _Run:
    """Operations on their way. ``open`` are those without an answer, by sequence."""

    __slots__ = ("attempts", "count", "encoded", "first", "open", "refused", "seen", "sent")

    def __init__(self, first: int, seen: list[Seen], encoded: bytes) -> None:
        self.first = first
        self.seen = seen
        self.count = len(seen)
        self.encoded = encoded
        self.attempts = 0
        self.refused = False
        self.sent = 0.0
        self.open = {first + offset: each for offset, each in enumerate(seen)}


def _stretches(numbered: dict[int, Seen]) -> list[tuple[int, list[Seen]]]:
    """Cut where a sequence is missing; the first sequence of each stretch, and what it holds."""
    stretches: list[tuple[int, list[Seen]]] = []
    for sequence in sorted(numbered):
        if not stretches or sequence != stretches[-1][0] + len(stretches[-1][1]):
            stretches.append((sequence, []))
        stretches[-1][1].append(numbered[sequence])
    return stretches


class Client:
    """One client. It never stops by itself: `operations` may be raised at any time."""

    def __init__(
        self,
        world: World,
        network: Network,
        judge: Judge,
        *,
        number: int,
        profile: ClientProfile,
        directory: Callable[[], Sequence[ReplicaId]],
        history: list[Seen],
        around_the_log: bool,
        abilities: Abilities = EVERYTHING,
        exactly_once: bool = True,
        stale: bool = True,
    ) -> None:
        """``directory`` names the replicas that may be asked; the rest says what the protocol offers: reads outside the
        log, operations, retries that take effect once, reads of what a replica has applied."""
        self._world = world
        self._network = network
        self._judge = judge
        self.number = number
        self.endpoint: Endpoint = -number
        self.profile = profile
        self._directory = directory
        self._history = history
        self._around_the_log = around_the_log
        self._abilities = abilities
        self._exactly_once = exactly_once
        self._stale = stale
        self._values: dict[bytes, bytes] = {}
        self._draw: random.Random = world.generator(f"client {number}")
        self.budget = profile.operations
        """Operations still to be issued."""
        self.succeeded = 0
        self.issued = 0
        """Operations issued so far."""
        self._think_s = profile.think_s
        self._session = 0
        self._nonce = b""
        self._openings = 0
        self._opening_since = 0.0
        self._next_sequence = 1
        self._acknowledged = 0
        self._finished: set[int] = set()
        self._runs: dict[int, _Run] = {}
        self._failed = 0
        self._reads: dict[int, tuple[Seen, float]] = {}
        self._next_read = 1
        self._target: ReplicaId = 0
        self._asked: set[ReplicaId] = set()
        """Replicas that were asked in vain since the last answer."""
        self._progress = 0.0
        self._patience_s = profile.attempt_s
        self._patience_factor_max = PATIENCE_FACTOR_MAX
        self._revisions: dict[bytes, int] = {}
        self._leases: dict[int, int] = {}
        """Leases that this client was told of, with the last renewal that it knows."""
        self._pumping = False
        self._resending = False
        network.register(self.endpoint, self._receive)

    @property
    def outstanding(self) -> int:
        """Operations without an outcome."""
        return sum(len(run.open) for run in self._runs.values()) + len(self._reads)

    @property
    def idle(self) -> bool:
        """Is there nothing left to do?"""
        return self.budget <= 0 and not self._runs and not self._reads

    @property
    def target(self) -> ReplicaId:
        """The replica that this client presently asks."""
        return self._target

    def start(self) -> None:
        """Begin."""
        self._choose(None)
        self._progress = self._world.now
        self._open()
        self._world.after(self.profile.attempt_s, self._tick)

    def crash(self) -> None:
        """The client forgets its session with everything outstanding, and begins anew."""
        self._abandon()
        self._choose(None)
        self._open()

    def move(self) -> None:
        """Turn to another replica, though nothing was wrong with the present one."""
        self._choose(None)
        self._resend_all()

    # ------------------------------------------------------------------------------------------------------- sessions

    def _open(self) -> None:
        self._session = 0
        self._openings += 1
        self._nonce = b"%d/%d" % (self.number, self._openings)
        self._opening_since = self._world.now
        self._next_sequence = 1
        self._acknowledged = 0
        self._finished.clear()
        self._send(frames.OpenSession(self._nonce))

    def _abandon(self) -> None:
        for run in self._runs.values():
            for seen in run.open.values():
                self._close(seen, UNKNOWN)
        for seen, _ in self._reads.values():
            self._close(seen, UNKNOWN)
        self._runs.clear()
        self._reads.clear()
        if self._session:
            self._world.count("sessions given up")

    def _close(self, seen: Seen, outcome: str, result: kv.AnyResult | None = None) -> None:
        seen.outcome = outcome
        seen.completed = self._world.now
        seen.result = result
        if outcome == OK:
            self.succeeded += 1
        self._world.trace.note(self._world.now, outcome, self.endpoint, b"%d" % seen.number)

    # --------------------------------------------------------------------------------------------------------- sending

    def _choose(self, hint: ReplicaId | None) -> None:
        replicas = self._directory()
        if hint is not None and hint in replicas and hint != self._target:
            self._target = hint
            return
        # Nobody is asked twice before everybody was: else a client might go to and fro between two that are down.
        self._asked.add(self._target)
        fresh = [replica for replica in replicas if replica not in self._asked]
        if not fresh:
            self._asked = {self._target}
            fresh = [replica for replica in replicas if replica != self._target] or list(replicas)
        self._target = fresh[self._draw.randrange(len(fresh))]

    def _send(self, frame: frames.ClientFrame) -> None:
        self._world.trace.note(self._world.now, type(frame).__name__, self.endpoint)
        self._network.send(self.endpoint, self._target, frame)

    def _send_run(self, run: _Run) -> None:
        run.attempts += 1
        if run.attempts == 2:
            self._world.count("runs retried")
        run.refused = False
        run.sent = self._world.now
        if len(run.open) == run.count:
            self._send(frames.Run(self._session, run.first, run.count, self._acknowledged, run.encoded))
            return
        # What was answered, or given up for certain, must not be asked for again.
        for first, stretch in _stretches(run.open):
            encoded = encode_operations([seen.operation for seen in stretch])
            self._send(frames.Run(self._session, first, len(stretch), self._acknowledged, encoded))

    def _resend_all(self, *, overdue: bool = False) -> None:
        """Everything outstanding goes to the present target, in order. What can't be asked again is given up if it is
        ``overdue``, and otherwise waits for the answer of whoever was asked."""
        self._resending = False
        if self._session == 0:
            self._send(frames.OpenSession(self._nonce))
            return
        for run in list(self._runs.values()):
            if self._may_repeat(run):
                self._send_run(run)
            elif overdue:
                self._give_up(run)
        for number, (seen, _) in list(self._reads.items()):
            self._send_read(number, seen)

    def _may_repeat(self, run: _Run) -> bool:
        """May the run be sent again? Where a retry may take effect twice, only if nothing of it can have taken any."""
        return self._exactly_once or run.refused or all(isinstance(each.operation, kv.Get) for each in run.seen)

    def _give_up(self, run: _Run) -> None:
        """Nobody will ever know what becomes of the run."""
        del self._runs[run.first]
        self._world.count("operations given up", len(run.open))
        for sequence, seen in run.open.items():
            self._close(seen, UNKNOWN)
            self._finish(sequence)

    def _resend_soon(self) -> None:
        if not self._resending:
            self._resending = True
            self._world.after(self.profile.backoff_s * (0.5 + self._draw.random()), self._resend_all)

    def _tick(self) -> None:
        """Look after what takes too long."""
        now = self._world.now
        profile = self.profile
        oldest = min(
            (run.seen[0].invoked for run in self._runs.values()),
            default=now if self._session else self._opening_since,
        )
        if now - oldest > profile.give_up_s:
            self._abandon()
            self._choose(None)
            self._open()
            self._progress = now
        elif now - self._progress > self._patience_s and (self._session == 0 or self._runs or self._reads):
            # Every repetition takes room in the log: clients that do not become more patient keep a slow cluster busy
            # with nothing else.
            self._patience_s = min(2 * self._patience_s, self._patience_factor_max * profile.attempt_s)
            self._progress = now
            self._choose(None)
            self._resend_all(overdue=True)
        for number, (seen, asked) in list(self._reads.items()):
            if now - asked > profile.give_up_s:
                del self._reads[number]
                self._close(seen, UNKNOWN)
        self._pump()
        self._world.after(profile.attempt_s * (0.5 + 0.5 * self._draw.random()), self._tick)

    def hurry(self, operations: int, *, patience: float = PATIENCE_FACTOR_MAX) -> None:
        """Issue so many operations (none, if that is negative) without a pause between them, and then no more.

        ``patience``: how much longer than the first an attempt may come to be, from now on.
        """
        self._patience_factor_max = patience
        self.budget = max(0, operations)
        self._think_s = 0.0
        self._patience_s = self.profile.attempt_s
        self._pump()

    def _pump(self) -> None:
        self._pumping = False
        if not self._session:
            return
        if not self._runs:
            self._patience_s = self.profile.attempt_s
        while self.budget > 0 and len(self._runs) + len(self._reads) < self.profile.window:
            self._issue()
            if self._think_s:
                self._pump_later()
                return

    def _pump_later(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._world.after(self._draw.expovariate(1.0) * self._think_s, self._pump)

    def _issue(self) -> None:
        draw = self._draw
        kind = draw.random()
        if kind < self.profile.read_index + self.profile.stale and self._stale:
            consistency = "stale" if kind < self.profile.stale or not self._around_the_log else "read-index"
            operation = self._a_read()
            seen = self._invoke(operation, consistency)
            number = self._next_read
            self._next_read += 1
            self._reads[number] = (seen, self._world.now)
            self._send_read(number, seen)
            return
        count = min(self.budget, draw.randrange(1, self.profile.run_operations + 1))
        if not self._exactly_once:
            count = 1  # so that one operation that cannot be repeated does not take others with it
        run = _Run(self._next_sequence, [self._invoke(self._an_operation(), "log") for _ in range(count)], b"")
        run.encoded = encode_operations([seen.operation for seen in run.seen])
        for offset, seen in enumerate(run.seen):
            seen.session = self._session
            seen.sequence = run.first + offset
        self._next_sequence += count
        self._runs[run.first] = run
        self._send_run(run)

    def _send_read(self, number: int, seen: Seen) -> None:
        stale = seen.consistency == "stale"
        self._send(frames.Read(number, 1, encode_operations([seen.operation]), stale))

    def _invoke(self, operation: kv.AnyOperation, consistency: str) -> Seen:
        self.budget -= 1
        self.issued += 1
        seen = Seen(self.number, self.issued, operation, self._world.now, consistency)
        self._history.append(seen)
        self._judge.sent(operation)
        if self._world.trace.readable:
            self._world.trace.say(self._world.now, f"c{self.number}", f"#{self.issued} {operation!r}")
        return seen

    # ------------------------------------------------------------------------------------------------------ operations

    def _key(self) -> bytes:
        return b"k%02d" % self._draw.randrange(self.profile.keys)

    def _value(self) -> bytes:
        return b"%d.%d" % (self.number, self.issued + 1)

    def _a_read(self) -> kv.Get | kv.Range:
        if self._draw.random() < 0.8:
            return kv.Get(self._key())
        first, last = sorted((self._key(), self._key()))
        return kv.Range(first, last + b"\x00", limit=self._draw.choice((0, 0, 3)))

    def _an_operation(self) -> kv.AnyOperation:
        operation = self._any_operation()
        if self._abilities is EVERYTHING or self._abilities.refusal(operation) is None:
            return operation
        match operation:
            case kv.Delete(key=key):
                return kv.Delete(key)
            case kv.DeleteRange(first=key) | kv.Range(first=key):
                return kv.Get(key)
            case kv.Transaction(conditions=(kv.Compare(key=key), *_)) if self._abilities.compare_and_set:
                # On one key alone.
                return kv.Transaction(operation.conditions, (kv.Put(key, self._value()), kv.Get(key)), (kv.Get(key),))
            case _:
                return kv.Put(self._key(), self._value())

    def _any_operation(self) -> kv.AnyOperation:
        draw = self._draw
        if draw.random() < self.profile.leases:
            return self._about_leases()
        (kind,) = draw.choices(range(8), self.profile.weights)
        if kind == 0:
            return kv.Put(self._key(), self._value(), previous=draw.random() < 0.2)
        if kind == 1:
            return kv.Get(self._key())
        if kind == 2:
            return kv.Add(b"counter%d" % draw.randrange(3), draw.randrange(1, 10))
        if kind == 3:
            return kv.Delete(self._key(), previous=True)
        if kind == 4:
            return self._a_read()
        if kind == 5:
            return self._a_transaction()
        if kind == 6:
            key = self._key()
            if not self._abilities.total_order:
                return self._swap(key)
            return kv.Put(key, self._value(), if_revision=self._revisions.get(key, 0))
        first, last = sorted((self._key(), self._key()))
        return kv.DeleteRange(first, last)

    def _about_leases(self) -> kv.AnyOperation:
        """Leases begin and end, are renewed and expire: by a proposal that names a renewal, the last one or not."""
        draw = self._draw
        known = sorted(self._leases)
        # Ids are small numbers, so one that was made up may well be another client's, or no longer there.
        lease = draw.choice(known) if known and draw.random() < 0.8 else draw.randrange(1, 20)
        kind = draw.randrange(10)
        if kind < 2 or not known:
            return kv.GrantLease(draw.randrange(1, 10_000))
        if kind < 6:
            return kv.Put(self._key(), self._value(), lease)
        if kind < 7:
            return kv.KeepAlive(lease)
        if kind < 8:
            return kv.DescribeLease(lease, names=True)
        return kv.RevokeLease(lease, self._leases.get(lease, 1) if kind == 8 else None)

    def _swap(self, key: bytes) -> kv.Transaction:
        """A conditional put, in words that do not speak of revisions."""
        condition = kv.Compare(key, "value", "=", self._values[key]) if key in self._values else None
        return kv.Transaction((condition or kv.Compare(key, "exists", "=", 0),), (kv.Put(key, self._value()),))

    def _a_transaction(self) -> kv.Transaction:
        one, other = self._key(), self._key()
        known = self._revisions.get(one, 0)
        condition: kv.Condition
        if self._draw.random() < 0.5:
            condition = kv.Compare(one, "mod", "=", known)
            if not self._abilities.total_order:
                condition = kv.Compare(one, "value", "=", self._values.get(one, b""))
        else:
            condition = kv.Compare(one, "exists", "=", 1)
        return kv.Transaction(
            (condition,),
            (kv.Put(one, self._value()), kv.Add(b"transfers", 1), kv.Get(other)),
            (kv.Get(one), kv.Put(other, self._value() + b"!")),
        )

    # --------------------------------------------------------------------------------------------------------- answers

    def _receive(self, sender: Endpoint, frame: Any) -> None:
        self._asked.clear()
        if isinstance(frame, frames.Results):
            self._results(frame)
        elif isinstance(frame, frames.ReadResults):
            self._read_results(frame)
        elif isinstance(frame, frames.Opened):
            self._opened(frame)
        elif isinstance(frame, frames.Rejected):
            self._rejected(sender, frame)
        elif isinstance(frame, frames.ReadRejected) and frame.id in self._reads:
            if sender == self._target:
                self._choose(frame.hint)
            self._resend_soon()

    def _opened(self, frame: frames.Opened) -> None:
        self._judge.opened(frame.nonce, frame.session)
        if frame.nonce != self._nonce or self._session:
            return
        self._session = frame.session
        self._progress = self._world.now
        self._pump()

    def _results(self, frame: frames.Results) -> None:
        if frame.session != self._session:
            return
        run = self._run_of(frame.first_sequence)
        if run is None:
            return
        results = decode_results(frame.results, frame.count)
        if any(isinstance(result, kv.Failed) and result.code == kv.Failure.SESSION_UNKNOWN for result in results):
            self._judge.forgotten(self._session)
            self._world.count("sessions evicted")
            self._abandon()
            self._open()
            return
        self._progress = self._world.now
        for offset, result in enumerate(results):
            sequence = frame.first_sequence + offset
            seen = run.open.pop(sequence, None)
            if seen is None:
                continue
            if isinstance(result, kv.Failed) and result.code in {kv.Failure.RESULT_FORGOTTEN, kv.Failure.WINDOW}:
                raise Violation("exactly once", f"operation {self._session}:{sequence} was answered {result!r}")
            self._judge.acknowledged(seen, result)
            self._close(seen, OK, result)
            self._learn(seen.operation, result)
            self._finish(sequence)
        if not run.open:
            del self._runs[run.first]
        if self._think_s:
            self._pump_later()
        else:
            self._pump()

    def _run_of(self, sequence: int) -> _Run | None:
        """The outstanding run that holds a sequence."""
        run = self._runs.get(sequence)
        if run is None:
            run = next((each for each in self._runs.values() if sequence in each.open), None)
        return run

    def _learn(self, operation: kv.AnyOperation, result: kv.AnyResult) -> None:
        if isinstance(result, kv.Written) and isinstance(operation, kv.Put):
            self._revisions[operation.key] = result.revision
            self._values[operation.key] = operation.value
        elif isinstance(result, kv.Got) and isinstance(operation, kv.Get):
            self._revisions[operation.key] = 0 if result.item is None else result.item.mod_revision
            if result.item is not None:
                self._values[operation.key] = result.item.value
        elif isinstance(result, kv.LeaseGranted):
            self._leases[result.lease] = result.renewal
        elif isinstance(result, kv.LeaseRevoked) and isinstance(operation, kv.RevokeLease):
            self._leases.pop(operation.lease, None)

    def _finish(self, sequence: int) -> None:
        self._finished.add(sequence)
        while self._acknowledged + 1 in self._finished:
            self._acknowledged += 1
            self._finished.discard(self._acknowledged)

    def _read_results(self, frame: frames.ReadResults) -> None:
        waiting = self._reads.pop(frame.id, None)
        if waiting is None:
            return
        seen, _ = waiting
        self._progress = self._world.now
        (result,) = decode_results(frame.results, 1)
        self._judge.read(seen.operation, result)
        self._close(seen, OK, result)
        self._learn(seen.operation, result)
        self._pump()

    def _rejected(self, sender: Endpoint, frame: frames.Rejected) -> None:
        if frame.session == 0:
            if frame.nonce == self._nonce and not self._session:
                if sender == self._target:
                    self._choose(frame.hint)
                self._resend_soon()
            return
        run = self._run_of(frame.first_sequence)
        if frame.session != self._session or run is None:
            return
        refused = {
            sequence: run.open[sequence]
            for sequence in range(frame.first_sequence, frame.first_sequence + frame.count)
            if sequence in run.open
        }
        self._world.count("definite refusals" if frame.definite else "indefinite refusals")
        run.refused = frame.definite
        if (
            frame.definite
            and run.attempts == 1
            and self._failed < FAILED_SHARE_MAX * self.issued
            and self._draw.random() < self.profile.believe
        ):
            self._failed += len(refused)
            self._world.count("operations failed for certain", len(refused))
            for sequence, seen in refused.items():
                del run.open[sequence]
                self._close(seen, FAIL)
                self._finish(sequence)
            if not run.open:
                del self._runs[run.first]
        if sender == self._target:
            self._choose(frame.hint)
        self._resend_soon()

    def read_through(self, replica: ReplicaId, key: bytes) -> None:
        """Read ``key`` by way of ``replica``, for a start; the client must be idle."""
        self._target = replica
        self.budget += 1
        run = _Run(self._next_sequence, [self._invoke(kv.Get(key), "log")], encode_operations([kv.Get(key)]))
        run.seen[0].session, run.seen[0].sequence = self._session, run.first
        self._next_sequence += 1
        self._runs[run.first] = run
        self._send_run(run)
