"""One replica in a process of its own, for tests that fork, stop processes or run the program."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from tests.support.nodes import nodes

    async def run():
        async with nodes(Path(sys.argv[1]), 1) as cluster:
            await cluster.start()
            await cluster.ready()
            print(cluster.members[1][1], flush=True)
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(run())
    """
)


@contextmanager
def replica_alone(folder: Path) -> Iterator[str]:
    """The client address of a replica that lives as long as the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
