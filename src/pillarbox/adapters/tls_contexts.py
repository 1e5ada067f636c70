"""TLS contexts, each with the settings that this server wants: for our clients in two kinds, and for a next hop.

Plain ones are `ssl.SSLContext`s. Those that have the exporter, or ask for a client's certificate, are of pyOpenSSL:
`ssl` has no exporter, and can't go on with a client whose certificate proves nothing. Both kinds are set alike, though
they may be of two versions of OpenSSL. Knows no file but the system's authorities. RFC 9325 (TLS as it is to be used
today), RFC 8446, RFC 8996, RFC 6066 §3 (SNI).
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography import x509
from OpenSSL import SSL, crypto

from pillarbox.adapters.certificates import CertificateError, CertificateFiles, Pair, end_point, read_octets

Context = ssl.SSLContext | SSL.Context
Choose = Callable[[str], Context]  # the context for the host name that a client asks for, "" for none

# TLS 1.2, in our order: forward secrecy and AEAD only (RFC 9325 §4.2), no finite-field Diffie-Hellman, which costs a
# server far more than it costs the client that asks for it. The suites of TLS 1.3 are all sound, and OpenSSL's choice.
_SERVER_SUITES = ":".join(
    f"ECDHE-{signature}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for signature in ("ECDSA", "RSA")
)
_SERVER_CIPHERS = f"{_SERVER_SUITES}:@SECLEVEL=2"
_CLIENT_SUITES = (
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES:{more}!aNULL:!aDSS:!AESCCM:@SECLEVEL={level}"
)
_VERIFIED_SUITES = _CLIENT_SUITES.format(more="", level=2)
# Who takes any certificate takes a weak one, too: what is refused here would cross the network in clear text instead.
_UNVERIFIED_SUITES = _CLIENT_SUITES.format(more="RSA+AES:", level=0)
_NO_SURPRISES = ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION  # RFC 9325 §3.5, §3.3
_SESSIONS_OF = b"pillarbox"

_log = logging.getLogger(__name__)


# --- for our clients


class ServerContext(ssl.SSLContext):
    """One that knows its certificate's hash, which `ssl` doesn't tell."""

    end_point: bytes | None = None  # for channel binding (RFC 5929 §4)


def server_context(files: CertificateFiles, pair: Pair, choose: Choose | None) -> ServerContext:
    """A plain one. Raises CertificateError."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    context.set_ciphers(_SERVER_CIPHERS)
    context.options |= _NO_SURPRISES | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options &= ~ssl.OP_NO_TICKET
    context.num_tickets = 1  # a client that comes again takes one; two would cost every handshake more
    context.end_point = end_point(pair.leaf)
    try:
        context.load_cert_chain(files.certificate, files.key, password="")  # no password, but above all no question
    except OSError as error:
        raise _unusable(files, getattr(error, "reason", None) or error.strerror) from None
    if choose is not None:
        context.sni_callback = lambda connection, name, present: _switch(connection, present, choose(name or ""))
    return context


def _switch(connection: ssl.SSLObject, present: ssl.SSLContext, chosen: Context) -> None:
    if chosen is not present:
        connection.context = cast(ssl.SSLContext, chosen)


@dataclass(slots=True)
class ClientProof:
    """What OpenSSL made of a client's certificate; the `app_data` of a connection of an exporting context."""

    seen: bool = False  # the client has sent one
    fault: str = ""  # why it proves nothing

    @property
    def holds(self) -> bool:
        return self.seen and not self.fault


def exporting_context(
    files: CertificateFiles, pair: Pair, choose: Choose | None, authorities: tuple[x509.Certificate, ...] = ()
) -> SSL.Context:
    """One that has the exporter. With `authorities`, clients are asked for a certificate of theirs. A certificate that
    proves nothing is no more than none: a mail server that shows us the one it has must not lose its mail for it.
    Raises CertificateError."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)  # RFC 8996
    context.set_cipher_list(_SERVER_CIPHERS.encode())
    context.set_options(_NO_SURPRISES | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # tickets do without
    context.set_session_id(_SESSIONS_OF)
    try:
        context.use_certificate(pair.leaf)
        for certificate in pair.chain:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(pair.key)  # type: ignore[arg-type]  # of a kind that can't sign: TypeError
    except (SSL.Error, crypto.Error, TypeError, ValueError) as error:
        raise _unusable(files, reason_of(error)) from None
    if authorities:
        _ask_for_certificates(context, authorities)
    if choose is not None:
        context.set_tlsext_servername_callback(lambda connection: _switch_exporting(connection, choose))
    return context


def _ask_for_certificates(context: SSL.Context, authorities: tuple[x509.Certificate, ...]) -> None:
    store = context.get_cert_store()
    assert store is not None
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
        context.add_client_ca(authority)
    context.set_verify(SSL.VERIFY_PEER, _note)
    context.set_options(SSL.OP_NO_TICKET)  # a session taken up again would not say whether its certificate held


def _note(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, holds: int) -> bool:
    """Called by OpenSSL for each certificate of a client's chain, and each fault."""
    proof = connection.get_app_data()
    if not isinstance(proof, ClientProof):
        return False
    proof.seen = True
    if not holds and not proof.fault:
        proof.fault = f"OpenSSL's error {error} at depth {depth}"  # numbered as by `openssl verify`
    return True


def _switch_exporting(connection: SSL.Connection, choose: Choose) -> None:
    name = (connection.get_servername() or b"").decode("ascii", "replace")
    chosen = cast(SSL.Context, choose(name))
    if chosen is not connection.get_context():
        connection.set_context(chosen)


def reason_of(error: Exception) -> str:
    """The reason in an error of pyOpenSSL, which carries OpenSSL's stack of (library, function, reason)."""
    stack = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return str(stack[-1][-1]) if stack else str(error) or type(error).__name__


def _unusable(files: CertificateFiles, reason: str | None) -> CertificateError:
    said = (reason or "unknown").lower().replace("_", " ")
    return CertificateError(
        f"{files.certificate} with the key in {files.key} can't be used ({said}): have it made again, with a key "
        "of at least 2048 bits (RSA) or 224 bits (EC) and signed by SHA-256 or better"
    )


# --- for a next hop


def client_context(*, verify: bool, authorities: Path | None = None) -> ssl.SSLContext:
    """`verify`: chain and name must hold; else any certificate will do.

    The name is the `server_hostname` of the connection. `authorities`: a PEM file instead of those that the system
    trusts. Raises CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    context.options |= _NO_SURPRISES
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers(_UNVERIFIED_SUITES)
        return context
    context.set_ciphers(_VERIFIED_SUITES)
    context.hostname_checks_common_name = False  # RFC 9525 §1.2
    if authorities is None:
        _trust_the_system(context)
    else:
        _trust(context, authorities)
    return context


def _trust(context: ssl.SSLContext, authorities: Path) -> None:
    read_octets(authorities)  # for its better errors
    try:
        context.load_verify_locations(cafile=authorities)
    except OSError:
        raise CertificateError(
            f"{authorities} holds no certificate in PEM, or a damaged one: it must hold those of the authorities to "
            "trust, each between BEGIN CERTIFICATE and END CERTIFICATE"
        ) from None


def _trust_the_system(context: ssl.SSLContext) -> None:
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    folder = ssl.get_default_verify_paths().capath
    with suppress(OSError):
        if context.cert_store_stats()["x509"] or (folder and os.listdir(folder)):
            return
    _log.warning(
        "this system trusts no certification authority, so no next hop can be verified: install its package of "
        "them (ca-certificates), or name a file in SSL_CERT_FILE"
    )
