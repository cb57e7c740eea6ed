"""One replica within the process, as ``memory:`` and ``file:PATH`` give it to the client."""

import asyncio
import os

import pytest

from replica.client.errors import InvalidArgument
from replica.client.port import AttachmentLost, PortOptions
from replica.kv import operations as kv
from replica.kv import runs
from replica.node.embedded import MEMORY_LOG_POSITIONS_MAX, EmbeddedPort, MemoryReplica, file_port, memory_port
from replica.wire import typed as wire

OPTIONS = PortOptions()


def hello() -> wire.Hello:
    """The greeting of a client that has not been here."""
    return wire.Hello(wire_version=wire.WIRE_VERSION, nonce=os.urandom(16))


async def welcome_of(port: EmbeddedPort, greeting: wire.Hello | None = None):
    attachment = await port.attach(port.endpoints[0], greeting or hello())
    frame = await attachment.receive()
    return attachment, frame.welcome


async def put(attachment, sequence: int, key: bytes, value: bytes) -> int:
    operations = runs.encode_operations([kv.Put(key, value)])
    run = wire.Run(first_sequence=sequence, count=1, acknowledged=sequence - 1, operations=operations)
    await attachment.send(wire.ClientFrame(runs=[run]))
    (result,) = (await attachment.receive()).results
    (written,) = runs.decode_results(result.results, 1)
    assert isinstance(written, kv.Written), written
    return written.revision


async def get(attachment, key: bytes) -> bytes | None:
    read = wire.Read(id=1, count=1, operations=runs.encode_operations([kv.Get(key)]))
    await attachment.send(wire.ClientFrame(reads=[read]))
    (result,) = (await attachment.receive()).read_results
    (got,) = runs.decode_results(result.results, 1)
    assert isinstance(got, kv.Got), got
    return None if got.item is None else got.item.value


async def test_a_store_in_memory_begins_empty_and_is_gone_with_its_port():
    for _ in range(2):
        port = memory_port("memory:", OPTIONS)
        attachment, welcome = await welcome_of(port)
        assert (welcome.protocol, welcome.exactly_once) == ("null", True)
        assert await get(attachment, b"key") is None
        assert await put(attachment, 1, b"key", b"value") == 1
        assert await get(attachment, b"key") == b"value"
        status = await port.status(port.endpoints[0])
        assert (status.ready, status.revision, status.durability) == (True, 1, "none")
        await port.close()
        with pytest.raises(AttachmentLost):
            await port.attach(port.endpoints[0], hello())
        with pytest.raises(AttachmentLost):
            await attachment.send(wire.ClientFrame())


async def test_a_store_in_a_file_is_there_again(tmp_path):
    url = f"file:{tmp_path}/store"
    session = 0
    for number in range(3):
        port = file_port(url, OPTIONS)
        again = wire.Hello(wire_version=wire.WIRE_VERSION, session=session) if session else hello()
        attachment, welcome = await welcome_of(port, again)
        session = welcome.session
        assert await put(attachment, number + 1, b"key%d" % number, b"value") == number + 1
        for earlier in range(number + 1):
            assert await get(attachment, b"key%d" % earlier) == b"value"
        await port.close()


async def test_a_file_that_is_open_already_is_not_opened_twice(tmp_path):
    first, second = (file_port(f"file:{tmp_path}/store", OPTIONS) for _ in range(2))
    await welcome_of(first)
    with pytest.raises(AttachmentLost, match="in use"):
        await second.attach(second.endpoints[0], hello())
    await first.close()
    await welcome_of(second)
    await second.close()


async def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    port = file_port(f"file:{tmp_path}", OPTIONS)
    with pytest.raises(AttachmentLost, match="not empty"):
        await port.attach(port.endpoints[0], hello())
    assert sorted(os.listdir(tmp_path)) == ["notes.txt"]


async def test_the_log_of_a_store_in_memory_does_not_grow_without_end():
    port = memory_port("memory:", OPTIONS)
    attachment, _ = await welcome_of(port)
    for number in range(2 * MEMORY_LOG_POSITIONS_MAX + 10):
        await put(attachment, number + 1, b"key", b"%d" % number)
    replica = port._replica
    assert isinstance(replica, MemoryReplica)
    frontier = replica.coordinator.anchor.frontier
    assert isinstance(frontier, int)
    assert frontier >= MEMORY_LOG_POSITIONS_MAX
    assert await get(attachment, b"key") == b"%d" % (2 * MEMORY_LOG_POSITIONS_MAX + 9)
    await port.close()


async def test_several_streams_share_the_store():
    port = memory_port("memory:", OPTIONS)
    first, _ = await welcome_of(port)
    second, _ = await welcome_of(port)
    await put(first, 1, b"key", b"of the first")
    assert await get(second, b"key") == b"of the first"
    await first.close()
    assert await put(second, 1, b"key", b"of the second") == 2
    await port.close()


def test_a_port_belongs_to_the_loop_that_used_it_first():
    port = memory_port("memory:", OPTIONS)
    asyncio.run(welcome_of(port))
    with pytest.raises(AttachmentLost, match="connect again"):
        asyncio.run(welcome_of(port))


@pytest.mark.parametrize("url", ["file:", "file:?durability=none", "file:/x?durability=maybe", "file:/x?colour=red"])
def test_a_url_that_makes_no_sense_is_refused(url):
    with pytest.raises(InvalidArgument, match="file:PATH"):
        file_port(url, OPTIONS)
    with pytest.raises(InvalidArgument, match="nothing follows"):
        memory_port("memory:name", OPTIONS)
