"""Processes that create, update, link and publish, and write down what was acknowledged: for the test with kills."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable

from replica.client import Conflict, Indefinite, NotCommitted, Unavailable, connect
from replica.metadata import AliasMoved, AlreadyExists, Metadata, MetadataError

NAMES = 12
"""Names that all writers contend for."""


def say(line: str) -> None:
    """At once, whatever becomes of this process."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def prepare(md: Metadata) -> None:
    """The types, and things that all writers share."""
    md.define_type("Data", properties={"rows": int, "writer": int}, index=["rows"])
    md.define_type("Model", properties={"acc": float}, index=["acc", "uri"])
    md.define_type("Train", kind="execution")
    md.define_type("Project", kind="context")
    md.put_context("Project", "shared")
    md.put_artifact("Data", name="shared", properties={"rows": 1})


def write(endpoints: str, writer: int, seed: int, rounds: int) -> None:
    """Do so many things; prints what was acknowledged as lines of JSON, and everything that was refused as such."""
    draw = random.Random(seed)
    with connect(endpoints, timeout_s=60) as store:
        md = Metadata(store, actor=f"writer {writer}")
        shared, project = md.by_name("Data", "shared"), md.by_name("Project", "shared")
        own: list[int] = []

        def create() -> list[int]:
            name = draw.choice([None, f"contested{draw.randrange(NAMES)}", f"{writer}-{draw.random()}"])
            made = md.put_artifact(
                "Data", name=name, properties={"rows": draw.randrange(5), "writer": writer}, contexts=[project]
            )
            own.append(made.id)
            return [made.id]

        def update() -> list[int]:
            if draw.random() < 0.5 or not own:
                return [md.update(shared, properties={"rows": draw.randrange(5)}).id]
            return [md.update(draw.choice(own), properties={"rows": draw.randrange(5)}, custom={"n": 1}).id]

        def run() -> list[int]:
            with md.execution("Train", inputs=[draw.choice([shared.id, *own])], context="exp", ttl_s=60) as begun:
                first = begun.output("Model", properties={"acc": draw.random()}, uri=f"s3://{draw.randrange(4)}")
                second = begun.output("Model", name=draw.choice([None, f"model{draw.randrange(NAMES)}"]))
                begun.log(1, {"loss": draw.random()})
            return [begun.id, first.id, second.id]

        def publish() -> list[int]:
            version = md.publish(md.draft("dataset", "asset"), bump=draw.choice(["schema", "revision", "patch"]))
            package = md.package("package", [version], bump="patch")
            return [version.id, package.id]

        def alias() -> list[int]:
            aliases = md.aliases()
            current = aliases.get("prod")
            md.alias("prod", draw.choice([shared.id, *own]), if_current=current)
            return []

        def link() -> list[int]:
            context = md.put_context("Project", f"{writer}-{draw.random()}", parents=[project])
            md.attribute(draw.choice([shared.id, *own]), context)
            return [context.id]

        def retire() -> list[int]:
            if not own:
                return []
            gone = own.pop(draw.randrange(len(own)))
            md.archive(gone)
            return [md.purge(gone).id]

        choices: list[Callable[[], list[int]]] = [create, create, update, run, run, publish, alias, link, retire]
        for _ in range(rounds):
            step = draw.choice(choices)
            try:
                say(json.dumps({"did": step.__name__, "ids": step()}))
            except (AlreadyExists, AliasMoved, Conflict, MetadataError) as error:
                say(json.dumps({"refused": step.__name__, "why": type(error).__name__}))
            except (Unavailable, Indefinite, NotCommitted) as error:
                say(json.dumps({"lost": step.__name__, "why": type(error).__name__}))


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
