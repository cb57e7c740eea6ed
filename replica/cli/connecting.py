"""The options by which every data command finds the cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.decorators import FC

if TYPE_CHECKING:
    from replica.client import Store

DEFAULT_ENDPOINTS: Final = "127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option(
        "--endpoints",
        envvar="SYNOD_ENDPOINTS",
        default=DEFAULT_ENDPOINTS,
        show_default=True,
        show_envvar=True,
        metavar="HOST:PORT,...",
        help="Client addresses of the replicas; one is enough to find the others.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to try.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, errors included."),
    click.option(
        "--tls-authority",
        envvar="SYNOD_TLS_AUTHORITY",
        default="",
        metavar="FILE",
        help="Certificates (PEM) by which replicas are recognised; switches TLS on.",
    ),
    click.option(
        "--tls-certificate",
        envvar="SYNOD_TLS_CERTIFICATE",
        default="",
        metavar="FILE",
        help="This client's certificate chain (PEM), for mutual TLS.",
    ),
    click.option(
        "--tls-key", envvar="SYNOD_TLS_KEY", default="", metavar="FILE", help="The key of that certificate (PEM)."
    ),
    click.option(
        "--token",
        envvar="SYNOD_TOKEN",
        default="",
        metavar="TOKEN",
        help="Shown to the replicas, where they ask for tokens; the variable keeps it out of the list of processes.",
    ),
)


def connection_options(command: FC) -> FC:
    """Adds the options; the command gets ``as_json`` and, through `store_of`, the rest."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def store_of(
    *, endpoints: str, timeout_s: float, tls_authority: str, tls_certificate: str, tls_key: str, token: str
) -> Store:
    """A store object for these options. Raises `replica.client.InvalidArgument`."""
    # gRPC tells standard error of every connection that breaks; here what matters is said in one line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from replica.client import connect

    return connect(
        endpoints,
        timeout_s=timeout_s,
        tls_authority=tls_authority,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        token=token,
        drain_s=0.0,
    )
