"""A server's TLS layer by pyOpenSSL: with the exporter, and with the client's certificate where it was asked for.

Slower than that by `ssl`, so it is for listeners where people log in. Otherwise as `tls.py` says. RFC 5705, RFC 9266
(the exporter's octets for channel binding), RFC 7627 (what TLS 1.2 needs for that).
"""

from __future__ import annotations

import ssl
from typing import Any

from OpenSSL import SSL

from pillarbox.adapters.certificates import end_point, mail_address
from pillarbox.adapters.tls_contexts import ClientProof, Context, reason_of
from pillarbox.net.tls import READ, Layer, TlsError, TlsLayer

_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 §4
_LENGTH = 32


def server_layer(context: Context) -> Layer:
    """The layer that fits the context."""
    return TlsLayer(context, server_side=True) if isinstance(context, ssl.SSLContext) else ExportingLayer(context)


class ExportingLayer:
    """The server's side of one TLS connection."""

    __slots__ = ("_connection", "_proof", "ended", "ready")

    def __init__(self, context: SSL.Context) -> None:
        self._connection = SSL.Connection(context)
        self._connection.set_accept_state()
        self._proof = ClientProof()
        self._connection.set_app_data(self._proof)
        self.ready = False
        self.ended = False

    def start(self) -> bytes:
        return b""

    def receive(self, octets: bytes) -> tuple[bytes, bytes]:
        if octets:
            self._connection.bio_write(octets)
        was_ready = self.ready
        if not was_ready:
            self._shake()
        plain = self._read() if self.ready else b""
        if plain and was_ready:
            return plain, b""  # what TLS itself has to say may go with what the protocol answers
        return plain, self._outgoing()

    def send(self, octets: bytes) -> bytes:
        if not self.ready:
            raise TlsError("TLS: nothing can be said before the handshake is done")
        try:
            self._connection.sendall(octets)
        except SSL.Error as error:
            raise self._fault(error) from error
        return self._outgoing()

    def close(self) -> bytes:
        if self.ready:
            try:
                self._connection.shutdown()
            except SSL.Error:
                pass  # the peer's own is not waited for
        return self._outgoing()

    @property
    def version(self) -> str:
        return self._connection.get_protocol_version_name()

    @property
    def cipher(self) -> str:
        return self._connection.get_cipher_name() or ""

    def binding(self, kind: str) -> bytes | None:
        if not self.ready:
            return None
        if kind == "tls-exporter" and self._is_unique:
            return self._connection.export_keying_material(_LABEL, _LENGTH)
        if kind == "tls-server-end-point":
            ours = self._connection.get_certificate(as_cryptography=True)
            return None if ours is None else end_point(ours)
        return None

    @property
    def subject(self) -> str | None:
        if not self.ready or not self._proof.holds:
            return None
        theirs = self._connection.get_peer_certificate(as_cryptography=True)
        return None if theirs is None else mail_address(theirs)

    @property
    def doubt(self) -> str:
        return self._proof.fault

    @property
    def _is_unique(self) -> bool:
        """Whether no other connection can have the same keys: TLS 1.3, or the extended master secret of RFC 7627
        (RFC 9266 §4.2). pyOpenSSL has no name for the latter."""
        connection: Any = self._connection
        if connection.get_protocol_version() >= SSL.TLS1_3_VERSION:
            return True
        tell = getattr(getattr(SSL, "_lib", None), "SSL_get_extms_support", None)
        return tell is not None and tell(connection._ssl) == 1

    def _shake(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            raise self._fault(error) from error
        self.ready = True

    def _read(self) -> bytes:
        chunks = []
        try:
            while True:
                chunks.append(self._connection.recv(READ))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ended = True
        except SSL.Error as error:
            raise self._fault(error) from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _outgoing(self) -> bytes:
        chunks: list[bytes] = []
        try:
            while not chunks or len(chunks[-1]) == READ:
                chunks.append(self._connection.bio_read(READ))
        except SSL.WantReadError:
            pass
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _fault(self, error: SSL.Error) -> TlsError:
        return TlsError(f"TLS: {reason_of(error).lower()}", self._outgoing())
