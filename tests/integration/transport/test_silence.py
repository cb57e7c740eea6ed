"""A connection that dies without a word: a cable pulled, a machine gone."""

import asyncio

import pytest

from replica.transport import LinkDown, PeerArrived
from tests.support.transports import Party, eventually, running, ups


class Cable:
    """Carries connections to a port, until it is pulled: from then on bytes vanish and nobody is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.connections = 0
        self.pulled = False

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0)  # what was accepted last is carried from the next pass of the event loop on
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def pull(self) -> None:
        """Lose whatever is said on the connections that exist; later ones are carried."""
        self.pulled = True

    async def _carry(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        first = self.connections == 1
        ends = [back]
        try:
            there, forth = await asyncio.open_connection("127.0.0.1", self._port)
            ends.append(forth)
            await asyncio.gather(self._copy(here, forth, first), self._copy(there, back, first))
        finally:
            for writer in ends:
                writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, first: bool) -> None:
        while data := await source.read(65536):
            if not (first and self.pulled):
                sink.write(data)
        # The end of a dead connection reaches the other side as little as anything else.
        if first and self.pulled:
            await asyncio.Event().wait()
        sink.close()


@pytest.fixture
def impatient(monkeypatch):
    """Silence is noticed after fractions of a second."""
    monkeypatch.setattr("replica.transport.channels.KEEPALIVE_INTERVAL_S", 0.2)
    monkeypatch.setattr("replica.transport.channels.KEEPALIVE_TIMEOUT_S", 0.2)


async def test_a_silent_connection_is_given_up_and_replaced(impatient):
    one, two = Party(1), Party(2)
    async with running(two, connected=False), running(one, connected=False):
        cable = Cable(two.transport.port)
        async with cable as address:
            one.transport.set_peers({2: address})
            await one.host.until(lambda: one.link_up(2))
            cable.pull()
            one.transport.send((2,), b"into the void")
            await one.host.until(lambda: one.host.events_of(LinkDown))
            await one.host.until(lambda: len(ups(one, 2)) == 2)
            one.transport.send((2,), b"over the new one")
            await two.host.until(lambda: two.host.messages)
            assert two.host.messages == [b"over the new one"]
            # The receiving side has never heard of the end of the first one; the second has replaced it.
            assert len(two.host.events_of(PeerArrived)) == 2
            one.transport.set_peers({})
            await eventually(lambda: not one.transport.peers())
