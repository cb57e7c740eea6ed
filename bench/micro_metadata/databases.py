"""The same work in SQL: objects, names, an indexed property, edges, points and an audit trail in tables, with the same
uniqueness and references declared, one transaction for each operation that writes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.micro_metadata.work import Counted, Step, metadata_mix, steps

LOCK_TIMEOUT_S: Final = 120.0
"""How long a writer of SQLite waits for the others."""

SCHEMA: Final = """
CREATE TABLE object (id {identity}, kind TEXT NOT NULL, type TEXT NOT NULL, name TEXT, uri TEXT, body TEXT,
                     UNIQUE (type, name));
CREATE TABLE property (object BIGINT NOT NULL REFERENCES object, name TEXT NOT NULL, value DOUBLE PRECISION,
                       PRIMARY KEY (object, name));
CREATE INDEX by_value ON property (name, value);
CREATE TABLE edge (source BIGINT NOT NULL REFERENCES object, target BIGINT NOT NULL REFERENCES object,
                   kind TEXT NOT NULL, role TEXT, PRIMARY KEY (source, target, kind));
CREATE INDEX by_target ON edge (target, kind, source);
CREATE TABLE point (object BIGINT NOT NULL REFERENCES object, metric TEXT NOT NULL, step BIGINT NOT NULL,
                    time_ms BIGINT, value DOUBLE PRECISION, PRIMARY KEY (object, metric, step));
CREATE TABLE audit (id {identity}, actor TEXT, action TEXT, object BIGINT, time_ms BIGINT);
"""

OBJECT: Final = "INSERT INTO object (kind, type, name, uri, body) VALUES (?, ?, ?, ?, ?) RETURNING id"
PROPERTY: Final = "INSERT INTO property VALUES (?, ?, ?)"
EDGE: Final = "INSERT INTO edge VALUES (?, ?, ?, ?)"
POINT: Final = "INSERT INTO point VALUES (?, ?, ?, ?, ?)"
AUDIT: Final = "INSERT INTO audit (actor, action, object, time_ms) VALUES (?, ?, ?, ?)"
LIST: Final = """SELECT object.id, name, body FROM edge JOIN object ON object.id = edge.source
                 WHERE edge.target = ? AND edge.kind = 'member' AND object.type = 'Train'
                 ORDER BY edge.source DESC LIMIT ?"""


class Database:
    """A connection of one caller."""

    begin = "BEGIN"

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """One statement; a cursor."""
        raise NotImplementedError

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows."""
        raise NotImplementedError

    def close(self) -> None:
        """No more."""
        raise NotImplementedError

    def insert(self, *values: Any) -> int:
        """A new object; its id."""
        found: int = self.execute(OBJECT, values).fetchone()[0]
        return found

    def carry_out(self, step: Step, run: int, experiment: int, actor: str, made: Counter[str]) -> int:
        """One operation in a transaction of its own; returns the run that it created, or 0."""
        options, created = metadata_mix().metadata, 0
        if step.kind == "list-runs":
            self.execute(LIST, (experiment, options.page)).fetchall()
            return 0
        now_ms = time.time_ns() // 1_000_000
        name = f"{actor}/{step.number}"
        self.execute(self.begin)
        match step.kind:
            case "create-run":
                created = about = self.insert("execution", "Train", name, None, "{}")
                self.execute(EDGE, (1, created, "input", "train"))
                self.execute(EDGE, (created, experiment, "member", ""))
            case "log-metrics":
                about = run
                rows = [(run, f"m{each}", step.number, now_ms, 0.5) for each in range(options.metrics)]
                self.execute_many(POINT, rows)
            case _:
                about = self.insert("artifact", "Model", name, f"s3://models/{name}", "{}")
                self.execute(PROPERTY, (about, "acc", step.number / 1e6))
                self.execute(EDGE, (run, about, "output", ""))
                self.execute(EDGE, (about, experiment, "member", ""))
        self.execute(AUDIT, (actor, step.kind, about, now_ms))
        self.execute("COMMIT")
        made[{"create-run": "runs", "log-metrics": "points"}.get(step.kind, "models")] += (
            options.metrics if step.kind == "log-metrics" else 1
        )
        return created

    def prepare(self, identity: str) -> None:
        """Tables, the data that every run takes (id 1), and the experiments."""
        for statement in SCHEMA.format(identity=identity).split(";"):
            if statement.strip():
                self.execute(statement)
        self.insert("artifact", "Data", "shared", None, "{}")
        for number in range(metadata_mix().keys):
            self.insert("context", "Experiment", f"{number}", None, "{}")

    def experiments(self) -> list[int]:
        """Their ids."""
        found = self.execute("SELECT id FROM object WHERE type = 'Experiment' ORDER BY id").fetchall()
        return [identity for (identity,) in found]

    def judge(self) -> dict[str, int]:
        """What there is."""
        return {
            what: self.execute(f"SELECT count(*) FROM {where}").fetchone()[0]  # noqa: S608 - constants
            for what, where in (
                ("runs", "object WHERE type = 'Train'"),
                ("models", "object WHERE type = 'Model'"),
                ("points", "point"),
            )
        }


