"""The two kinds of server context beside each other: alike in all that a client sees, and what only one of them has."""

from __future__ import annotations

import hashlib
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from OpenSSL import SSL

from pillarbox.adapters.certificates import CertificateError, CertificateFiles, end_point, mail_address
from pillarbox.adapters.tls import LOOK_EVERY, PLAIN, TICKET_KEYS, ServerCertificates, Terms
from pillarbox.adapters.tls_contexts import Context
from pillarbox.net.tls import Layer, TlsError, TlsLayer
from pillarbox.net.tls_exporting import ExportingLayer, server_layer
from tests.unit.test_tls import HOST, Town, anyone, first_in, logged, town

__all__ = ["town"]

EXPORTER = Terms(exporter=True)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
NO_EXTENDED_MASTER_SECRET = 1  # OpenSSL's option, for which `ssl` has no name
alike = pytest.mark.parametrize("terms", [PLAIN, EXPORTER], ids=["ssl", "pyopenssl"])
versions = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


class Joined:
    """Both ends of a connection in memory, after their handshake. Raises what either end finds wrong."""

    def __init__(
        self,
        client: ssl.SSLContext,
        server: Context,
        name: str | None = HOST.ascii,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)
        self.server: Layer = server_layer(server)
        self.heard = b""
        for _ in range(4):
            with suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.to_server()
        assert self.server.ready

    def to_server(self) -> None:
        """What the client has to say goes over, and the answer back."""
        if octets := self.outgoing.read():
            try:
                plain, answer = self.server.receive(octets)
            except TlsError as error:
                self.incoming.write(error.alert)
                with suppress(ssl.SSLWantReadError):
                    self.client.do_handshake()  # raises what the alert says
                raise
            self.heard += plain
            self.incoming.write(answer)

    def works(self) -> bool:
        """Octets come through both ways. Brings the session's tickets along."""
        self.client.write(b"to the server")
        self.to_server()
        self.incoming.write(self.server.send(b"to the client"))
        return self.client.read() == b"to the client" and self.heard == b"to the server"

    def certificate(self) -> bytes:
        octets = self.client.getpeercert(binary_form=True)
        assert octets is not None
        return octets


def served(town: Town, *files: CertificateFiles, terms: Terms) -> ServerCertificates:
    return ServerCertificates(
        files, keys=town.folder / "keys", hostname=HOST, monotonic=town.watch, wall=lambda: 1.8e9, terms=[terms]
    )


def only(version: ssl.TLSVersion) -> ssl.SSLContext:
    client = anyone()
    client.minimum_version = client.maximum_version = version
    return client


# --- alike


@alike
def test_the_kind_is_that_of_the_terms(town: Town, terms: Terms) -> None:
    context = served(town, town.issue(HOST.ascii), terms=terms).context_for(terms)
    assert type(server_layer(context)) is (TlsLayer if terms is PLAIN else ExportingLayer)
    assert isinstance(context, SSL.Context) is (terms is EXPORTER)


@alike
@versions
def test_versions_that_are_taken(town: Town, terms: Terms, version: ssl.TLSVersion) -> None:
    server = served(town, town.issue(HOST.ascii), terms=terms).context_for(terms)
    joined = Joined(only(version), server)
    assert joined.client.version() == joined.server.version == version.name.replace("_", ".")
    assert joined.client.compression() is None
    assert joined.works()


@alike
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("name", ["TLSv1", "TLSv1_1"])
def test_versions_that_are_refused(town: Town, terms: Terms, name: str) -> None:
    client = only(ssl.TLSVersion[name])
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        Joined(client, served(town, town.issue(HOST.ascii), terms=terms).context_for(terms))


@alike
@pytest.mark.parametrize(
    "suite",
    ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-CCM", "DHE-RSA-AES128-GCM-SHA256"],
)
def test_suites_that_are_refused(town: Town, terms: Terms, suite: str) -> None:
    client = only(ssl.TLSVersion.TLSv1_2)
    client.set_ciphers(suite)
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        Joined(client, served(town, town.issue(HOST.ascii), terms=terms).context_for(terms))


