"""Serves a `VolatileCache` as a block device over NBD on one connected socket.

The protocol is that of https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md: fixed newstyle negotiation
with the options GO and ABORT, simple replies, and the commands READ, WRITE, FLUSH and DISC, which is what qemu needs.
Requests are answered one after the other, so a flush covers every write answered before it.

After the power is lost no request is answered any more: a machine without power gets no error from its drive either.
"""

import contextlib
import socket
import struct
import threading

from tests.support.emulator.cache import SECTOR_BYTES, PowerLost, VolatileCache

_MAGIC = 0x4E42444D41474943
_OPTION_MAGIC = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_REPLY_MAGIC = 0x67446698

_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPTION_ABORT, _OPTION_GO = 2, 7
_REPLY_ACK, _REPLY_INFO, _REPLY_UNSUPPORTED = 1, 3, (1 << 31) | 1
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_HAS_FLAGS, _SEND_FLUSH, _SEND_FUA = 1, 4, 8
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_COMMAND_FUA = 1
_EIO, _EINVAL = 5, 22

REQUEST_BYTES_MAX = 32 << 20


class NbdServer:
    """One thread that answers one client until it disconnects, or the power is lost."""

    def __init__(self, cache: VolatileCache, connection: socket.socket, *, size_bytes: int) -> None:
        self._cache = cache
        self._connection = connection
        self._size_bytes = size_bytes
        self._thread = threading.Thread(target=self._run, name="nbd-server", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Ends the conversation and waits for the thread."""
        with contextlib.suppress(OSError):  # the client was first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        try:
            if self._negotiate():
                while self._answer():
                    pass
        except (ConnectionError, EOFError, PowerLost):
            pass  # qemu is gone, or the drive is; in both cases there is nobody to tell

    def _negotiate(self) -> bool:
        self._send(struct.pack(">QQH", _MAGIC, _OPTION_MAGIC, _FIXED_NEWSTYLE | _NO_ZEROES))
        self._receive(4)  # the client's flags
        while True:
            magic, option, length = struct.unpack(">QII", self._receive(16))
            if magic != _OPTION_MAGIC:
                raise ConnectionError("not an NBD client")
            self._receive(length)  # there is one export, whatever it is called
            if option == _OPTION_GO:
                flags = _HAS_FLAGS | _SEND_FLUSH | _SEND_FUA
                self._reply_option(option, _REPLY_INFO, struct.pack(">HQH", _INFO_EXPORT, self._size_bytes, flags))
                sizes = struct.pack(">HIII", _INFO_BLOCK_SIZE, SECTOR_BYTES, 4096, REQUEST_BYTES_MAX)
                self._reply_option(option, _REPLY_INFO, sizes)
                self._reply_option(option, _REPLY_ACK)
                return True
            if option == _OPTION_ABORT:
                self._reply_option(option, _REPLY_ACK)
                return False
            self._reply_option(option, _REPLY_UNSUPPORTED)

    def _answer(self) -> bool:
        magic, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", self._receive(28))
        if magic != _REQUEST_MAGIC:
            raise ConnectionError("lost the boundaries of requests")
        if command == _DISCONNECT:
            return False
        content = self._receive(length) if command == _WRITE else b""
        error, answer = 0, b""
        try:
            if command == _READ:
                answer = self._cache.read(offset, length)
            elif command == _WRITE:
                self._cache.write(offset, content, durable=bool(flags & _COMMAND_FUA))
            elif command == _FLUSH:
                self._cache.flush()
            else:
                error = _EINVAL
        except OSError:
            error = _EIO
        except ValueError:
            error = _EINVAL
        self._send(struct.pack(">IIQ", _REPLY_MAGIC, error, cookie) + answer)
        return True

    def _reply_option(self, option: int, kind: int, content: bytes = b"") -> None:
        self._send(struct.pack(">QIII", _OPTION_REPLY_MAGIC, option, kind, len(content)) + content)

    def _send(self, content: bytes) -> None:
        self._connection.sendall(content)

    def _receive(self, length: int) -> bytes:
        if length > REQUEST_BYTES_MAX:
            raise ConnectionError(f"a request of {length} bytes is above the limit")
        content = bytearray()
        while len(content) < length:
            chunk = self._connection.recv(length - len(content))
            if not chunk:
                raise EOFError
            content += chunk
        return bytes(content)
