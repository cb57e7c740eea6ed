"""Drives a session engine by hand: what the client submits, what it sends, what the replica answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from replica.client.engine import Engine, Move
from replica.client.errors import SynodError
from replica.client.gathering import HOLD_S
from replica.kv.operations import AnyResult, Failed, Failure, Get, Got, KeyValue, Put, Written
from replica.kv.runs import encode_results
from replica.wire.typed import (
    WIRE_VERSION,
    ClientFrame,
    Closing,
    Limits,
    ReadResult,
    Rejection,
    RunResult,
    ServerFrame,
)


class Driver:
    """An engine, its time, and what became of its operations. Tokens are names: ``w1``, ``w2``, ``r1``."""

    def __init__(self, **options) -> None:
        nonces = itertools.count(1)
        self.abandoned: set[str] = set()
        self.engine: Engine[str] = Engine(
            nonce=lambda: b"nonce-%d" % next(nonces),
            jitter=lambda: 0.5,
            abandoned=lambda token: token in self.abandoned,
            **options,
        )
        self.now = 100.0
        self.outcomes: dict[str, Any] = {}
        self._numbers = itertools.count(1)

    # --- the caller

    def put(self, count: int = 1, *, timeout_s: float = 10.0, value: bytes = b"v") -> list[str]:
        tokens = []
        for _ in range(count):
            token = f"w{next(self._numbers)}"
            self.engine.tick(self.now)
            self.engine.write(Put(token.encode(), value), token, timeout_s)
            tokens.append(token)
        return tokens

    def get(self, count: int = 1, *, timeout_s: float = 10.0, consistency: int = 0) -> list[str]:
        tokens = []
        for _ in range(count):
            token = f"r{next(self._numbers)}"
            self.engine.tick(self.now)
            self.engine.read(Get(b"key"), token, timeout_s, consistency)
            tokens.append(token)
        return tokens

    # --- the stream

    def attach(self, *, session: int = 7, **welcome) -> bytes:
        """Make an attachment and welcome it; returns the nonce of the greeting."""
        hello = self.engine.attaching(self.now)
        granted = hello.session or (session if hello.nonce else 0)
        facts = {"exactly_once": True, "replica": 1} | welcome
        self.receive(welcome=ServerFrame.Welcome(wire_version=WIRE_VERSION, session=granted, **facts))
        return hello.nonce

    def lose_stream(self) -> None:
        self.engine.detached("the stream broke")
        self._collect()

    def sent(self) -> ClientFrame | None:
        frame = self.engine.next_frame(self.now)
        self._collect()
        return frame

    def frame(self) -> ClientFrame:
        """What is sent now; there must be something."""
        frame = self.sent()
        assert frame is not None
        return frame

    def send_though_unanswered(self) -> ClientFrame:
        """What is sent when nothing gathers any longer."""
        assert self.sent() is None
        self.now += HOLD_S
        return self.frame()

    def wish(self) -> Move:
        """What the engine wishes for; it must be something."""
        wish = self.engine.take_wish()
        assert wish is not None
        return wish

    def sent_runs(self) -> list[tuple[int, int]]:
        """(first sequence, count) of each run in everything that is sent now."""
        runs: list[tuple[int, int]] = []
        while (frame := self.sent()) is not None:
            runs += [(run.first_sequence, run.count) for run in frame.runs]
        return runs

    # --- the replica

    def receive(self, **parts) -> None:
        self.engine.received(ServerFrame(**parts), self.now)
        self._collect()

    def answer(self, first: int, count: int = 1, results: Iterable[AnyResult] | None = None) -> None:
        chosen = list(results) if results is not None else [Written(first + offset) for offset in range(count)]
        self.receive(results=[RunResult(first_sequence=first, count=count, results=encode_results(chosen))])

    def answer_read(self, number: int, results: Iterable[AnyResult]) -> None:
        self.receive(read_results=[ReadResult(id=number, results=encode_results(list(results)))])

    def reject(self, first: int, count: int, code: Any, *, definite: bool = True, leader: str = "") -> None:
        self.receive(
            rejections=[
                Rejection(first_sequence=first, count=count, code=code, definite=definite, leader_address=leader)
            ]
        )

    def reject_read(self, number: int, code: Any, *, leader: str = "") -> None:
        self.receive(rejections=[Rejection(read_id=number, code=code, definite=True, leader_address=leader)])

    def close(self, code: Any) -> None:
        self.receive(closing=Closing(code=code, message="closing"))

    # --- time

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.engine.expire(self.now, "nobody answers")
        self._collect()

    def _collect(self) -> None:
        for tokens, outcome in self.engine.take_settled():
            each: Sequence[Any] = [outcome] * len(tokens) if isinstance(outcome, SynodError) else outcome
            for token, result in zip(tokens, each, strict=True):
                if token is None:
                    continue
                assert token not in self.outcomes, f"{token} was settled twice"
                self.outcomes[token] = result


def found(value: bytes = b"v") -> Got:
    return Got(1, KeyValue(b"key", value, 1, 1, 1))


def no_room() -> Failed:
    """What a replica says of reads whose answers found no room beside others'."""
    return Failed(1, Failure.INVALID, "ask for less at once")


def operations_of(frame: ClientFrame) -> list[list]:
    """The operations of the frame's runs and reads, as plain lists."""
    encoded = [run.operations for run in frame.runs] + [read.operations for read in frame.reads]
    return [msgspec.msgpack.decode(operations) for operations in encoded]


def limits(**stated: int) -> Limits:
    return Limits(**stated)
