"""Tokens: what a file of them may say, and what each of them allows."""

import os
import time
from pathlib import Path

import pytest

from replica.kv import operations as kv
from replica.node.access import Denied, Grant, Role, TokenFileError, Tokens, digest_of_token
from replica.node.callers import Caller
from replica.wire import typed as wire


def entry(token: str, **fields: str) -> str:
    """An entry of the file, as TOML."""
    settings = {"name": '"app"', "sha256": f'"{digest_of_token(token)}"', "role": '"write"', **fields}
    return "[[tokens]]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call."""
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def test_a_token_is_known_by_its_hash_alone(path: Path) -> None:
    path.write_text(entry("secret", prefixes='["runs/"]'))
    grant = Tokens(str(path)).grant_of(bearer("secret"))
    assert (grant.name, grant.role, grant.prefixes) == ("app", Role.WRITE, (b"runs/",))
    assert "secret" not in path.read_text()


@pytest.mark.parametrize("metadata", [(), bearer("other"), bearer(""), (("user-agent", "x"),)])
def test_whoever_shows_no_known_token_is_not_known(path: Path, metadata: tuple[tuple[str, str], ...]) -> None:
    path.write_text(entry("secret"))
    with pytest.raises(Denied) as refused:
        Tokens(str(path)).grant_of(metadata)
    assert refused.value.code == wire.Code.UNAUTHENTICATED


def test_a_token_ends_when_it_expires(path: Path) -> None:
    path.write_text(entry("secret", expires="2027-01-01T00:00:00Z"))
    now = 1_798_761_599.0  # a second before
    tokens = Tokens(str(path), wall=lambda: now)
    grant = tokens.grant_of(bearer("secret"))
    tokens.check(grant)
    now += 1
    with pytest.raises(Denied, match="expired at"):
        tokens.check(grant)
    with pytest.raises(Denied, match="expired at"):
        tokens.grant_of(bearer("secret"))


def test_a_token_that_is_removed_from_the_file_ends_and_a_broken_file_changes_nothing(path: Path) -> None:
    path.write_text(entry("secret"))
    now = 0.0
    tokens = Tokens(str(path), clock=lambda: now)
    grant = tokens.grant_of(bearer("secret"))
    path.write_text("[[tokens]]\nname = ")
    now += 5
    tokens.check(grant)
    path.write_text(entry("another"))
    os.utime(path, (time.time() + 10, time.time() + 10))
    now += 5
    with pytest.raises(Denied, match="withdrawn"):
        tokens.check(grant)
    assert tokens.grant_of(bearer("another")).name == "app"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("tokens = 3", "no file of tokens"),
        ("[[tokens]", "no file of tokens"),
        (entry("a", role='"root"'), "not one of read, write, admin"),
        (entry("a", sha256='"abc"'), "not a SHA-256"),
        (entry("a", colour='"red"'), "colour"),
        (entry("a") + entry("a"), "are the same"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_a_line(path: Path, text: str, what: str) -> None:
    path.write_text(text)
    with pytest.raises(TokenFileError, match=what) as refused:
        Tokens(str(path))
    assert "\n" not in str(refused.value)


READER = Grant(name="r", role=Role.READ)
WRITER = Grant(name="w", role=Role.WRITE)
BOUND = Grant(name="b", role=Role.WRITE, prefixes=(b"runs/", b"m\xff"))


@pytest.mark.parametrize(
    ("grant", "operation"),
    [
        (READER, kv.Get(b"k")),
        (READER, kv.Range(b"", b"")),
        (READER, kv.Transaction((), (kv.Get(b"k"),))),
        (WRITER, kv.Put(b"k", b"v")),
        (WRITER, kv.GrantLease(1000)),
        (BOUND, kv.Put(b"runs/1", b"v")),
        (BOUND, kv.Range(b"runs/", b"runs0")),
        (BOUND, kv.Range(b"m\xff", b"n")),
        (BOUND, kv.DeleteRange(b"runs/a", b"runs/b")),
        (BOUND, kv.KeepAlive(3)),
    ],
)
def test_what_a_token_allows_passes(grant: Grant, operation: kv.ClientOperation) -> None:
    grant.check([operation])


@pytest.mark.parametrize(
    ("grant", "operation"),
    [
        (READER, kv.Put(b"k", b"v")),
        (READER, kv.Add(b"k", 1)),
        (READER, kv.DeleteRange(b"", b"")),
        (READER, kv.Transaction((), (kv.Get(b"k"),), (kv.Delete(b"k"),))),
        (READER, kv.GrantLease(1000)),
        (WRITER, kv.Compact(1)),
        (BOUND, kv.Put(b"run", b"v")),
        (BOUND, kv.Get(b"other")),
        (BOUND, kv.Range(b"runs/", b"")),
        (BOUND, kv.Range(b"run", b"runs0")),
        (BOUND, kv.Range(b"runs/", b"runs1")),
        (BOUND, kv.Transaction((kv.Compare(b"x", "exists", "=", 1),), (kv.Put(b"runs/1", b""),))),
        (BOUND, kv.Transaction((kv.Unchanged(b"", b"", 3),), ())),
        (BOUND, kv.Transaction((), (kv.Put(b"runs/1", b""),), (kv.Put(b"x", b""),))),
        (BOUND, kv.RevokeLease(3)),
        (BOUND, kv.DescribeLease(3, True)),
    ],
)
def test_what_a_token_does_not_allow_is_refused(grant: Grant, operation: kv.ClientOperation) -> None:
    with pytest.raises(Denied) as refused:
        grant.check([kv.Get(b"runs/1"), operation])
    assert refused.value.code == wire.Code.PERMISSION_DENIED


def test_a_client_writes_no_more_than_its_share_and_a_large_run_leaves_a_debt() -> None:
    caller = Caller("app", None, 0.0, 100.0)
    assert caller.take(60, 0.0, 100.0)
    assert not caller.take(60, 0.0, 100.0)
    assert caller.take(60, 0.25, 100.0)
    assert not caller.take(1000, 1.0, 100.0)
    assert caller.take(1000, 5.0, 100.0)
    assert not caller.take(1, 13.9, 100.0)
    assert caller.take(1, 14.1, 100.0)
