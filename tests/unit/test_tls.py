"""TLS contexts, by real handshakes in memory and real files: which certificate, which version, and what is refused."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pillarbox.adapters import self_signed
from pillarbox.adapters.certificates import CertificateError, CertificateFiles
from pillarbox.adapters.tls import LOOK_EVERY, RENEW_BEFORE, ServerCertificates
from pillarbox.adapters.tls_contexts import client_context
from pillarbox.core.address import Domain

HOST = Domain("mx.example.test")


class Watch:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Town:
    """A CA, a folder, and server certificates made of both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.watch = Watch()
        self._written = 1_700_000_000
        self.authorities = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.authorities)

    def issue(self, stem: str, *names: str, not_after: datetime | None = None) -> CertificateFiles:
        """Write a pair, in the place of an earlier one of that stem."""
        leaf = self.ca.issue_cert(*(names or (stem,)), not_after=not_after)
        files = CertificateFiles(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        self.write(files.certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        self.write(files.key, leaf.private_key_pem.bytes())
        return files

    def write(self, path: Path, octets: bytes) -> None:
        """Each time with a time stamp of its own, which the kernel's clock would be too coarse for."""
        path.write_bytes(octets)
        self._written += 1
        os.utime(path, (self._written, self._written))

    def server(self, *files: CertificateFiles, wall: Callable[[], float] = time.time) -> ServerCertificates:
        return ServerCertificates(files, keys=self.folder / "keys", hostname=HOST, monotonic=self.watch, wall=wall)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


class Connection:
    """Both ends of a connection, joined in memory, after their handshake. Raises what either end finds wrong."""

    def __init__(
        self,
        client: ssl.SSLContext,
        server: ssl.SSLContext,
        name: str | None = HOST.ascii,
        session: ssl.SSLSession | None = None,
    ) -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(down, up, server_hostname=name, session=session)
        self.server = server.wrap_bio(up, down, server_side=True)
        under_way = [self.client, self.server]
        for end in [self.client, self.server] * 3:
            if end in under_way:
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                    under_way.remove(end)
        assert not under_way

    def works(self) -> bool:
        """Octets come through both ways. Brings the session's tickets along."""
        self.server.write(b"to the client")
        self.client.write(b"to the server")
        return self.client.read() == b"to the client" and self.server.read() == b"to the server"

    def certificate(self) -> bytes:
        octets = self.client.getpeercert(binary_form=True)
        assert octets is not None
        return octets


def anyone() -> ssl.SSLContext:
    return client_context(verify=False)


def shown(server: ServerCertificates, name: str | None = HOST.ascii) -> bytes:
    """The certificate that a client sees."""
    return Connection(anyone(), server.context(), name).certificate()


def first_in(path: Path) -> bytes:
    return x509.load_pem_x509_certificates(path.read_bytes())[0].public_bytes(serialization.Encoding.DER)


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


# --- which certificate


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (None, 0),
        ("mx.example.test", 0),
        ("MX.Example.TEST", 0),
        ("unknown.test", 0),
        ("example.org", 1),
        ("any.example.org", 1),
        ("ANY.example.org", 1),
        ("any.example.org.", 1),
        ("two.labels.example.org", 0),
        ("mail.example.org", 2),
        ("mail.example.org.", 2),
        ("192.0.2.1", 0),
        ("localhost", 0),
    ],
)
def test_the_name_picks_the_certificate(town: Town, name: str | None, number: int) -> None:
    files = [
        town.issue("first", "mx.example.test"),
        town.issue("wild", "example.org", "*.example.org"),
        town.issue("exact", "mail.example.org", "MX.example.test"),
    ]
    server = town.server(*files)
    assert shown(server, name) == first_in(files[number].certificate)
    assert server.names == (
        ("mx.example.test",),
        ("example.org", "*.example.org"),
        ("mail.example.org", "mx.example.test"),
    )


def test_one_certificate_serves_every_name(town: Town) -> None:
    files = town.issue("only", "mx.example.test")
    server = town.server(files)
    assert shown(server, "other.test") == shown(server, None) == first_in(files.certificate)
    assert server.context().sni_callback is None, "no name can disturb a handshake"


def test_the_chain_is_sent_along(town: Town) -> None:
    middle = town.ca.create_child_ca()
    leaf = middle.issue_cert(HOST.ascii)
    files = CertificateFiles(town.folder / "chain.pem", town.folder / "chain.pem")  # all in one file
    leaf.private_key_and_cert_chain_pem.write_to_path(files.certificate)
    server = town.server(files)
    assert Connection(client_context(verify=True, authorities=town.authorities), server.context()).works()