@alike
def test_the_server_chooses_the_suite(town: Town, terms: Terms) -> None:
    server = served(town, town.issue(HOST.ascii), terms=terms).context_for(terms)
    for order in (["AES256-GCM-SHA384", "AES128-GCM-SHA256"], ["AES128-GCM-SHA256", "AES256-GCM-SHA384"]):
        client = only(ssl.TLSVersion.TLSv1_2)
        client.set_ciphers(":".join(f"ECDHE-ECDSA-{each}" for each in order))
        assert Joined(client, server).server.cipher == "ECDHE-ECDSA-AES128-GCM-SHA256"


@alike
@pytest.mark.parametrize(
    ("name", "number"),
    [(None, 0), ("unknown.test", 0), ("ANY.example.org.", 1), ("two.labels.example.org", 0), ("mail.example.org", 2)],
)
def test_the_name_picks_the_certificate(town: Town, terms: Terms, name: str | None, number: int) -> None:
    files = [town.issue("a", "mx.example.test"), town.issue("b", "*.example.org"), town.issue("c", "mail.example.org")]
    joined = Joined(anyone(), served(town, *files, terms=terms).context_for(terms), name)
    assert joined.certificate() == first_in(files[number].certificate)
    found = joined.server.binding("tls-server-end-point")
    assert found == hashlib.sha256(joined.certificate()).digest()


