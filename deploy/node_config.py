"""Writes the configuration file of one replica from a cluster's layout.

The reader of the file is `replica.node.config`; the names of the fields are its own. The TOML that is needed here is
tables of scalars and one array of tables, so it is rendered directly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.layout import ClusterLayout, ReplicaLayout


def render(
    layout: ClusterLayout,
    replica: ReplicaLayout,
    *,
    data: Path,
    certificates: Path | None = None,
    listen: Mapping[str, str] | None = None,
) -> str:
    """The text of the file. A replica that joined knows the others as those to ask.

    ``certificates``: the folder with the certificates, as the replica sees it, for a cluster with TLS. ``listen`` says
    where the replica listens, if not at the addresses that others know.
    """
    top: dict[str, Any] = {
        "cluster": layout.cluster,
        "replica": replica.replica,
        "data": str(data),
        "region": replica.region,
        "zone": replica.zone,
        "listen": dict(listen or {"peer": replica.peer, "client": replica.client, "metrics": replica.metrics}),
        "protocol": {"name": layout.protocol, "options": layout.options},
    }
    if certificates is not None:
        files = {
            "certificate": str(certificates / f"replica-{replica.replica}.pem"),
            "key": str(certificates / f"replica-{replica.replica}.key"),
            "authority": str(certificates / "authority.pem"),
        }
        top["security"] = {"peer": files, "client": files}
    if listen is not None:
        top["advertise"] = {"peer": replica.peer, "client": replica.client}
    for name, value in layout.node.items():
        top[name] = {**top[name], **value} if isinstance(value, dict) and isinstance(top.get(name), dict) else value
    lines = ["# Written by `synod cluster`; edit the cluster, not this file."]
    _table(lines, "", top)
    for member in layout.replicas:
        lines += ["", "[[members]]"]
        _table(
            lines,
            "",
            {
                "replica": member.replica,
                "peer": member.peer,
                "client": member.client,
                "region": member.region,
                "zone": member.zone,
            },
        )
    return "\n".join(lines) + "\n"


def _table(lines: list[str], path: str, table: Mapping[str, Any]) -> None:
    for name, value in table.items():
        if not isinstance(value, Mapping):
            # JSON's strings, numbers and booleans are TOML's, too.
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    for name, value in table.items():
        if isinstance(value, Mapping):
            inner = f"{path}.{name}" if path else name
            lines += ["", f"[{inner}]"]
            _table(lines, inner, value)
