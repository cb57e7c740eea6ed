"""Health for supervisors, reflection for tools, and the exposition of the metrics."""

from __future__ import annotations

import socket
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from replica.wire import typed as wire

from .config import split_address
from .errors import CannotListen
from .metrics import NodeMetrics

__all__ = ["Exposition", "Health"]

SERVICES: Final = (wire.SESSION, wire.ADMIN)


class Health:
    """`grpc.health.v1` on the clients' listener.

    Serving means ready: this replica would take linearizable commands itself, or knows a leader that it can
    reach, to whom it sends clients on. Everything else is not serving: waiting to join or to be admitted,
    no leader, stopping.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        """Adds the services to ``server``, which must not have been started."""
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        self._pending: Any = None

    async def set(self, ready: bool) -> None:
        """Tell whoever asks or watches."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *SERVICES):
            await self._servicer.set(name, status)


class Exposition:
    """Metrics over HTTP, in Prometheus' format, from a thread of its own."""

    def __init__(self, address: str, metrics: NodeMetrics) -> None:
        """Raises `CannotListen`."""
        host, port = split_address(address)
        try:
            self._server, self._thread = start_http_server(port, host, metrics.registry)
        except (OSError, socket.gaierror) as error:
            raise CannotListen(f"listen.metrics: cannot listen on {address}: {error.strerror or error}") from error

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
