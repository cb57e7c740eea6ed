"""`synod watch`, `synod lease` and `synod lock`: following changes, and living with leases, from the shell."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from replica.cli.connecting import connection_options, store_of
from replica.cli.exits import EXPLANATION, statuses

if TYPE_CHECKING:
    from replica.kv.operations import LeaseDescribed, WatchBatch

LOST: Final = 7
"""Exit status of `synod lock`: the lock was lost while the command ran."""

COMPACTED: Final = 8
"""Exit status of `synod watch`: what was to be told has been compacted away."""


@click.command(
    epilog=EXPLANATION
    + f"  {COMPACTED}  the revision has been compacted; the message names the first that has not\n"
    + "A watch that is interrupted (Ctrl-C) exits with 0."
)
@click.argument("prefix", required=False)
@click.option("--key", metavar="KEY", help="Only this key.")
@click.option("--first", metavar="KEY", help="Begin at this key instead of a prefix.")
@click.option("--last", metavar="KEY", help="End before this key.")
@click.option(
    "--revision", type=click.IntRange(min=0), default=0, metavar="N", help="From revision N on; 0: what comes next."
)
@click.option("--no-puts", is_flag=True, help="Leave out what is written.")
@click.option("--no-deletes", is_flag=True, help="Leave out what is deleted.")
@click.option("--previous", is_flag=True, help="Show what each key was before, too.")
@click.option("--progress", is_flag=True, help="Say now and then how far the watch has come, if nothing changes.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N revisions with changes.")
@connection_options
def watch(
    *,
    prefix: str | None,
    key: str | None,
    first: str | None,
    last: str | None,
    revision: int,
    no_puts: bool,
    no_deletes: bool,
    previous: bool,
    progress: bool,
    count: int | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Print every change of the keys that begin with PREFIX (all keys without one), as it happens.

    A line each: revision, "put" or "delete", key, value, separated by tabs. With --json, an object for each revision.
    The first line, on standard error, names the revision at which the watch begins.
    """
    from replica.cli.text import from_argument
    from replica.client import Compacted

    if [key is not None, prefix is not None, first is not None or last is not None].count(True) > 1:
        raise click.UsageError("give a PREFIX, --key, or --first and --last")
    if no_puts and no_deletes:
        raise click.UsageError("--no-puts and --no-deletes leave nothing to watch")
    ends = {
        name: from_argument(text)
        for name, text in (("prefix", prefix), ("key", key), ("first", first), ("last", last))
        if text is not None
    }
    shown = 0
    try:
        with (
            statuses(as_json=as_json, special={Compacted: COMPACTED}),
            store_of(**connection) as store,
            store.watch(
                **ends,
                revision=revision,
                puts=not no_puts,
                deletes=not no_deletes,
                previous=previous,
                progress=progress,
            ) as watching,
        ):
            click.echo(f"watching from revision {watching.revision}", err=True)
            for batch in watching:
                _show(batch, as_json=as_json)
                shown += bool(batch.events)
                if shown == count:
                    return
    except KeyboardInterrupt:
        return


def _show(batch: WatchBatch, *, as_json: bool) -> None:
    from replica.cli.text import escaped, event

    if as_json:
        click.echo(json.dumps({"revision": batch.revision, "events": [event(each) for each in batch.events]}))
    elif not batch.events:
        click.echo(f"{batch.revision}\tprogress")
    for each in () if as_json else batch.events:
        line = [str(batch.revision), "delete" if each.deleted else "put", escaped(each.key)]
        if not each.deleted:
            line.append(escaped(each.value))
        if each.previous is not None:
            line.append(f"was {escaped(each.previous.value)}")
        click.echo("\t".join(line))
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------------------------- leases

_lease = click.argument("lease", type=click.IntRange(min=1))


@click.group()
def lease() -> None:
    """Leases: keys that live as long as somebody keeps them alive."""