def test_a_certificate_without_dns_names_is_the_first_for_all(town: Town) -> None:
    server = town.server(town.issue("address", "192.0.2.1"), town.issue("b.test"))
    assert server.names == ((), ("b.test",))
    assert shown(server, "a.test") == first_in(town.folder / "address.pem")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # how `ssl` tells of octets above 127
@pytest.mark.parametrize("octets", [b"\xff\xfe\r\n.test", b"me\0e.test"])
def test_octets_that_are_no_name_are_refused(town: Town, octets: bytes) -> None:
    files = town.issue("a.test")
    server = town.server(files, town.issue("b.test"))
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        anyone().wrap_bio(down, up, server_hostname="name.test").do_handshake()
    hello = up.read()
    assert hello.count(b"name.test") == 1
    up.write(hello.replace(b"name.test", octets))
    with pytest.raises(ssl.SSLError) as refusal:
        server.context().wrap_bio(up, down, server_side=True).do_handshake()
    assert not isinstance(refusal.value, ssl.SSLWantReadError)
    assert down.read()[:1] == b"\x15", "an alert"
    assert shown(server) == first_in(files.certificate)


# --- versions, suites, options


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_that_are_taken(town: Town, version: ssl.TLSVersion) -> None:
    client = anyone()
    client.minimum_version = client.maximum_version = version
    connection = Connection(client, town.server(town.issue(HOST.ascii)).context())
    assert connection.client.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    assert connection.client.compression() is None
    assert connection.works()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("name", ["TLSv1", "TLSv1_1"])
def test_versions_that_are_refused(town: Town, name: str) -> None:
    version = ssl.TLSVersion[name]
    client = anyone()
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = version
    files = town.issue(HOST.ascii)
    with pytest.raises(ssl.SSLError) as refusal:
        Connection(client, town.server(files).context())
    assert refusal.value.reason == "UNSUPPORTED_PROTOCOL"

    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lax.set_ciphers("ALL:@SECLEVEL=0")
    lax.minimum_version = version
    lax.load_cert_chain(files.certificate, files.key)
    assert Connection(client, lax).works(), "it was our server that refused, not this client that can't"


@pytest.mark.parametrize(
    "suite",
    ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-CCM", "DHE-RSA-AES128-GCM-SHA256"],
)
def test_suites_that_are_refused(town: Town, suite: str) -> None:
    client = anyone()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(suite)
    with pytest.raises(ssl.SSLError) as refusal:
        Connection(client, town.server(town.issue(HOST.ascii)).context())
    assert refusal.value.reason == "NO_SHARED_CIPHER"


def test_the_server_chooses_the_suite(town: Town) -> None:
    server = town.server(town.issue(HOST.ascii)).context()
    used = set()
    for order in (
        "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384",
    ):
        client = anyone()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(order)
        used.add(Connection(client, server).client.cipher())
    assert len(used) == 1


def test_suites_are_forward_secret_and_aead(town: Town) -> None:
    suites = town.server(town.issue(HOST.ascii)).context().get_ciphers()
    older = [suite for suite in suites if suite["protocol"] != "TLSv1.3"]
    assert len(older) == 6
    assert all(suite["aead"] and suite["kea"] == "kx-ecdhe" for suite in older)
    assert all(suite["aead"] for suite in suites)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl, which is the client that renegotiates")
def test_renegotiation_is_refused(town: Town) -> None:
    context = town.server(town.issue(HOST.ascii)).context()
    heard: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(20)
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            while octets := secured.recv(1000):
                heard.append(octets)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=serve)
        thread.start()
        command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{listener.getsockname()[1]}"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as client:
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(b"R\n")  # s_client's command to renegotiate
            client.stdin.flush()
            told = client.stdout.read()  # until it gives up; its input stays open
        thread.join(20)
    assert b"RENEGOTIATING" in told
    assert b"no renegotiation" in told
    assert heard == []


