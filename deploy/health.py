"""Asks one replica whether it serves: the health check of the container image.

    python deploy/health.py ADDRESS

Exit status 0 when `grpc.health.v1` says that it serves, 1 when it does not or does not answer. The image has it as a
file by itself, and it imports nothing of Synod: a check runs every few seconds in every container.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S: Final = 3.0


def serving(address: str, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Does the replica there say that it serves?"""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its methods are made when it is
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(not serving(sys.argv[1]))
