"""Certificates as files and as values: a pair that fits, authorities, and what a certificate says of whom it is for.

Makes no TLS context and knows no connection. Invariant: what is read here fits together, or CertificateError names the
file and the mend. RFC 5280, RFC 9525 (the names of a server), RFC 8398 (mail addresses that are not ASCII).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from pillarbox.core.address import AddressError, Domain, Mailbox

# A certificate without alternative names, or with extensions that can't be read; OpenSSL may still use it.
_NO_NAMES = (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError)
_SMTP_UTF8_MAILBOX = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9")  # RFC 8398 §3
_UTF8_STRING = 0x0C  # its tag in DER
_LONGEST = 3 + 0xFF  # octets of one whose length is one octet or two
_TOO_WEAK = (hashes.MD5, hashes.SHA1)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate, with its chain after it, and its key, both PEM; they may be one file."""

    certificate: Path
    key: Path


class CertificateError(Exception):
    """Files of certificates that can't be used; the text names the file and the mend."""


# --- from files


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate that fits its key, and those that come after it in its file."""

    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes
    names: tuple[str, ...]  # its DNS names

    @property
    def valid_from(self) -> datetime:
        return self.leaf.not_valid_before_utc

    @property
    def expires(self) -> datetime:
        return self.leaf.not_valid_after_utc


def read_octets(path: Path) -> bytes:
    """Raises CertificateError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CertificateError(f"{path} does not exist: put the file there, or name another one") from None
    except PermissionError:
        raise CertificateError(f"{path} can't be read: give the user that the server runs as the right to") from None
    except OSError as error:
        raise CertificateError(f"{path} can't be read ({error.strerror}): name a file that can") from None


def _certificates(path: Path, holds: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(read_octets(path))
    except ValueError:
        raise CertificateError(
            f"{path} holds no certificate in PEM, or a damaged one: it must hold {holds}, each between BEGIN "
            "CERTIFICATE and END CERTIFICATE"
        ) from None


def read_authorities(path: Path) -> tuple[x509.Certificate, ...]:
    """Raises CertificateError."""
    return tuple(_certificates(path, "those of the authorities to trust"))


def _key(path: Path) -> PrivateKeyTypes:
    try:
        # Whether an RSA key is sound would take 0.4 s to find out at 4096 bits; whether it fits is compared below.
        return load_pem_private_key(read_octets(path), password=None, unsafe_skip_rsa_key_validation=True)
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


def read_pair(files: CertificateFiles) -> Pair:
    """Raises CertificateError."""
    leaf, *chain = _certificates(files.certificate, "the server's certificate and after it those that signed it")
    key = _key(files.key)
    if _public_key(leaf) != key.public_key():
        raise CertificateError(
            f"the key in {files.key} is not that of the first certificate in {files.certificate}: name the key it was "
            "made with; where the file holds a chain, put the server's own certificate first"
        )
    return Pair(leaf, tuple(chain), key, _dns_names(leaf))


# --- whom it is for


def _alternatives(leaf: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except _NO_NAMES:
        return None


def _dns_names(leaf: x509.Certificate) -> tuple[str, ...]:
    """As written in lower case; a common name does not count (RFC 9525 §1.2)."""
    alternatives = _alternatives(leaf)
    return () if alternatives is None else tuple(map(canonical, alternatives.get_values_for_type(x509.DNSName)))


def canonical(name: str) -> str:
    return name.rstrip(".").lower()


def mail_address(leaf: x509.Certificate) -> str | None:
    """Whom a client's certificate is for: the first mail address among its alternative names, in their order; where
    there is none, the first e-mail in its subject (RFC 5280 §4.1.2.6: for certificates of old)."""
    for text in (*_mail_names(leaf), *_mail_in_subject(leaf)):
        try:
            address = Mailbox.parse(text)
        except AddressError:
            continue
        if isinstance(address.domain, Domain):
            return str(address)
    return None


def _mail_names(leaf: x509.Certificate) -> Iterator[str]:
    for name in _alternatives(leaf) or ():
        if isinstance(name, x509.RFC822Name):
            yield name.value
        elif isinstance(name, x509.OtherName) and name.type_id == _SMTP_UTF8_MAILBOX:
            yield _utf8_string(name.value)


def _utf8_string(der: bytes) -> str:
    """From whole DER, as `cryptography` gives it; "" for anything but a UTF8String, and for one longer than a name."""
    if der[0] != _UTF8_STRING or len(der) > _LONGEST:
        return ""
    header = 2 if len(der) < 0x82 else 3  # the length takes a second octet from 128 on
    return der[header:].decode("utf-8", "replace")


def _mail_in_subject(leaf: x509.Certificate) -> Iterator[str]:
    try:
        attributes = leaf.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)
    except ValueError:
        return
    for attribute in attributes:
        if isinstance(attribute.value, str):
            yield attribute.value


def end_point(leaf: x509.Certificate) -> bytes | None:
    """`tls-server-end-point`: the certificate's hash by that of its signature, SHA-256 for those that are too weak
    (RFC 5929 §4.1). None where the signature has none of its own, as with Ed25519: the RFC leaves that open."""
    try:
        algorithm = leaf.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    return leaf.fingerprint(hashes.SHA256() if isinstance(algorithm, _TOO_WEAK) else algorithm)
