"""A self-signed certificate, for a server that has been given none: made, and written beside its key.

It lets a client encrypt and proves to nobody who is there. Whether one is needed, and when it is too old, is not known
here but in `tls.py`. Invariants: the key is readable by its owner only, from its first octet on; a pair is put in place
by renames, so a crash leaves whole files; two processes do not make one at the same time. RFC 5280.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pillarbox.adapters.system import sync_directory
from pillarbox.core.address import Domain

LIFE = timedelta(days=365)

_CLOCKS_DIFFER = timedelta(days=1)  # a client whose clock is behind must not find it "not yet valid"
_MAX_COMMON_NAME = 64  # characters, RFC 5280 appendix A.1 (ub-common-name)
_LOOPBACK = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
_LOCALHOST = "localhost"


def dns_names(hostname: Domain) -> tuple[str, ...]:
    """The names that a certificate made for a host stands for."""
    return tuple(dict.fromkeys((hostname.ascii, _LOCALHOST)))


def make_pair(hostname: Domain, now: datetime) -> tuple[bytes, bytes]:
    """A certificate for the host and for loopback, and its key (P-256), both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    common_name = hostname.ascii if len(hostname.ascii) <= _MAX_COMMON_NAME else _LOCALHOST
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    alternatives = [x509.DNSName(name) for name in dns_names(hostname)] + [x509.IPAddress(ip) for ip in _LOOPBACK]
    certificate = (
        x509.CertificateBuilder(issuer_name=subject, subject_name=subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make the folder where it is missing, and be alone in it. Raises OSError."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        sync_directory(folder.parent)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def write_pair(certificate: Path, key: Path, *, hostname: Domain, now: datetime) -> None:
    """Make a new pair in the place of whatever is there. Call it in `locked_folder`. Raises OSError."""
    certificate_pem, key_pem = make_pair(hostname, now)
    _replace(key, key_pem)
    _replace(certificate, certificate_pem)
    sync_directory(key.parent)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # one left behind by a crash
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
