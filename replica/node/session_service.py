"""`Session.Attach` over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from replica.wire import typed as wire

from .attachment import Attachment
from .sessions import Sessions

__all__ = ["SessionService"]


class SessionService:
    """Serves sessions with the coders of the messages and nothing in between."""

    def __init__(self, sessions: Sessions, report: Callable[[Exception], None]) -> None:
        """``report`` is told of what should not happen: a frame on which this replica failed."""
        self._sessions = sessions
        self._report = report

    def handler(self) -> grpc.GenericRpcHandler:
        """What a `grpc.aio` server is given."""
        method = grpc.stream_stream_rpc_method_handler(
            self._attach,
            request_deserializer=wire.ClientFrame.FromString,
            response_serializer=wire.ServerFrame.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(wire.SESSION, {"Attach": method})

    async def _attach(self, _requests: Any, context: Any) -> None:
        attachment = self._sessions.attach(context)
        reader = asyncio.create_task(self._read(attachment, context))
        try:
            while (frame := await attachment.next_frame()) is not None:
                await context.write(frame)
        finally:
            self._sessions.detach(attachment)
            reader.cancel()
            # A stream that broke is not worth a word.
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.UsageError, grpc.RpcError):
                await reader

    async def _read(self, attachment: Attachment, context: Any) -> None:
        receive = self._sessions.receive
        try:
            while (frame := await context.read()) is not grpc.aio.EOF:
                try:
                    receive(attachment, frame)
                except Exception as error:  # noqa: BLE001 - one client's frame must not cost the others their replica
                    self._report(error)
                    attachment.put_closing(wire.Code.INTERNAL, "the replica failed on a frame; its log says more")
                    return
        except DecodeError:
            attachment.put_closing(wire.Code.INVALID, "a frame could not be decoded")
        finally:
            # The client has hung up, the stream broke, or it is being closed: the writer sends what is left and ends.
            attachment.ended = True
            attachment.wake()
