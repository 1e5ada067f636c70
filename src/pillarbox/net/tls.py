"""TLS between a transport and a protocol, over memory: Layer, octets in, octets out; Secured, with a transport.

One buffer per layer: what is decrypted belongs to the protocol above, what is encrypted to the transport below, and
nothing is ever in between. Who owns the transport moves the octets. TlsLayer is the layer by `ssl.SSLObject`; the one
with the exporter is in `tls_exporting.py`. Knows no SMTP. RFC 8446; RFC 5929 and 9266 (channel binding).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Protocol, cast

from cryptography import x509

from pillarbox.adapters.certificates import end_point
from pillarbox.adapters.tls_contexts import ServerContext

READ = 16 * 1024  # octets taken at a time: a record holds no more (RFC 8446 §5.1)
TOGETHER = 3  # pieces of what is said at once: a ticket, replies, a farewell


class TlsError(Exception):
    """The connection is of no use for TLS; the text is for the log. `alert` are octets for the peer, if any."""

    def __init__(self, text: str, alert: bytes = b"") -> None:
        super().__init__(text)
        self.alert = alert


class Layer(Protocol):
    """One side of one TLS connection. Meets `smtp.sasl.Channel`, too."""

    ready: bool  # the handshake is done
    ended: bool  # the peer has said that nothing more comes

    def start(self) -> bytes:
        """The first octets of a client's handshake; none for a server."""

    def receive(self, octets: bytes) -> tuple[bytes, bytes]:
        """What came from the transport. Gives what is for the protocol, and what is to be written at once.

        Raises TlsError.
        """

    def send(self, octets: bytes) -> bytes:
        """What the protocol says, as it goes over the wire. Raises TlsError."""

    def close(self) -> bytes:
        """The farewell (RFC 8446 §6.1)."""

    @property
    def version(self) -> str: ...

    @property
    def cipher(self) -> str: ...

    def binding(self, kind: str) -> bytes | None:
        """Octets that only the two ends of this connection can know, or None where there are none of that kind."""

    @property
    def subject(self) -> str | None:
        """Whose certificate the client has shown, a mail address; None where none was shown that holds."""

    @property
    def doubt(self) -> str:
        """Why a certificate that the client has shown counts as none; "" where there is none, or it holds."""


class TlsLayer:
    """A layer by `ssl`."""

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
        self._shake()
        return self._outgoing.read()

    def receive(self, octets: bytes) -> tuple[bytes, bytes]:
        self._incoming.write(octets)
        if not self.ready:
            self._shake()
        plain = self._read() if self.ready else b""
        return plain, self._outgoing.read()

    def send(self, octets: bytes) -> bytes:
        try:
            self._object.write(octets)
        except ssl.SSLError as error:
            raise self._fault(error) from error
        return self._outgoing.read()

    def close(self) -> bytes:
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

    def binding(self, kind: str) -> bytes | None:
        """`tls-server-end-point` alone: `ssl` has no exporter, and `tls-unique` is not for TLS 1.3 (RFC 9266 §1)."""
        if kind != "tls-server-end-point" or not self.ready:
            return None
        context = self._object.context
        if isinstance(context, ServerContext):
            return context.end_point
        shown = self._object.getpeercert(binary_form=True)
        return None if self._object.server_side or shown is None else end_point(x509.load_der_x509_certificate(shown))

    @property
    def subject(self) -> str | None:
        return None  # a context of `ssl` asks for none

    @property
    def doubt(self) -> str:
        return ""

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
            while chunk := self._object.read(READ):
                chunks.append(chunk)
                if not self._incoming.pending and not self._object.pending():
                    break  # all is read, without an exception to say so
            else:
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
    be sent any more are dropped: no method raises for what TLS has come to. What is said while octets are handed up
    leaves in one write.
    """

    __slots__ = (
        "_above",
        "_below",
        "_corked",
        "_failed",
        "_is_broken",
        "_ready",
        "_said_eof",
        "_unsent",
        "layer",
        "unread",
    )

    def __init__(
        self,
        below: asyncio.Transport,
        above: asyncio.BaseProtocol,
        layer: Layer,
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
        self._corked = False
        self._unsent: list[bytes] = []
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
            self._flush()
            self._said_eof = True
            self._below.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._below.is_closing():
            self._tell(self.layer.close())
            self._flush()
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
        self._corked = True
        try:
            self._tell(answer)
            if self.layer.ready and not was_ready:
                self.unread = bool(plain)
                self._ready()
            if plain:
                self._above.data_received(plain)
        finally:
            self._corked = False
            self._flush()
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
        above, self._above = self._above, asyncio.Protocol()  # whoever holds us is held no more: no cycle is left
        self._ready = self._failed = _nothing
        above.connection_lost(exc)

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    # --- within

    @property
    def _is_writable(self) -> bool:
        return not self._said_eof and not self._below.is_closing()

    def _tell(self, octets: bytes) -> None:
        if not octets or not self._is_writable:
            return
        self._unsent.append(octets)
        if not self._corked or len(self._unsent) == TOGETHER:
            self._flush()

    def _flush(self) -> None:
        unsent = self._unsent
        if unsent:
            if self._is_writable:
                self._below.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))
            unsent.clear()

    def _break(self, error: TlsError) -> None:
        if self._is_broken:
            return
        self._is_broken = True
        self._tell(error.alert)
        self._flush()
        self._failed(str(error))
        self._below.close()


def _nothing(*_: object) -> None:
    """In the place of a callback that is due no more."""