# --- sessions


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["mx.example.test", "example.org", None])
def test_a_session_is_taken_up_again(town: Town, version: ssl.TLSVersion, name: str | None) -> None:
    server = town.server(town.issue("mx.example.test"), town.issue("example.org"))
    client = anyone()
    client.minimum_version = client.maximum_version = version
    first = Connection(client, server.context(), name)
    assert first.works()  # in TLS 1.3 the tickets come with the first octets
    assert first.client.session is not None and first.client.session.has_ticket
    town.watch.time += LOOK_EVERY
    second = Connection(client, server.context(), name, first.client.session)
    assert second.works()
    assert not first.client.session_reused
    assert second.client.session_reused and second.server.session_reused


# --- new files while it runs


def test_new_files_are_loaded_after_half_a_second(town: Town) -> None:
    old = first_in(town.issue("a", "old.test").certificate)
    server = town.server(CertificateFiles(town.folder / "a.pem", town.folder / "a.key"))
    context = server.context()
    open_before = Connection(anyone(), context)
    new = first_in(town.issue("a", "new.test").certificate)

    town.watch.time += LOOK_EVERY * 0.9
    assert server.context() is context
    assert shown(server) == old
    town.watch.time += LOOK_EVERY * 0.1
    assert shown(server) == new
    assert server.names == (("new.test",),)
    assert server.context() is not context
    assert open_before.certificate() == old and open_before.works()


def test_files_that_did_not_change_keep_their_context(town: Town) -> None:
    server = town.server(town.issue("a.test"))
    context = server.context()
    for _ in range(3):
        town.watch.time += LOOK_EVERY
        assert server.context() is context


def test_files_replaced_by_renaming_or_by_a_link_are_seen(town: Town) -> None:
    town.issue("one", "a.test")
    town.issue("two", "a.test")
    (town.folder / "live").symlink_to("one.pem")
    files = CertificateFiles(town.folder / "live", town.folder / "live.key")
    files.key.write_bytes((town.folder / "one.key").read_bytes())
    server = town.server(files)
    assert shown(server) == first_in(town.folder / "one.pem")

    (town.folder / "next").symlink_to("two.pem")
    (town.folder / "next").rename(files.certificate)
    (town.folder / "two.key").rename(files.key)
    town.watch.time += LOOK_EVERY
    assert shown(server) == first_in(town.folder / "two.pem")


def test_one_of_several_is_replaced(town: Town) -> None:
    first = town.issue("a", "a.test")
    server = town.server(first, town.issue("b", "b.test"))
    context = server.context()

    new = town.issue("b", "c.test")
    town.watch.time += LOOK_EVERY
    assert server.context() is context, "the first has not changed"
    assert shown(server, "c.test") == first_in(new.certificate)
    assert shown(server, "b.test") == first_in(first.certificate)

    new_first = town.issue("a", "a.test")
    town.watch.time += LOOK_EVERY
    assert shown(server, None) == first_in(new_first.certificate)
    assert shown(server, "c.test") == first_in(new.certificate), "a new first one still asks for the name"


def test_a_handshake_goes_on_over_a_reload(town: Town) -> None:
    """The client's first octets come after its context has been replaced."""
    server = town.server(town.issue("a", "a.test"), town.issue("b", "b.test"))
    context = server.context()
    new = [town.issue("a", "a.test"), town.issue("b", "b.test")]
    town.watch.time += LOOK_EVERY
    assert server.context() is not context
    for files, name in zip(new, ("a.test", "b.test"), strict=True):
        connection = Connection(anyone(), context, name)
        assert connection.works()
        assert connection.certificate() == first_in(files.certificate)