class SQLite(Database):
    """A file in WAL mode; every commit is synced."""

    # A transaction that reads and then writes could not wait for its lock.
    begin = "BEGIN IMMEDIATE"

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=FULL")
        self.execute("PRAGMA foreign_keys=ON")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self._connection.execute(statement, values)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(statement, rows)

    def close(self) -> None:
        self._connection.close()


class PostgreSQL(Database):
    """A server of our own on a Unix socket."""

    def __init__(self, address: str) -> None:
        import psycopg  # an extra

        self._connection = psycopg.connect(address, autocommit=True)
        self._cursor = self._connection.cursor()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self._cursor.execute(statement.replace("?", "%s"), values or None)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        self._cursor.executemany(statement.replace("?", "%s"), rows)

    def close(self) -> None:
        self._connection.close()


def servers(folder: Path) -> dict[str, int]:
    """The processes of a PostgreSQL in a folder: one for each connection, and some beside them."""
    import psutil  # an extra

    lines = (folder / "data" / "postmaster.pid").read_text().splitlines()
    parent = psutil.Process(int(lines[0]))
    return {f"postgres {each.pid}": each.pid for each in (parent, *parent.children(recursive=True))}


def opened(kind: str, address: str) -> Database:
    """A connection to one or the other."""
    return SQLite(address) if kind == "sqlite" else PostgreSQL(address)


def on_database(pipe: Any, kind: str, address: str, worker: int, tasks: int) -> None:
    """A worker process; each of its callers has a thread and a connection of its own."""
    experiments: list[int] = []
    callers = []
    for task in range(tasks):
        database = opened(kind, address)
        experiments = experiments or database.experiments()
        callers.append((database, steps(worker, task), list[int](), f"{worker}/{task}"))
    threads = ThreadPoolExecutor(tasks)
    pipe.send(None)
    while (clock := pipe.recv()) is not None:
        begin, seconds = clock

        def call(
            caller: tuple[Database, Iterator[Step], list[int], str], end: float = begin + seconds
        ) -> tuple[Counter[str], Counter[str]]:
            database, source, runs, actor = caller
            within, made = Counter[str](), Counter[str]()
            for step in source:
                run = runs[-1 - step.recent % len(runs)] if runs else 0
                created = database.carry_out(step, run, experiments[step.experiment], actor, made)
                if created:
                    runs.append(created)
                if time.time() >= end:
                    break
                within[step.kind] += 1
            return within, made

        time.sleep(max(0.0, begin - time.time()))
        used = time.process_time()
        # One caller needs no thread; an error of any ends the process.
        answers = [call(callers[0])] if tasks == 1 else list(threads.map(call, callers))
        within, made = Counter[str](), Counter[str]()
        for one, other in answers:
            within += one
            made += other
        pipe.send(Counted(dict(within), dict(made), time.process_time() - used))
    for database, *_ in callers:
        database.close()


class NoPostgreSQL(Exception):
    """Why there is none."""


@contextmanager
def postgresql(folder: Path, connections: int) -> Iterator[str]:
    """A server in a folder, synced at each commit; yields how to reach it. Raises `NoPostgreSQL`.

    It will not run as root: then it runs as the user ``postgres``, which the packages of most systems create.
    """
    try:
        import psycopg  # noqa: F401 - an extra
    except ImportError:
        raise NoPostgreSQL("psycopg is not installed: pip install 'synod[postgresql]'") from None
    on_path = shutil.which("initdb")
    places = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not places:
        raise NoPostgreSQL("there is no initdb, neither on the path nor under /usr/lib/postgresql")
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    prefix: list[str] = []
    folder.mkdir()
    if os.geteuid() == 0:
        try:
            owner = pwd.getpwnam(user)
        except KeyError:
            raise NoPostgreSQL("it does not run as root, and there is no user postgres") from None
        folder.parent.chmod(0o711)  # a temporary folder of ours lets nobody through
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        prefix = ["runuser", "-u", user, "--"]
    data, log = folder / "data", folder / "log"
    settings = {
        "listen_addresses": "''",
        "unix_socket_directories": f"'{folder}'",
        "fsync": "on",
        "synchronous_commit": "on",
        "max_connections": str(connections + 10),
    }

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*prefix, str(places[0] / program), *arguments],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise NoPostgreSQL(f"{program} failed: {done.stdout.strip().splitlines()[-1:]}")

    run("initdb", "-D", str(data), "-A", "trust", "-U", user, "--locale=C", "-E", "UTF8")
    with (data / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = {value}\n" for name, value in settings.items())
    run("pg_ctl", "-D", str(data), "-l", str(log), "-w", "start")
    try:
        yield f"host={folder} user={user} dbname=postgres"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
