"""What was once written is read for ever: golden bytes of every frame and durable record."""

from typing import Any

import msgspec
import pytest

from tests.golden.examples import Golden, everything
from tests.golden.file import load

KINDS = {golden.name: golden for golden in everything()}
KNOWN = load()


def test_every_kind_is_written_down_and_none_has_gone() -> None:
    assert sorted(KINDS) == sorted(KNOWN), "run: python -m tests.golden add (a kind that went must still be read)"


@pytest.mark.parametrize("name", sorted(KINDS))
def test_this_release_writes_the_newest_bytes_and_reads_all(name: str) -> None:
    golden, versions = KINDS[name], KNOWN.get(name, [])
    assert versions, "run: python -m tests.golden add"
    for version in versions:
        golden.read(bytes.fromhex(version))
    assert golden.data.hex() == versions[-1], (
        "the bytes have changed: if a field was added at the end, with a default, run python -m tests.golden add; "
        "anything else breaks clusters that are upgraded replica by replica"
    )
    assert golden.read(golden.data) == golden.read(bytes.fromhex(versions[-1]))


def optional_at_the_end(kind: Any) -> int:
    """How many fields at the end of a struct have defaults: those that an older release may not have known."""
    count = 0
    for field in reversed(msgspec.structs.fields(kind)):
        if field.required:
            break
        count += 1
    return count


ARRAYS = [each for each in KINDS.values() if each.kind is not None and each.kind.__struct_config__.array_like]


@pytest.mark.parametrize("golden", ARRAYS, ids=[each.name for each in ARRAYS])
def test_a_record_that_lacks_its_last_fields_is_read_with_their_defaults(golden: Golden) -> None:
    """As an older release would have written it."""
    whole = msgspec.msgpack.decode(golden.data)
    for missing in range(1, optional_at_the_end(golden.kind) + 1):
        read = golden.read(msgspec.msgpack.encode(whole[:-missing]))
        for field in msgspec.structs.fields(golden.kind)[-missing:]:
            default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            assert getattr(read, field.name) == default


@pytest.mark.parametrize("golden", ARRAYS, ids=[each.name for each in ARRAYS])
def test_a_record_of_a_later_release_is_read_without_what_it_adds(golden: Golden) -> None:
    whole = msgspec.msgpack.decode(golden.data)
    assert golden.read(msgspec.msgpack.encode([*whole, "of a later release"])) == golden.read(golden.data)
