"""What can go wrong in the transport, as far as a caller can act on it."""

from __future__ import annotations


class TransportError(Exception):
    """Base of the errors of the transport."""


class AddressUnavailable(TransportError):
    """The address cannot be listened on. Nothing was started; free the port or configure another address."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address


class MessageTooLarge(TransportError, ValueError):
    """A message exceeds ``MESSAGE_BYTES_MAX``. It was sent to nobody; a protocol must cut it into pieces."""

    def __init__(self, size_bytes: int, bytes_max: int) -> None:
        super().__init__(f"a message of {size_bytes} bytes exceeds the limit of {bytes_max}: it was sent to nobody")
        self.size_bytes = size_bytes


class SnapshotError(TransportError):
    """A snapshot could not be fetched. What the sink holds is incomplete and must be thrown away."""


class SnapshotRefused(SnapshotError):
    """The peer will not serve this request now; its text says why. ``busy``: asking again later may help."""

    def __init__(self, peer: int, message: str, *, busy: bool = False) -> None:
        super().__init__(f"replica {peer} refuses to send a snapshot: {message}")
        self.peer = peer
        self.busy = busy


class SnapshotInterrupted(SnapshotError):
    """The peer cannot be reached, fell silent, or sent something that is not a snapshot. Another peer may serve."""

    def __init__(self, peer: int, reason: str) -> None:
        super().__init__(f"the snapshot from replica {peer} did not arrive: {reason}")
        self.peer = peer