@alike
@pytest.mark.parametrize("octets", [b"\xff\xfe\r\n.test", b"me\0e.test"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # how `ssl` tells of octets above 127
def test_octets_that_are_no_name_do_no_harm(town: Town, terms: Terms, octets: bytes) -> None:
    server = served(town, town.issue("a.test"), town.issue("b.test"), terms=terms).context_for(terms)
    hello = TlsLayer(anyone(), server_side=False, server_hostname="name.test").start()
    layer = server_layer(server)
    with suppress(TlsError):
        layer.receive(hello.replace(b"name.test", octets))
    assert not layer.ready
    assert Joined(anyone(), server).works()


@alike
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl, which is the client that renegotiates")
def test_renegotiation_is_refused(town: Town, terms: Terms) -> None:
    """The client is told so, and its octets before and after go on as they were."""
    layer = server_layer(served(town, town.issue(HOST.ascii), terms=terms).context_for(terms))
    heard: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(20)
        with connection, suppress(OSError, TlsError):
            while octets := connection.recv(10_000):
                plain, answer = layer.receive(octets)
                heard.append(plain)
                connection.sendall(answer)

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
    assert b"RENEGOTIATING" in told and b"no renegotiation" in told
    assert b"".join(heard) == b""


@alike
@versions
@pytest.mark.parametrize("name", ["mx.example.test", "example.org"])
def test_a_session_is_taken_up_again(town: Town, terms: Terms, version: ssl.TLSVersion, name: str) -> None:
    files = town.issue("mx.example.test"), town.issue("example.org")
    server = served(town, *files, terms=terms)
    client = only(version)
    first = Joined(client, server.context_for(terms), name)
    assert first.works() and not first.client.session_reused
    again = Joined(client, server.context_for(terms), name, first.client.session)
    assert again.works() and again.client.session_reused
    assert again.server.binding("tls-server-end-point") == hashlib.sha256(first.certificate()).digest()


@alike
@versions
def test_the_keys_of_tickets_are_changed(
    town: Town, terms: Terms, version: ssl.TLSVersion, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9325 §3.4. An open connection goes on, and nobody is told of a new certificate."""
    caplog.set_level(logging.INFO)
    server = served(town, town.issue(HOST.ascii), terms=terms)
    client = only(version)
    first = Joined(client, server.context_for(terms))
    assert first.works()
    town.watch.time += TICKET_KEYS - LOOK_EVERY
    assert Joined(client, server.context_for(terms), session=first.client.session).client.session_reused
    town.watch.time += LOOK_EVERY
    second = Joined(client, server.context_for(terms), session=first.client.session)
    assert second.works() and not second.client.session_reused
    assert first.certificate() == second.certificate()
    first.heard = b""
    assert first.works()
    assert logged(caplog, logging.INFO) == []


@alike
def test_new_files_are_for_new_connections(town: Town, terms: Terms) -> None:
    """One that is open goes on, and so does one whose handshake is under way."""
    old = first_in(town.issue("a", HOST.ascii).certificate)
    server = served(town, CertificateFiles(town.folder / "a.pem", town.folder / "a.key"), terms=terms)
    open_one = Joined(anyone(), server.context_for(terms))
    shaking = server_layer(server.context_for(terms))
    client = TlsLayer(anyone(), server_side=False)
    hello = client.start()
    _, answer = shaking.receive(hello[:30])
    new = first_in(town.issue("a", HOST.ascii).certificate)
    town.watch.time += LOOK_EVERY
    assert Joined(anyone(), server.context_for(terms)).certificate() == new
    _, finished = client.receive(answer + shaking.receive(hello[30:])[1])
    shaking.receive(finished)
    assert shaking.ready and client.ready
    assert client.binding("tls-server-end-point") == hashlib.sha256(old).digest()
    assert open_one.certificate() == old and open_one.works()


@alike
@pytest.mark.parametrize("damage", ["half written", "only the certificate", "gone"])
def test_files_that_can_not_be_used_keep_the_old(town: Town, terms: Terms, damage: str) -> None:
    files = town.issue("a", HOST.ascii)
    old, old_key = first_in(files.certificate), files.key.read_bytes()
    server = served(town, files, terms=terms)
    town.issue("a", HOST.ascii)
    if damage == "half written":
        town.write(files.certificate, files.certificate.read_bytes()[:200])
    elif damage == "only the certificate":
        town.write(files.key, old_key)
    else:
        files.certificate.unlink()
    town.watch.time += LOOK_EVERY
    assert Joined(anyone(), server.context_for(terms)).certificate() == old
    new = first_in(town.issue("a", HOST.ascii).certificate)
    town.watch.time += LOOK_EVERY
    assert Joined(anyone(), server.context_for(terms)).certificate() == new


@alike
def test_the_chain_is_sent_along(town: Town, terms: Terms) -> None:
    leaf = town.ca.create_child_ca().issue_cert(HOST.ascii)
    files = CertificateFiles(town.folder / "chain.pem", town.folder / "chain.pem")
    leaf.private_key_and_cert_chain_pem.write_to_path(files.certificate)
    client = ssl.create_default_context(cafile=str(town.authorities))
    assert Joined(client, served(town, files, terms=terms).context_for(terms)).works()


def test_a_key_that_is_too_short_is_refused_by_both(town: Town) -> None:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")])
    files = town.issue("a")
    leaf = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    weak = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    ).sign(key, hashes.SHA256())
    town.write(files.certificate, weak.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    town.write(files.key, key.private_bytes(serialization.Encoding.PEM, *private))
    with pytest.raises(CertificateError, match="too small"):
        served(town, files, terms=PLAIN)


def test_terms_that_were_not_foreseen_get_a_plain_one(town: Town) -> None:
    """As for the last connections of a listener that a reload has taken away."""
    server = served(town, town.issue(HOST.ascii), terms=PLAIN)
    assert server.context_for(EXPORTER) is server.context()


# --- channel binding


class Twin:
    """A client by pyOpenSSL, which can export, joined to a server's layer."""

    def __init__(self, server: Context, *, version: int, extended: bool = True) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(version)
        if not extended:
            context.set_options(NO_EXTENDED_MASTER_SECRET)
        self.client = SSL.Connection(context)
        self.client.set_connect_state()
        self.server = server_layer(server)
        for _ in range(4):
            with suppress(SSL.WantReadError):
                self.client.do_handshake()
            with suppress(SSL.WantReadError):
                _, answer = self.server.receive(self.client.bio_read(100_000))
                if answer:
                    self.client.bio_write(answer)
        assert self.server.ready

    def exported(self) -> bytes:
        return self.client.export_keying_material(b"EXPORTER-Channel-Binding", 32)


@pytest.mark.parametrize(
    ("version", "extended", "bound"),
    [(SSL.TLS1_3_VERSION, True, True), (SSL.TLS1_2_VERSION, True, True), (SSL.TLS1_2_VERSION, False, False)],
    ids=["1.3", "1.2", "1.2 without the extended master secret"],
)
def test_both_ends_have_the_same_octets(town: Town, version: int, extended: bool, bound: bool) -> None:
    """RFC 9266 §4, and §4.2 for TLS 1.2."""
    server = served(town, town.issue(HOST.ascii), terms=EXPORTER).context_for(EXPORTER)
    one, two = (Twin(server, version=version, extended=extended) for _ in range(2))
    found = one.server.binding("tls-exporter")
    if bound:
        assert found == one.exported() and len(found) == 32
        assert found != two.server.binding("tls-exporter")
    else:
        assert found is None
    assert one.server.binding("tls-unique") is None


@alike
def test_there_is_no_binding_before_the_handshake(town: Town, terms: Terms) -> None:
    layer = server_layer(served(town, town.issue(HOST.ascii), terms=terms).context_for(terms))
    for kind in ("tls-exporter", "tls-server-end-point"):
        assert layer.binding(kind) is None
    assert layer.subject is None


@alike
def test_client_and_server_agree_on_the_end_point(town: Town, terms: Terms) -> None:
    server = server_layer(served(town, town.issue(HOST.ascii), terms=terms).context_for(terms))
    client = TlsLayer(anyone(), server_side=False)
    to_server = client.start()
    while to_server:
        to_server = client.receive(server.receive(to_server)[1])[1]
    found = client.binding("tls-server-end-point")
    assert found is not None and found == server.binding("tls-server-end-point")
    assert client.binding("tls-exporter") is None and client.subject is None


def certificate(
    *names: x509.GeneralName,
    emails: tuple[str, ...] = (),
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.EMAIL_ADDRESS, email) for email in emails])
    leaf = x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes())
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), 1, leaf.not_valid_before_utc, leaf.not_valid_after_utc
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, algorithm)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda found: found.name)
def test_the_end_point_is_hashed_as_the_certificate_is_signed(algorithm: hashes.HashAlgorithm) -> None:
    """RFC 5929 §4.1."""
    leaf = certificate(algorithm=algorithm)
    der = leaf.public_bytes(serialization.Encoding.DER)
    assert end_point(leaf) == hashlib.new(algorithm.name, der).digest()