@pytest.mark.parametrize("damage", ["half written", "only the certificate", "only the key", "gone", "garbage"])
def test_files_that_can_not_be_used_keep_the_old(town: Town, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    files = town.issue("a", "a.test")
    old, old_certificate, old_key = first_in(files.certificate), files.certificate.read_bytes(), files.key.read_bytes()
    server = town.server(files)
    context = server.context()
    town.issue("a", "a.test")
    whole = files.certificate.read_bytes()
    if damage == "half written":
        town.write(files.certificate, whole[: len(whole) // 2])
    elif damage == "only the certificate":
        town.write(files.key, old_key)
    elif damage == "only the key":
        town.write(files.certificate, old_certificate)
    elif damage == "gone":
        files.certificate.unlink()
    else:
        town.write(files.key, b"\0garbage")

    for _ in range(3):
        town.watch.time += LOOK_EVERY
        assert server.context() is context
    assert shown(server) == old
    (complaint,) = logged(caplog, logging.ERROR)
    assert "stays in use" in complaint and str(town.folder / "a.") in complaint

    new = town.issue("a", "b.test")
    town.watch.time += LOOK_EVERY
    assert shown(server) == first_in(new.certificate)
    assert len(logged(caplog, logging.ERROR)) == 1


def test_the_half_of_a_pair_is_completed_at_the_next_look(town: Town) -> None:
    """The certificate is replaced before its key, and a look comes between the two."""
    files = town.issue("a", "a.test")
    key, old = files.key.read_bytes(), first_in(files.certificate)
    server = town.server(files)
    town.issue("a", "a.test")
    new_key = files.key.read_bytes()
    town.write(files.key, key)
    town.watch.time += LOOK_EVERY
    assert shown(server) == old
    town.write(files.key, new_key)
    assert shown(server) == old
    town.watch.time += LOOK_EVERY
    assert shown(server) == first_in(files.certificate) != old


def test_the_right_to_read_is_seen_when_it_is_given(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    files = town.issue("a", "a.test")
    server = town.server(files)
    old = shown(server)
    town.issue("a", "a.test")
    with monkeypatch.context() as patch:
        refuse_to_read(patch, files.key)
        town.watch.time += LOOK_EVERY
        assert shown(server) == old
    town.watch.time += LOOK_EVERY
    assert shown(server) == first_in(files.certificate)


def refuse_to_read(patch: pytest.MonkeyPatch, refused: Path) -> None:
    """As the system would, but for root as well."""
    read = Path.read_bytes

    def reading(path: Path) -> bytes:
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    patch.setattr(Path, "read_bytes", reading)


# --- files that can't be used


def encrypted(key: bytes, style: serialization.PrivateFormat) -> bytes:
    protection = serialization.BestAvailableEncryption(b"secret")
    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(serialization.Encoding.PEM, style, protection)


def short_rsa(now: datetime) -> tuple[bytes, bytes]:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([])
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return (
        certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def another_key(town: Town, kind: trustme.KeyType) -> bytes:
    return town.ca.issue_cert("a.test", key_type=kind).private_key_pem.bytes()


PKCS8, PKCS1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
ECDSA, RSA = trustme.KeyType.ECDSA, trustme.KeyType.RSA

# What becomes of a certificate and its key, which file is named, and what is said of it.
Spoiling = Callable[[Town, bytes, bytes], tuple[bytes | None, bytes | None]]
FAULTS: dict[str, tuple[Spoiling, str, str]] = {
    "no certificate": (lambda town, certificate, key: (None, key), "a.pem", "does not exist: put the file there"),
    "no key": (lambda town, certificate, key: (certificate, None), "a.key", "does not exist: put the file there"),
    "empty": (lambda town, certificate, key: (b"", key), "a.pem", "no certificate in PEM.* BEGIN CERTIFICATE"),
    "DER": (
        lambda town, certificate, key: (ssl.PEM_cert_to_DER_cert(certificate.decode()), key),
        "a.pem",
        "no certificate in PEM",
    ),
    "damaged certificate": (
        lambda town, certificate, key: (certificate.replace(b"M", b"N"), key),
        "a.pem",
        "no certificate in PEM, or a damaged one",
    ),
    "garbage for a key": (
        lambda town, certificate, key: (certificate, bytes(range(256))),
        "a.key",
        "no private key in PEM.* BEGIN PRIVATE KEY",
    ),
    "damaged key": (
        lambda town, certificate, key: (certificate, key[:60]),
        "a.key",
        "no private key in PEM, or a damaged one",
    ),
    "swapped": (lambda town, certificate, key: (key, certificate), "a.pem", "no certificate in PEM"),
    "encrypted key": (
        lambda town, certificate, key: (certificate, encrypted(key, PKCS8)),
        "a.key",
        "is encrypted.*`openssl pkey -in",
    ),
    "encrypted key of old": (
        lambda town, certificate, key: (certificate, encrypted(key, PKCS1)),
        "a.key",
        "is encrypted.*`openssl pkey -in",
    ),
    "another key": (
        lambda town, certificate, key: (certificate, another_key(town, ECDSA)),
        "a.key",
        r"is not that of the first certificate in .*a\.pem: name the key",
    ),
    "key of another kind": (
        lambda town, certificate, key: (certificate, another_key(town, RSA)),
        "a.key",
        "is not that of the first certificate",
    ),
    "chain first": (
        lambda town, certificate, key: (town.authorities.read_bytes() + certificate, key),
        "a.pem",
        "put the server's own certificate first",
    ),
    "short key": (
        lambda town, certificate, key: short_rsa(datetime.now(UTC)),
        "a.pem",
        r"\(ee key too small\).* at least 2048 bits",
    ),
}


def spoil(town: Town, files: CertificateFiles, how: Spoiling) -> None:
    spoiled = how(town, files.certificate.read_bytes(), files.key.read_bytes())
    for path, octets in zip((files.certificate, files.key), spoiled, strict=True):
        if octets is None:
            path.unlink()
        else:
            town.write(path, octets)


@pytest.mark.parametrize(("how", "file", "says"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_files(town: Town, how: Spoiling, file: str, says: str) -> None:
    files = town.issue("a")
    spoil(town, files, how)
    with pytest.raises(CertificateError, match=says) as fault:
        town.server(town.issue("sound"), files)
    assert str(town.folder / file) in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_folder_is_no_certificate(town: Town) -> None:
    with pytest.raises(CertificateError, match=r"can't be read \(Is a directory\): name a file"):
        town.server(CertificateFiles(town.folder, town.folder))


def test_a_file_that_may_not_be_read_is_named(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    files = town.issue("a")
    refuse_to_read(monkeypatch, files.key)
    with pytest.raises(CertificateError, match=r"a\.key can't be read: give the user that the server runs as"):
        town.server(files)


@pytest.mark.parametrize(("days", "says"), [(-1, r"expired on 20\d\d-\d\d-\d\d: renew it"), (1, None)])
def test_an_expired_certificate_is_used_with_a_warning(
    town: Town, caplog: pytest.LogCaptureFixture, days: int, says: str | None
) -> None:
    files = town.issue("a.test", not_after=datetime.now(UTC) + timedelta(days=days))
    assert shown(town.server(files)) == first_in(files.certificate)
    warnings = logged(caplog, logging.WARNING)
    assert [bool(re.search(says or "", text)) for text in warnings] == ([True] if says else [])
    assert all(str(files.certificate) in text for text in warnings)


def test_a_certificate_of_the_future_is_used_with_a_warning(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    files = town.issue("a.test")
    assert shown(town.server(files, wall=lambda: 86400.0)) == first_in(files.certificate)
    (warning,) = logged(caplog, logging.WARNING)
    assert "is not valid before" in warning and "clock" in warning


# --- self-signed


def self_signed_in(town: Town) -> tuple[bytes, bytes]:
    return (town.folder / "keys/self-signed.pem").read_bytes(), (town.folder / "keys/self-signed.key").read_bytes()


def store(town: Town, hostname: Domain, made: datetime) -> tuple[bytes, bytes]:
    """Put a self-signed pair there, as it would have been made then."""
    folder = town.folder / "keys"
    with self_signed.locked_folder(folder):
        self_signed.write_pair(folder / "self-signed.pem", folder / "self-signed.key", hostname=hostname, now=made)
    return self_signed_in(town)


def test_without_files_one_is_made(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    before = os.umask(0)
    try:
        server = town.server()
    finally:
        os.umask(before)
    keys = town.folder / "keys"
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (keys, *keys.iterdir())} == {
        "keys": 0o700,
        "self-signed.pem": 0o600,
        "self-signed.key": 0o600,
    }
    assert server.names == (("mx.example.test", "localhost"),)
    (warning,) = logged(caplog, logging.WARNING)
    assert "SELF-SIGNED" in warning and str(HOST) in warning and "[[tls]]" in warning

    certificate = x509.load_pem_x509_certificate(self_signed_in(town)[0])
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert timedelta(days=364) < certificate.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=365)
    assert certificate.not_valid_before_utc < datetime.now(UTC)


@pytest.mark.parametrize("name", ["mx.example.test", "localhost", "127.0.0.1", "::1"])
def test_who_trusts_the_self_signed_one_can_verify_it(town: Town, name: str) -> None:
    server = town.server()
    client = client_context(verify=True, authorities=town.folder / "keys/self-signed.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert Connection(client, server.context(), name).works()


def test_a_long_host_name_fits(town: Town) -> None:
    hostname = Domain(".".join(["a" * 50] * 4))
    server = ServerCertificates((), keys=town.folder / "keys", hostname=hostname, monotonic=town.watch)
    assert shown(server) and server.names == ((hostname.ascii, "localhost"),)


def test_localhost_is_named_once(town: Town) -> None:
    hostname = Domain("localhost")
    server = ServerCertificates((), keys=town.folder / "keys", hostname=hostname, monotonic=town.watch)
    assert server.names == (("localhost",),)


def test_the_self_signed_one_stays_over_a_restart(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    town.server()
    made = self_signed_in(town)
    for _ in range(2):
        server = town.server()
    assert self_signed_in(town) == made
    assert shown(server) == first_in(town.folder / "keys/self-signed.pem")
    assert len(logged(caplog, logging.WARNING)) == 3, "one warning each time"


@pytest.mark.parametrize(("days_left", "stays"), [(31, True), (29, False), (-1, False)])
def test_the_self_signed_one_is_renewed_before_it_expires(town: Town, days_left: int, stays: bool) -> None:
    made = store(town, HOST, datetime.now(UTC) - self_signed.LIFE + timedelta(days=days_left))
    server = town.server()
    assert (self_signed_in(town) == made) is stays
    assert shown(server) == first_in(town.folder / "keys/self-signed.pem")


def test_another_host_name_gets_another_one(town: Town) -> None:
    made = store(town, Domain("old.example.test"), datetime.now(UTC))
    server = town.server()
    assert self_signed_in(town) != made
    assert server.names == ((HOST.ascii, "localhost"),)


@pytest.mark.parametrize(
    ("file", "octets"), [("self-signed.key", None), ("self-signed.pem", None), ("self-signed.pem", b"half")]
)
def test_a_broken_self_signed_one_is_replaced(town: Town, file: str, octets: bytes | None) -> None:
    made = store(town, HOST, datetime.now(UTC))
    path = town.folder / "keys" / file
    path.unlink()
    if octets is not None:
        path.write_bytes(octets)
    (town.folder / "keys/self-signed.key.partial").write_bytes(b"left by a crash")
    server = town.server()
    assert self_signed_in(town) != made
    assert shown(server) == first_in(town.folder / "keys/self-signed.pem")
    assert len(list((town.folder / "keys").iterdir())) == 2


def test_a_running_server_renews_the_self_signed_one(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    now = time.time()
    server = town.server(wall=lambda: now)
    first = shown(server)
    now += (self_signed.LIFE - RENEW_BEFORE).total_seconds() - 60
    town.watch.time += LOOK_EVERY
    assert shown(server) == first
    now += 120
    town.watch.time += LOOK_EVERY
    second = shown(server)
    assert second != first
    town.watch.time += LOOK_EVERY
    assert shown(server) == second
    assert len(logged(caplog, logging.WARNING)) == 2


def test_a_self_signed_one_that_can_not_be_renewed_stays(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    now = time.time()
    server = town.server(wall=lambda: now)
    first = shown(server)
    keys = town.folder / "keys"
    keys.rename(town.folder / "moved")
    keys.write_text("in the way")
    now += self_signed.LIFE.total_seconds()
    for _ in range(3):
        town.watch.time += LOOK_EVERY
        assert shown(server) == first
    assert len(logged(caplog, logging.ERROR)) == 1
    keys.unlink()
    town.watch.time += LOOK_EVERY
    assert shown(server) == first_in(keys / "self-signed.pem") != first


@pytest.mark.parametrize("keys", ["missing/keys", "ca.pem", "ca.pem/keys"])
def test_where_none_can_be_made_the_folder_is_named(town: Town, keys: str) -> None:
    with pytest.raises(
        CertificateError, match=r"can't make a self-signed certificate in .*: let the server write"
    ) as fault:
        ServerCertificates((), keys=town.folder / keys, hostname=HOST, monotonic=town.watch)
    assert str(town.folder / keys) in str(fault.value)


def test_several_processes_make_one(tmp_path: Path) -> None:
    """They wait for one another, so the certificate and the key that are left fit."""
    program = """
import pathlib, sys, time
from pillarbox.adapters.tls import ServerCertificates
from pillarbox.core.address import Domain
sys.stdin.read(1)
ServerCertificates((), keys=pathlib.Path(sys.argv[1]), hostname=Domain("a.test"), monotonic=time.monotonic)
print(pathlib.Path(sys.argv[1], "self-signed.pem").read_text())
"""
    command = [sys.executable, "-c", program, str(tmp_path / "keys")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"!")
        process.stdin.flush()
    outcomes = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outcomes
    assert len({printed for printed, _ in outcomes}) == 1


# --- towards a next hop


def verifying(town: Town) -> ssl.SSLContext:
    return client_context(verify=True, authorities=town.authorities)


def test_a_verified_hop_is_let_through(town: Town) -> None:
    connection = Connection(verifying(town), town.server(town.issue(HOST.ascii)).context())
    assert connection.works()
    assert connection.client.version() == "TLSv1.3"


@pytest.mark.parametrize(
    ("names", "days", "asked", "reason"),
    [
        (["other.test"], 9, "mx.example.test", "Hostname mismatch"),
        (["*.example.test"], 9, "a.b.example.test", "Hostname mismatch"),
        (["192.0.2.1"], 9, "192.0.2.2", "IP address mismatch"),
        (["mx.example.test"], -1, "mx.example.test", "certificate has expired"),
    ],
)
def test_what_a_verified_hop_must_not_be(town: Town, names: Sequence[str], days: int, asked: str, reason: str) -> None:
    server = town.server(town.issue("a", *names, not_after=datetime.now(UTC) + timedelta(days=days))).context()
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        Connection(verifying(town), server, asked)
    assert Connection(anyone(), server, asked).works()


def test_a_common_name_is_no_name(town: Town) -> None:
    leaf = town.ca.issue_cert("192.0.2.1", common_name="mx.example.test")
    files = CertificateFiles(town.folder / "a.pem", town.folder / "a.pem")
    leaf.private_key_and_cert_chain_pem.write_to_path(files.certificate)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        Connection(verifying(town), town.server(files).context())


def test_an_authority_that_is_not_known(town: Town, tmp_path: Path) -> None:
    server = town.server(town.issue(HOST.ascii)).context()
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    for client in (client_context(verify=True, authorities=stranger), client_context(verify=True)):
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer certificate"):
            Connection(client, server)
    assert Connection(anyone(), server).works()


def test_without_verifying_the_self_signed_and_the_nameless_will_do(town: Town) -> None:
    server = town.server().context()
    assert Connection(anyone(), server, "unknown.test").works()
    assert Connection(anyone(), server, None).works()
    with pytest.raises(ssl.SSLCertVerificationError, match="self.signed certificate"):
        Connection(client_context(verify=True), server)


def test_without_verifying_a_weak_hop_will_do(town: Town) -> None:
    """A key of 1024 bits and no forward secrecy: still better than clear text."""
    files = town.issue("weak")
    spoil(town, files, FAULTS["short key"][0])
    weak = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    weak.set_ciphers("AES128-SHA:@SECLEVEL=0")
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.load_cert_chain(files.certificate, files.key)
    connection = Connection(anyone(), weak)
    assert connection.works() and connection.client.cipher() == ("AES128-SHA", "SSLv3", 128)  # since when it is known
    with pytest.raises(ssl.SSLError):
        Connection(client_context(verify=True, authorities=files.certificate), weak)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("verify", [True, False])
def test_old_versions_are_not_spoken_to_a_next_hop(town: Town, verify: bool) -> None:
    files = town.issue(HOST.ascii)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.load_cert_chain(files.certificate, files.key)
    with pytest.raises(ssl.SSLError) as refusal:
        Connection(client_context(verify=verify, authorities=town.authorities), old)
    assert refusal.value.reason == "UNSUPPORTED_PROTOCOL"


@pytest.mark.parametrize(
    ("octets", "says"),
    [(None, "does not exist"), (b"", "no certificate in PEM"), (b"\0garbage", "no certificate in PEM")],
)
def test_authorities_that_can_not_be_used(tmp_path: Path, octets: bytes | None, says: str) -> None:
    path = tmp_path / "authorities.pem"
    if octets is not None:
        path.write_bytes(octets)
    with pytest.raises(CertificateError, match=says) as fault:
        client_context(verify=True, authorities=path)
    assert str(path) in str(fault.value)


@pytest.mark.parametrize("folder_exists", [True, False])
def test_a_system_without_authorities_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folder_exists: bool
) -> None:
    folder = tmp_path / "certs"
    if folder_exists:
        folder.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    client_context(verify=True)
    (warning,) = logged(caplog, logging.WARNING)
    assert "ca-certificates" in warning


def test_the_authorities_of_the_system_are_trusted(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(town.authorities))
    assert Connection(client_context(verify=True), town.server(town.issue(HOST.ascii)).context()).works()
    assert not logged(caplog, logging.WARNING)
