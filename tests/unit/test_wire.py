"""The typed face of the generated code."""

import grpc.aio
import pytest

from replica.wire import typed
from replica.wire.v1 import admin_pb2, client_pb2, peer_pb2

CONTRACTS = [peer_pb2.DESCRIPTOR, client_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR]


def test_every_message_and_enum_of_the_contracts_is_offered():
    declared = {
        name for contract in CONTRACTS for name in (*contract.message_types_by_name, *contract.enum_types_by_name)
    }
    assert declared <= set(typed.__all__)
    assert all(hasattr(typed, name) for name in typed.__all__)


def test_services_are_named_as_in_the_contracts():
    services = {service.full_name for contract in CONTRACTS for service in contract.services_by_name.values()}
    assert services == {typed.PEER, typed.SESSION, typed.ADMIN}
    assert typed.method_path(typed.PEER, "Connect") == "/synod.v1.Peer/Connect"


@pytest.mark.parametrize(
    ("stub", "method"),
    [(typed.peer_stub, "Connect"), (typed.session_stub, "Attach"), (typed.admin_stub, "Status")],
)
async def test_a_stub_has_the_methods_of_its_service(stub, method):
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        assert hasattr(stub(channel), method)