def test_the_end_point_of_weak_and_of_hashless_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_point(certificate(key=ed25519.Ed25519PrivateKey.generate())) is None

    class Weak:
        signature_hash_algorithm = hashes.SHA1()

        def fingerprint(self, algorithm: hashes.HashAlgorithm) -> bytes:
            return algorithm.name.encode()

    assert end_point(Weak()) == b"sha256"  # type: ignore[arg-type]


# --- whom a certificate is for


UTF8 = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9")


def utf8_mailbox(text: str) -> x509.OtherName:
    octets = text.encode()
    length = bytes([len(octets)]) if len(octets) < 128 else bytes([0x81, len(octets)])
    return x509.OtherName(UTF8, b"\x0c" + length + octets)


LONG = "alice@" + ".".join(["a" * 60] * 3) + ".example"


@pytest.mark.parametrize(
    ("names", "emails", "found"),
    [
        ((x509.RFC822Name("alice@example.test"),), (), "alice@example.test"),
        ((x509.RFC822Name("Alice@EXAMPLE.test"),), ("bob@example.test",), "Alice@example.test"),
        ((x509.DNSName("a.test"), x509.RFC822Name("a@x.test"), x509.RFC822Name("b@x.test")), (), "a@x.test"),
        ((utf8_mailbox("alice@bücher.example"), x509.RFC822Name("a@x.test")), (), "alice@xn--bcher-kva.example"),
        ((utf8_mailbox(LONG),), (), LONG),
        ((), ("alice@example.test", "bob@example.test"), "alice@example.test"),
        ((x509.DNSName("a.test"),), ("alice@example.test",), "alice@example.test"),
        ((x509.DNSName("a.test"),), (), None),
        ((), (), None),
        ((x509.RFC822Name("nobody"),), ("no address\r\n@x.test", "bob@example.test"), "bob@example.test"),
        ((x509.RFC822Name("alice@[192.0.2.1]"),), (), None),
        ((x509.OtherName(UTF8, b"\x04\x03a@b"), x509.OtherName(UTF8, b"\x05\x00")), (), None),
        ((x509.OtherName(UTF8, b"\x0c\x82\x01\x00" + b"a" * 256),), (), None),
        ((x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x08a@b.test"),), (), None),
    ],
)
def test_whom_a_certificate_is_for(names: tuple[x509.GeneralName, ...], emails: tuple[str, ...], found: str) -> None:
    assert mail_address(certificate(*names, emails=emails, algorithm=hashes.SHA256())) == found


# --- clients that show a certificate


class Asking:
    """A server that asks for certificates of one authority, and clients who have some."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.ca = trustme.CA()
        self.file = town.folder / "clients.pem"
        town.write(self.file, self.ca.cert_pem.bytes())
        self.terms = Terms(authorities=self.file)
        self.certificates = served(town, town.issue(HOST.ascii), terms=self.terms)

    def join(self, shown: trustme.LeafCert | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Joined:
        client = only(version)
        if shown is not None:
            shown.configure_cert(client)
        joined = Joined(client, self.certificates.context_for(self.terms))
        assert joined.works()
        return joined


@pytest.fixture
def asking(town: Town) -> Asking:
    return Asking(town)


@versions
def test_a_certificate_that_holds_says_who_is_there(asking: Asking, version: ssl.TLSVersion) -> None:
    assert asking.join(asking.ca.issue_cert("alice@example.test"), version).server.subject == "alice@example.test"
    assert asking.join(asking.ca.issue_cert("alice@example.test"), version).server.doubt == ""
    through = asking.ca.create_child_ca().issue_cert("bob@example.test")
    assert asking.join(through, version).server.subject == "bob@example.test"
    assert asking.join(asking.ca.issue_cert("host.example.test"), version).server.subject is None
    assert asking.join(None, version).server.subject is None
    assert asking.join(None, version).server.binding("tls-exporter") is not None


@versions
def test_one_that_does_not_hold_is_no_more_than_none(asking: Asking, version: ssl.TLSVersion) -> None:
    """And it does no harm: the handshake goes on."""
    expired = asking.ca.issue_cert("alice@example.test", not_after=datetime(2001, 1, 1, tzinfo=UTC))
    stranger = trustme.CA().issue_cert("alice@example.test")
    for shown, number in ((expired, 10), (stranger, 20)):
        server = asking.join(shown, version).server
        assert server.subject is None and f"error {number} at depth 0" in server.doubt
    assert asking.join(asking.ca.issue_cert("alice@example.test"), version).server.subject == "alice@example.test"


@versions
def test_whoever_comes_again_shows_it_again(asking: Asking, version: ssl.TLSVersion) -> None:
    """A session that is taken up again would not say whether the certificate held."""
    client = only(version)
    asking.ca.issue_cert("alice@example.test").configure_cert(client)
    context = asking.certificates.context_for(asking.terms)
    first = Joined(client, context)
    assert first.works()
    again = Joined(client, context, session=first.client.session)
    assert again.works() and not again.client.session_reused
    assert again.server.subject == "alice@example.test"


def test_other_authorities_are_read_while_it_runs(asking: Asking, caplog: pytest.LogCaptureFixture) -> None:
    town, alice = asking.town, asking.ca.issue_cert("alice@example.test")
    others = trustme.CA()
    bob = others.issue_cert("bob@example.test")
    open_one = asking.join(alice)
    town.write(asking.file, b"garbage")
    town.watch.time += LOOK_EVERY
    assert asking.join(alice).server.subject == "alice@example.test"
    (complaint,) = logged(caplog, logging.ERROR)
    assert "clients.pem" in complaint and "authorities to trust" in complaint
    town.write(asking.file, others.cert_pem.bytes())
    town.watch.time += LOOK_EVERY
    assert asking.join(alice).server.subject is None
    assert asking.join(bob).server.subject == "bob@example.test"
    assert open_one.server.subject == "alice@example.test"


@pytest.mark.parametrize("octets", [None, b"", b"\0garbage"])
def test_authorities_that_can_not_be_used(town: Town, tmp_path: Path, octets: bytes | None) -> None:
    path = tmp_path / "clients.pem"
    if octets is not None:
        path.write_bytes(octets)
    with pytest.raises(CertificateError, match=r"clients\.pem (does not exist|holds no certificate)"):
        served(town, town.issue(HOST.ascii), terms=Terms(authorities=path))


def test_the_name_picks_the_certificate_and_the_client_is_asked_all_the_same(town: Town) -> None:
    ca = trustme.CA()
    path = town.folder / "clients.pem"
    ca.cert_pem.write_to_path(path)
    terms = Terms(authorities=path)
    files = town.issue("a.test"), town.issue("b.test")
    server = served(town, *files, terms=terms)
    client = anyone()
    ca.issue_cert("alice@example.test").configure_cert(client)
    joined = Joined(client, server.context_for(terms), "b.test")
    assert joined.certificate() == first_in(files[1].certificate)
    assert joined.server.subject == "alice@example.test"
