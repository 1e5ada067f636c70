"""TLS contexts: for our clients by the certificates of this server, for a next hop by what is asked of it.

Makes `ssl.SSLContext`s and knows no connection; handshakes belong to the layer in `net`. Invariants: all connections to
one certificate share one context, so that session tickets hold from one to the next; a context that was given out is
never changed; files that can't be used never replace a certificate that can. RFC 9325 (TLS as it is to be used today),
RFC 8446, RFC 6066 §3 (SNI), RFC 9525 (the name of a server).
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pillarbox.adapters import self_signed
from pillarbox.core.address import Domain

LOOK_EVERY = 0.5  # seconds
RENEW_BEFORE = timedelta(days=30)  # a self-signed certificate

# TLS 1.2, in our order: forward secrecy and AEAD only (RFC 9325 §4.2), no finite-field Diffie-Hellman, which costs a
# server far more than it costs the client that asks for it. The suites of TLS 1.3 are all sound, and OpenSSL's choice.
_SERVER_SUITES = ":".join(
    f"ECDHE-{signature}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for signature in ("ECDSA", "RSA")
)
_CLIENT_SUITES = (
    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES:{more}!aNULL:!aDSS:!AESCCM:@SECLEVEL={level}"
)
_VERIFIED_SUITES = _CLIENT_SUITES.format(more="", level=2)
# Who takes any certificate takes a weak one, too: what is refused here would cross the network in clear text instead.
_UNVERIFIED_SUITES = _CLIENT_SUITES.format(more="RSA+AES:", level=0)

# A certificate without alternative names, or with extensions that can't be read; OpenSSL may still use it.
_NO_NAMES = (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate, with its chain after it, and its key, both PEM; they may be one file."""

    certificate: Path
    key: Path


class CertificateError(Exception):
    """Files of certificates that can't be used; the text names the file and the mend."""


# --- one certificate from its files


@dataclass(frozen=True, slots=True)
class _Certificate:
    """What is known of a certificate that fits its key."""

    names: tuple[str, ...]
    valid_from: datetime
    expires: datetime


