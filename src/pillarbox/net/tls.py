"""TLS between a transport and a protocol, over memory: TlsLayer, octets in, octets out; Secured, with a transport.

One buffer per layer: what is decrypted belongs to the protocol above, what is encrypted to the transport below, and
nothing is ever in between. `ssl.SSLObject` does the work; who owns the transport moves the octets. Knows no SMTP.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

_READ = 64 * 1024  # octets taken at a time


class TlsError(Exception):
    """The connection is of no use for TLS; the text is for the log. `alert` are octets for the peer, if any."""

    def __init__(self, text: str, alert: bytes = b"") -> None:
        super().__init__(text)
        self.alert = alert


class TlsLayer:
    """One side of one TLS connection."""

    __slots__ = ("_incoming", "_object", "_outgoing", "ended", "ready")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> None:
        """`server_hostname` is for a client: the name for SNI, and to verify where the context does."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.ready = False  # the handshake is done
        self.ended = False  # the peer has said that nothing more comes

    def start(self) -> bytes:
        """The first octets of a client's handshake; none for a server."""
        self._shake()
        return self._outgoing.read()

    def receive(self, octets: bytes) -> tuple[bytes, bytes]:
        """What came from the transport. Gives what is for the protocol, and what is to be written at once.

        Raises TlsError.
        """
        self._incoming.write(octets)
        if not self.ready:
            self._shake()
        plain = self._read() if self.ready else b""
        return plain, self._outgoing.read()

    def send(self, octets: bytes) -> bytes:
        """What the protocol says, as it goes over the wire. Raises TlsError."""
        try:
            self._object.write(octets)
        except ssl.SSLError as error:
            raise self._fault(error) from error
        return self._outgoing.read()

    def close(self) -> bytes:
        """The farewell (RFC 8446 §6.1)."""
        if self.ready:
            try:
                self._object.unwrap()
            except (ssl.SSLError, OSError):
                pass  # the peer's own is not waited for
        return self._outgoing.read()

    @property
    def version(self) -> str:
        return self._object.version() or ""

    @property
    def cipher(self) -> str:
        found = self._object.cipher()
        return found[0] if found else ""

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLCertVerificationError as error:
            raise TlsError(f"certificate: {error.verify_message}", self._outgoing.read()) from error
        except (ssl.SSLError, OSError) as error:
            raise self._fault(error) from error
        self.ready = True

    def _read(self) -> bytes:
        chunks = []
        try:
            while chunk := self._object.read(_READ):
                chunks.append(chunk)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except (ssl.SSLError, OSError) as error:
            raise self._fault(error) from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _fault(self, error: OSError) -> TlsError:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        return TlsError(f"TLS: {str(reason).lower().replace('_', ' ')}", self._outgoing.read())


class Secured(asyncio.Transport, asyncio.Protocol):
    """The transport of a protocol above TLS, and the protocol of the transport below.

    `ready` is called once the handshake is done, `failed` when TLS makes the connection useless; it is closed then.
    Whoever has the transport may hand it on with `set_protocol`: a change of roles keeps the layer. Octets that can't
    be sent any more are dropped: no method raises for what TLS has come to.
    """

    def __init__(
        self,
        below: asyncio.Transport,
        above: asyncio.BaseProtocol,
        layer: TlsLayer,
        *,
        ready: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.layer = layer
        self._below = below
        self._above = cast(asyncio.Protocol, above)
        self._ready = ready
        self._failed = failed
        self.unread = False  # more came with the end of the handshake
        self._is_broken = False
        self._said_eof = False
        below.set_protocol(self)

    def begin(self) -> None:
        """A client speaks first."""
        try:
            self._tell(self.layer.start())
        except TlsError as error:
            self._break(error)

    # --- for the protocol above

    def write(self, data: Any) -> None:
        if not self.layer.ready or not self._is_writable:  # before the handshake nothing can be said
            return
        try:
            self._tell(self.layer.send(bytes(data)))
        except TlsError as error:
            self._break(error)

    def write_eof(self) -> None:
        if self._is_writable:
            self._tell(self.layer.close())
            self._said_eof = True
            self._below.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._below.is_closing():
            self._tell(self.layer.close())
            self._below.close()

    def abort(self) -> None:
        self._below.abort()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._above = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._above

    # --- called by the event loop, for the transport below

    def data_received(self, data: bytes) -> None:
        was_ready = self.layer.ready
        try:
            plain, answer = self.layer.receive(data)
        except TlsError as error:
            self._break(error)
            return
        self._tell(answer)
        if self.layer.ready and not was_ready:
            self.unread = bool(plain)
            self._ready()
        if plain:
            self._above.data_received(plain)
        if self.layer.ended and not self._below.is_closing() and not self._above.eof_received():
            self.close()

    def eof_received(self) -> bool | None:
        if not self.layer.ready:
            self._break(TlsError("TLS: the peer went away in the handshake"))
            return False
        return self._above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.layer.ready:
            self._break(TlsError("TLS: the connection was lost in the handshake"))
        self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    # --- within

    @property
    def _is_writable(self) -> bool:
        return not self._said_eof and not self._below.is_closing()

    def _tell(self, octets: bytes) -> None:
        if octets and self._is_writable:
            self._below.write(octets)

    def _break(self, error: TlsError) -> None:
        if self._is_broken:
            return
        self._is_broken = True
        self._tell(error.alert)
        self._failed(str(error))
        self._below.close()