@lease.command(epilog=EXPLANATION)
@click.argument("ttl", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS")
@click.option("--id", "lease", type=click.IntRange(min=1), help="The id; chosen by the store if left out.")
@connection_options
def grant(ttl: float, lease: int | None, as_json: bool, **connection: Any) -> None:
    """Begin a lease that lives for SECONDS after its last renewal, and print its id."""
    with statuses(as_json=as_json), store_of(**connection) as store:
        granted = store.lease(ttl, lease=lease or 0, keep_alive=False)
    click.echo(json.dumps({"lease": granted.id, "ttl_s": granted.ttl_s}) if as_json else granted.id)


@lease.command("keep-alive", epilog=EXPLANATION)
@_lease
@click.option("--once", is_flag=True, help="Renew it once instead of until interrupted.")
@connection_options
def keep_alive(lease: int, once: bool, as_json: bool, **connection: Any) -> None:
    """Renew a LEASE, again and again until it ends or this command is interrupted."""
    import time

    try:
        with statuses(as_json=as_json), store_of(**connection) as store:
            while True:
                renewed = store.renew_lease(lease)
                facts = {"lease": lease, "ttl_s": renewed.ttl_ms / 1000, "renewal": renewed.renewal}
                click.echo(json.dumps(facts) if as_json else f"lease {lease} lives for {facts['ttl_s']:g} s")
                if once:
                    return
                time.sleep(renewed.ttl_ms / 3000)
    except KeyboardInterrupt:
        return


@lease.command(epilog=EXPLANATION)
@_lease
@connection_options
def revoke(lease: int, as_json: bool, **connection: Any) -> None:
    """End a LEASE, and delete its keys."""
    with statuses(as_json=as_json), store_of(**connection) as store:
        revoked = store.revoke_lease(lease)
    facts = {"lease": lease, "revision": revoked.revision, "count": revoked.count}
    click.echo(json.dumps(facts) if as_json else f"removed {revoked.count}")


@lease.command("list", epilog=EXPLANATION)
@connection_options
def list_(as_json: bool, **connection: Any) -> None:
    """Print all leases: id, time to live, what is left of it, keys."""
    with statuses(as_json=as_json), store_of(**connection) as store:
        found = store.leases()
    for each in found:
        _show_lease(each, as_json=as_json)


@lease.command(epilog=EXPLANATION)
@_lease
@connection_options
def ttl(lease: int, as_json: bool, **connection: Any) -> None:
    """Print how long a LEASE lives, what is left of it, and its keys."""
    with statuses(as_json=as_json), store_of(**connection) as store:
        found = store.describe_lease(lease, names=True)
    _show_lease(found, as_json=as_json)


def _show_lease(described: LeaseDescribed, *, as_json: bool) -> None:
    from replica.cli.text import escaped, jsonable

    remaining_s = None if described.remaining_ms is None else described.remaining_ms / 1000
    if as_json:
        facts: dict[str, Any] = {
            "lease": described.lease,
            "ttl_s": described.ttl_ms / 1000,
            "remaining_s": remaining_s,
            "count": described.count,
        }
        if described.names:
            facts["keys"] = [jsonable(name) for name in described.names]
        click.echo(json.dumps(facts))
        return
    left = "?" if remaining_s is None else f"{remaining_s:.1f}"
    click.echo(f"{described.lease}\t{described.ttl_ms / 1000:g} s\t{left} s left\t{described.count} keys")
    for name in described.names:
        click.echo(f"\t{escaped(name)}")


# -------------------------------------------------------------------------------------------------------------- locks


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=EXPLANATION
    + f"  {LOST}  the lock was lost while COMMAND ran; it was told to end (SIGTERM)\n"
    + "With a COMMAND, its exit status otherwise.",
)
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--ttl", "ttl_s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, metavar="SECONDS",
    help="How long others wait for a holder that has died.",
)  # fmt: skip
@click.option("--wait", "wait_s", type=click.FloatRange(min=0), metavar="SECONDS", help="How long to wait for it.")
@connection_options
def lock(
    *, name: str, command: tuple[str, ...], ttl_s: float, wait_s: float | None, as_json: bool, **connection: Any
) -> None:
    """Hold the lock NAME while COMMAND runs, or without one until interrupted.

    Put "--" before COMMAND. It finds the fencing token in SYNOD_LOCK_TOKEN and the key of the lock in SYNOD_LOCK_KEY;
    what the lock protects should refuse a token smaller than one that it has seen.
    """
    import os
    import threading

    from replica.cli.text import from_argument
    from replica.client import LeaseLost

    status = 0
    with statuses(as_json=as_json, special={LeaseLost: LOST}), store_of(**connection) as store:
        held = store.lock(from_argument(name), ttl_s=ttl_s)
        token = held.acquire(timeout_s=wait_s)
        try:
            if not command:
                facts = {"lock": name, "token": token, "key": os.fsdecode(held.key)}
                click.echo(json.dumps(facts) if as_json else f"holding {name} with token {token}")
                sys.stdout.flush()
                _until_interrupted(held)
                return
            environment = {**os.environ, "SYNOD_LOCK_TOKEN": str(token), "SYNOD_LOCK_KEY": os.fsdecode(held.key)}
            try:
                process = subprocess.Popen(command, env=environment)
            except OSError as error:
                raise click.UsageError(f"cannot run {command[0]}: {error.strerror}") from None
            watching = threading.Thread(target=_end_when_lost, args=(held, process), daemon=True)
            watching.start()
            status = _wait(process)
            held.check()
        finally:
            held.release()
    sys.exit(status)


def _until_interrupted(held: Any) -> None:
    try:
        raise held.wait_lost()
    except KeyboardInterrupt:
        return


def _end_when_lost(held: Any, process: subprocess.Popen[bytes]) -> None:
    from replica.client import SynodError

    try:
        held.wait_lost()
    except SynodError:
        return  # it was released
    if process.poll() is None:
        process.terminate()


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            # The terminal has interrupted the command as well: how it ends is its business.
            process.send_signal(signal.SIGINT)
            continue
        return status if status >= 0 else 128 - status
