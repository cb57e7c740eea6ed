"""What a commit of the log costs: µs a commit and records a second, by records, size and durability.

``python -m bench.micro_log [--folder DIR] [--seconds 0.5] [--json]`` measures `LogEnvironment.commit` alone, on one
thread, appending as a protocol does and discarding behind itself so that the file stays small. The variants are
interleaved, because a disk changes its mind from one second to the next: compare within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from replica.consensus.interface import Configuration, Discard, Member, Put, Record, Write
from replica.storage.coordinator import Anchor
from replica.storage.folder import mint_identity
from replica.storage.log import Durability, LogEnvironment

DURABILITIES: Final[tuple[Durability, ...]] = ("sync", "none")
RECORDS: Final = (1, 16, 256)
SIZES: Final = (128, 4096, 65_536)
KEPT_RECORDS: Final = 2_048
"""Records left in the log behind the last commit; what is older is discarded, a few commits at a time."""


class Entry(Record, frozen=True, tag=1):
    """A record like those of a log protocol: a ballot and a value."""

    ballot: int
    value: bytes


class Result(msgspec.Struct, frozen=True):
    """One combination; times in µs."""

    durability: str
    records: int
    value_bytes: int
    commits: int
    median_us: float
    tail_us: float
    """The 95th percentile."""
    commits_per_s: float
    records_per_s: float
    megabytes_per_s: float


class Series:
    """Commits of one combination, to a log of their own."""

    def __init__(self, folder: Path, durability: Durability, records: int, value_bytes: int) -> None:
        path = folder / f"{durability}-{records}-{value_bytes}"
        path.mkdir()
        identity = mint_identity("bench", 1)
        LogEnvironment.create(path, identity, Anchor(Configuration(1, (Member(1),), "bench")))
        self._log = LogEnvironment(path, identity, durability=durability)
        self._durability = durability
        self._records = records
        self._value = os.urandom(value_bytes)
        self._next = 0
        self._first = 0
        self._seconds: list[float] = []

    def run(self, seconds: float) -> None:
        """Commit for that long."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self.commit()

    def commit(self) -> float:
        """Commit once; the seconds it took."""
        writes: list[Write] = [
            Put("log", number.to_bytes(8, "big"), Entry(1, self._value))
            for number in range(self._next, self._next + self._records)
        ]
        self._next += self._records
        if self._next - self._first > 2 * KEPT_RECORDS:
            first = self._next - KEPT_RECORDS
            writes.append(Discard("log", self._first.to_bytes(8, "big"), first.to_bytes(8, "big")))
            self._first = first
        began = time.perf_counter()
        self._log.commit((writes,))
        seconds = time.perf_counter() - began
        self._seconds.append(seconds)
        return seconds

    def finish(self) -> Result:
        """Close the log and judge."""
        self._log.close()
        times = sorted(self._seconds)
        total = sum(times)
        return Result(
            durability=self._durability,
            records=self._records,
            value_bytes=len(self._value),
            commits=len(times),
            median_us=round(times[len(times) // 2] * 1e6, 1),
            tail_us=round(times[int(len(times) * 0.95)] * 1e6, 1),
            commits_per_s=round(len(times) / total, 1),
            records_per_s=round(len(times) * self._records / total, 1),
            megabytes_per_s=round(len(times) * self._records * len(self._value) / total / 1e6, 1),
        )


def measure(folder: Path, *, seconds: float, rounds: int = 4) -> list[Result]:
    """All combinations, each for ``seconds`` in ``rounds`` turns."""
    series = [
        Series(folder, durability, records, size)
        for durability in DURABILITIES
        for records in RECORDS
        for size in SIZES
    ]
    for _ in range(rounds):
        for each in series:
            each.run(seconds / rounds)
    return [each.finish() for each in series]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, help="measure the disk below this folder (default: that of /tmp)")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each combination (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="synod-log-", dir=arguments.folder) as folder:
        results = measure(Path(folder), seconds=arguments.seconds)
    if not arguments.json:
        sys.stdout.write("durability  records  bytes  median µs  95 % µs  commits/s  records/s    MB/s\n")
    for result in results:
        if arguments.json:
            line = json.dumps(msgspec.to_builtins(result))
        else:
            line = (
                f"{result.durability:<10}  {result.records:>7}  {result.value_bytes:>5}  {result.median_us:>9.1f}"
                f"  {result.tail_us:>7.0f}  {result.commits_per_s:>9.0f}  {result.records_per_s:>9.0f}"
                f"  {result.megabytes_per_s:>6.0f}"
            )
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