def _octets(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CertificateError(f"{path} does not exist: put the file there, or name another one") from None
    except PermissionError:
        raise CertificateError(f"{path} can't be read: give the user that the server runs as the right to") from None
    except OSError as error:
        raise CertificateError(f"{path} can't be read ({error.strerror}): name a file that can") from None


def _leaf(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(_octets(path))[0]
    except ValueError:
        raise CertificateError(
            f"{path} holds no certificate in PEM, or a damaged one: it must hold the server's certificate and after "
            "it those that signed it, each between BEGIN CERTIFICATE and END CERTIFICATE"
        ) from None


def _key(path: Path) -> PrivateKeyTypes:
    try:
        # Whether an RSA key is sound would take 0.4 s to find out at 4096 bits; whether it fits is compared below.
        return load_pem_private_key(_octets(path), password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise CertificateError(
            f"the key in {path} is encrypted, and nobody is there to type its passphrase: write it without one, by "
            f"`openssl pkey -in {path} -out NEW`, and let the server's user alone read that"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(
            f"{path} holds no private key in PEM, or a damaged one: it must hold one between BEGIN PRIVATE KEY and "
            "END PRIVATE KEY"
        ) from None


def _public_key(leaf: x509.Certificate) -> CertificatePublicKeyTypes | None:
    try:
        return leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _dns_names(leaf: x509.Certificate) -> tuple[str, ...]:
    """As written in lower case; a common name does not count (RFC 9525 §1.2)."""
    try:
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except _NO_NAMES:
        return ()
    return tuple(_canonical(name) for name in alternatives.get_values_for_type(x509.DNSName))


def _canonical(name: str) -> str:
    return name.rstrip(".").lower()


def _read(files: CertificateFiles) -> _Certificate:
    """Raises CertificateError."""
    leaf, key = _leaf(files.certificate), _key(files.key)
    if _public_key(leaf) != key.public_key():
        raise CertificateError(
            f"the key in {files.key} is not that of the first certificate in {files.certificate}: name the key it was "
            "made with; where the file holds a chain, put the server's own certificate first"
        )
    return _Certificate(_dns_names(leaf), leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _server_context(files: CertificateFiles) -> ssl.SSLContext:
    """Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    context.set_ciphers(f"{_SERVER_SUITES}:@SECLEVEL=2")
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION  # RFC 9325 §3.5, §3.3
    context.options &= ~ssl.OP_NO_TICKET
    try:
        context.load_cert_chain(files.certificate, files.key, password="")  # no password, but above all no question
    except OSError as error:
        reason = (getattr(error, "reason", None) or error.strerror or "unknown").lower().replace("_", " ")
        raise CertificateError(
            f"{files.certificate} with the key in {files.key} can't be used ({reason}): have it made again, with a key "
            "of at least 2048 bits (RSA) or 224 bits (EC) and signed by SHA-256 or better"
        ) from None
    return context


# --- pairs of files, kept up to date


def _stamp(files: CertificateFiles) -> tuple[tuple[int, ...] | None, ...]:
    """Differs when a file does; of a link it is the file that counts."""
    stamps: list[tuple[int, ...] | None] = []
    for path in (files.certificate, files.key):
        try:
            status = os.stat(path)
        except OSError:
            stamps.append(None)
        else:
            stamps.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(stamps)


class _Pair:
    """One pair of files and what was last loaded of it. Making it raises CertificateError."""

    def __init__(self, files: CertificateFiles, wall: Callable[[], float]) -> None:
        self._files = files
        self._wall = wall
        self._complaint = ""
        self._load()

    def look(self) -> bool:
        """Load what has changed; what can't be used is tried again at each look. Tells whether there is a new one."""
        if not self._is_due():
            return False
        try:
            self._load()
        except CertificateError as error:
            if str(error) != self._complaint:
                _log.error("the certificate that was loaded before stays in use, but new files are bad: %s", error)
            self._complaint = str(error)
            return False
        self._complaint = ""
        _log.info("loaded the new %s, valid until %s", self._files.certificate, self.certificate.expires.date())
        return True

    def _is_due(self) -> bool:
        return bool(self._complaint) or _stamp(self._files) != self._seen

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)

    def _load(self) -> None:
        self._seen = _stamp(self._files)  # before the reading: what changes meanwhile is seen at the next look
        certificate = _read(self._files)
        self.context = _server_context(self._files)
        self.certificate = certificate
        self._warn()

    def _warn(self) -> None:
        path, now = self._files.certificate, self._now()
        if self.certificate.expires <= now:
            _log.warning("%s expired on %s: renew it", path, self.certificate.expires.date())
        elif self.certificate.valid_from > now:
            _log.warning("%s is not valid before %s: is the clock right?", path, self.certificate.valid_from.date())


class _SelfSignedPair(_Pair):
    """A pair of our own making, made when it is missing, unfit, for another host, or soon too old."""

    def __init__(self, folder: Path, hostname: Domain, wall: Callable[[], float]) -> None:
        self._folder = folder
        self._hostname = hostname
        super().__init__(CertificateFiles(folder / "self-signed.pem", folder / "self-signed.key"), wall)

    def _is_due(self) -> bool:
        return super()._is_due() or self._is_old(self.certificate)

    def _is_old(self, certificate: _Certificate) -> bool:
        return certificate.expires - RENEW_BEFORE <= self._now()

    def _is_good(self) -> bool:
        try:
            certificate = _read(self._files)
        except CertificateError:
            return False
        return certificate.names == self_signed.dns_names(self._hostname) and not self._is_old(certificate)

    def _load(self) -> None:
        files = self._files
        try:
            with self_signed.locked_folder(self._folder):
                if not self._is_good():
                    self_signed.write_pair(files.certificate, files.key, hostname=self._hostname, now=self._now())
        except OSError as error:
            raise CertificateError(
                f"can't make a self-signed certificate in {self._folder} ({error.strerror}): let the server write "
                "there, or give it a certificate in [[tls]]"
            ) from error
        super()._load()

    def _warn(self) -> None:
        super()._warn()
        _log.warning(
            "SELF-SIGNED CERTIFICATE: with %s connections are encrypted, but no client can know that it speaks with %s "
            "and not with an impostor; give certificate and key of a real one in [[tls]]",
            self._files.certificate,
            self._hostname,
        )


# --- the server's side


class ServerCertificates:
    """The certificates of this server, the first for clients that name none of the others. For one thread."""

    def __init__(
        self,
        files: Sequence[CertificateFiles],
        *,
        keys: Path,
        hostname: Domain,
        monotonic: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """No files: one is made, self-signed, in the folder `keys`. Raises CertificateError."""
        self._monotonic = monotonic
        self._pairs: list[_Pair] = [_Pair(pair, wall) for pair in files] or [_SelfSignedPair(keys, hostname, wall)]
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._looked = monotonic()
        self._arrange()

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The DNS names of each certificate, in the order of the files."""
        return tuple(pair.certificate.names for pair in self._pairs)

    def context(self) -> ssl.SSLContext:
        """For a connection that begins now."""
        now = self._monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            if any([pair.look() for pair in self._pairs]):  # a list: each is looked at
                self._arrange()
        return self._pairs[0].context

    def _arrange(self) -> None:
        self._by_name = {}
        for pair in self._pairs:
            for name in pair.certificate.names:
                self._by_name.setdefault(name, pair.context)
        if len(self._pairs) > 1:
            self._pairs[0].context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """SNI (RFC 6066 §3): the name itself, then a wildcard for its first label (RFC 9525 §6.3), else the first."""
        wanted = _canonical(name or "")
        wildcard = f"*.{wanted.partition('.')[2]}"
        chosen = self._by_name.get(wanted) or self._by_name.get(wildcard) or self._pairs[0].context
        if chosen is not context:
            connection.context = chosen


# --- the client's side


def client_context(*, verify: bool, authorities: Path | None = None) -> ssl.SSLContext:
    """For a next hop. `verify`: chain and name must hold; else any certificate will do.

    The name is the `server_hostname` of the connection. `authorities`: a PEM file instead of those that the system
    trusts. Raises CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
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
    _octets(authorities)  # for its better errors
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
