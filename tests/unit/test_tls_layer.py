"""TLS over memory, two layers talking to each other; and what stands between a transport and a protocol.

All of it with each of the two layers that a server may have.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from pillarbox.adapters.certificates import CertificateFiles, Pair
from pillarbox.adapters.tls_contexts import Context, exporting_context
from pillarbox.net.tls import TOGETHER, Layer, Secured, TlsError, TlsLayer
from pillarbox.net.tls_exporting import ExportingLayer, server_layer

NAME = "mx.far.example"
LARGE = bytes(range(256)) * 4096
AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert(NAME)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def server_context(certificate: trustme.LeafCert = CERTIFICATE) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def pair_of(certificate: trustme.LeafCert) -> Pair:
    leaf, *chain = (x509.load_pem_x509_certificate(pem.bytes()) for pem in certificate.cert_chain_pems)
    return Pair(leaf, tuple(chain), load_pem_private_key(certificate.private_key_pem.bytes(), None), ())


def exporting(certificate: trustme.LeafCert = CERTIFICATE, *authorities: x509.Certificate) -> SSL.Context:
    files = CertificateFiles(Path("cert.pem"), Path("cert.key"))
    return exporting_context(files, pair_of(certificate), None, authorities)


KINDS: dict[str, Callable[..., Context]] = {"ssl": server_context, "pyopenssl": exporting}
make_context = server_context


@pytest.fixture(params=KINDS, autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By what the server has its layer."""
    chosen = str(request.param)
    monkeypatch.setattr(sys.modules[__name__], "make_context", KINDS[chosen])
    return chosen


def client_context(authority: trustme.CA = AUTHORITY, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def layers(
    *, authority: trustme.CA = AUTHORITY, name: str = NAME, version: ssl.TLSVersion | None = None
) -> tuple[TlsLayer, Layer]:
    """A client and a server who have not spoken yet."""
    client = TlsLayer(client_context(authority, version), server_side=False, server_hostname=name)
    return client, server_layer(make_context())


def shake(client: Layer, server: Layer, *, piece: int = 1 << 20) -> None:
    """The handshake, its octets cut into pieces."""
    to_server, to_client = client.start(), b""
    while to_server or to_client:
        to_client += fed(server, to_server, piece)[1]
        to_server = b""
        to_server += fed(client, to_client, piece)[1]
        to_client = b""


def fed(layer: Layer, octets: bytes, piece: int = 1) -> tuple[bytes, bytes]:
    plain = answer = b""
    for start in range(0, len(octets), piece):
        found = layer.receive(octets[start : start + piece])
        plain, answer = plain + found[0], answer + found[1]
    return plain, answer


def pair(version: ssl.TLSVersion | None = None) -> tuple[TlsLayer, Layer]:
    client, server = layers(version=version)
    shake(client, server)
    return client, server


# --- two layers


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_it_does_not_matter_how_octets_are_cut(version: ssl.TLSVersion, piece: int) -> None:
    client, server = layers(version=version)
    assert server.start() == b""  # the client speaks first
    assert (client.ready, server.ready) == (False, False)
    shake(client, server, piece=piece)
    assert (client.ready, server.ready) == (True, True)
    assert client.version == server.version == version.name.replace("_", ".")
    assert client.cipher == server.cipher != ""
    for sender, receiver in ((client, server), (server, client)):
        octets = sender.send(b"EHLO x\r\n") + sender.send(b"NOOP\r\n")
        assert b"NOOP" not in octets
        assert fed(receiver, octets, piece) == (b"EHLO x\r\nNOOP\r\n", b"")


def test_much_at_once() -> None:
    client, server = pair()
    assert server.receive(client.send(LARGE)) == (LARGE, b"")
    assert fed(client, server.send(LARGE), 4099) == (LARGE, b"")
    assert client.send(b"") == b""


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_the_farewell(version: ssl.TLSVersion) -> None:
    client, server = pair(version)
    assert server.receive(client.send(b"last") + client.close()) == (b"last", b"")
    assert (server.ended, client.ended) == (True, False)
    assert client.receive(server.close()) == (b"", b"")
    assert client.ended
    assert client.close() == server.close() == b""  # said already


def test_what_comes_behind_our_farewell_is_still_read() -> None:
    client, server = pair()
    farewell = server.close()
    assert server.receive(client.send(b"one")) == (b"one", b"")
    assert server.receive(client.send(b"two") + client.close()) == (b"two", b"")
    assert server.ended
    assert client.receive(farewell) == (b"", b"")
    with pytest.raises(TlsError, match="shutdown"):
        server.send(b"too late")


@pytest.mark.parametrize("octets", [b"EHLO client.example\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 64])
def test_no_handshake_at_all(octets: bytes) -> None:
    _, server = layers()
    with pytest.raises(TlsError, match="^TLS: [a-z]") as caught:
        server.receive(octets)
    assert "_" not in str(caught.value)
    assert not server.ready
    assert server.close() == b""


def test_no_server_at_all() -> None:
    client, _ = layers()
    client.start()
    with pytest.raises(TlsError, match="^TLS: "):
        client.receive(b"220 mx.far.example ESMTP\r\n")


def test_octets_that_were_tampered_with() -> None:
    client, server = pair()
    octets = bytearray(client.send(b"RCPT TO:<a@far.example>\r\n"))
    octets[-1] ^= 1
    with pytest.raises(TlsError, match="^TLS: ") as caught:
        server.receive(bytes(octets))
    with pytest.raises(TlsError, match="bad record mac"):
        client.receive(caught.value.alert)


@pytest.mark.parametrize(
    ("authority", "name", "said"),
    [
        (trustme.CA(), NAME, "certificate: .*issuer certificate"),
        (AUTHORITY, "other.example", "certificate: [Hh]ostname mismatch.*other.example"),
        (AUTHORITY, "192.0.2.1", "certificate: IP address mismatch.*192.0.2.1"),
    ],
    ids=["unknown authority", "other name", "address"],
)
def test_a_certificate_that_is_not_good(authority: trustme.CA, name: str, said: str) -> None:
    client, server = layers(authority=authority, name=name)
    _, answer = server.receive(client.start())
    with pytest.raises(TlsError, match=said) as caught:
        client.receive(answer)
    with pytest.raises(TlsError, match="alert"):
        server.receive(caught.value.alert)


def test_writing_before_the_handshake() -> None:
    client, _ = layers()
    with pytest.raises(TlsError):
        client.send(b"x")
    assert client.close() == b""


def test_the_context_decides_the_layer(kind: str) -> None:
    assert type(pair()[1]) is {"ssl": TlsLayer, "pyopenssl": ExportingLayer}[kind]


# --- between a transport and a protocol


class Below(asyncio.Transport):
    """Stands for the transport of the event loop, as strict as one."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None
        self.octets = b""
        self.calls: list[str] = []
        self.eof = self.closing = False

    def write(self, data: Any) -> None:
        if self.eof or self.closing:
            raise RuntimeError("write behind the end")
        self.octets += data

    def write_eof(self) -> None:
        if self.closing:
            raise RuntimeError("write_eof behind the end")
        self.eof = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.calls.append(f"limits {high} {low}")

    def get_write_buffer_size(self) -> int:
        return 7

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 25) if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def taken(self) -> bytes:
        octets, self.octets = self.octets, b""
        return octets


class Above(asyncio.Protocol):
    """Keeps what it is told. `stays`: its answer to eof_received."""

    def __init__(self, *, stays: bool = False) -> None:
        self.log: list[str] = []
        self.octets = b""
        self.stays = stays
        self.on_data: Callable[[], None] | None = None

    def data_received(self, data: bytes) -> None:
        self.octets += data
        if self.on_data is not None:
            self.on_data()

    def eof_received(self) -> bool:
        self.log.append("eof")
        return self.stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.log.append(f"lost {exc}")

    def pause_writing(self) -> None:
        self.log.append("pause")

    def resume_writing(self) -> None:
        self.log.append("resume")


class Rig:
    """A server's Secured, and the client's layer at the other end of the wire."""

    def __init__(self, *, stays: bool = False) -> None:
        self.below = Below()
        self.above = Above(stays=stays)
        self.log: list[str] = []  # what its owner was told
        self.client, server = layers()
        self.secured = Secured(self.below, self.above, server, ready=self._ready, failed=self.log.append)

    def _ready(self) -> None:
        self.log.append("ready")

    def shake(self) -> None:
        self.secured.data_received(self.client.start())
        self.secured.data_received(self.client.receive(self.below.taken())[1])
        assert self.client.receive(self.below.taken()) == (b"", b"")
        assert self.log == ["ready"]

    def heard(self) -> bytes:
        """What the client hears next."""
        return self.client.receive(self.below.taken())[0]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.shake()
    yield made


def test_octets_go_through(rig: Rig) -> None:
    assert rig.below.protocol is rig.secured
    rig.secured.data_received(rig.client.send(b"NOOP\r\n"))
    assert rig.above.octets == b"NOOP\r\n"
    rig.secured.write(b"250 Ok\r\n")
    rig.secured.write(b"")
    rig.secured.write(memoryview(b"221 Bye\r\n"))
    rig.secured.writelines([b"x", b"y"])
    assert rig.heard() == b"250 Ok\r\n221 Bye\r\nxy"
    assert rig.log == ["ready"]


def test_what_comes_with_the_end_of_the_handshake_comes_behind_ready() -> None:
    rig = Rig()
    rig.above.on_data = lambda: rig.log.append("data")
    rig.secured.data_received(rig.client.start())
    _, finished = rig.client.receive(rig.below.taken())
    rig.secured.data_received(finished + rig.client.send(b"EHLO x\r\n"))
    assert rig.log == ["ready", "data"]
    assert rig.above.octets == b"EHLO x\r\n"


def test_a_client_speaks_first() -> None:
    below, above, log = Below(), Above(), list[str]()
    layer, server = layers()
    secured = Secured(below, above, layer, ready=lambda: log.append("ready"), failed=log.append)
    secured.begin()
    secured.data_received(server.receive(below.taken())[1])
    assert server.receive(below.taken())[0] == b""
    assert log == ["ready"]


def test_the_rest_is_the_transport_below(rig: Rig) -> None:
    secured = rig.secured
    secured.pause_reading()
    secured.resume_reading()
    secured.set_write_buffer_limits(5, 3)
    secured.pause_writing()
    secured.resume_writing()
    assert rig.below.calls == ["pause", "resume", "limits 5 3"]
    assert rig.above.log == ["pause", "resume"]
    assert secured.get_write_buffer_size() == 7
    assert secured.get_extra_info("peername") == ("192.0.2.1", 25)
    assert secured.get_extra_info("sockname", "none") == "none"
    assert secured.can_write_eof()
    secured.abort()
    assert rig.below.calls[-1] == "abort" and secured.is_closing()
    secured.connection_lost(None)
    assert rig.above.log[-1] == "lost None" and rig.log == ["ready"]


def test_another_protocol_keeps_the_layer(rig: Rig) -> None:
    other = Above()
    rig.above.on_data = lambda: rig.secured.set_protocol(other)
    rig.secured.data_received(rig.client.send(b"TURN\r\n"))
    assert rig.secured.get_protocol() is other and rig.below.protocol is rig.secured
    rig.secured.data_received(rig.client.send(b"220 hello\r\n"))
    assert (rig.above.octets, other.octets) == (b"TURN\r\n", b"220 hello\r\n")
    rig.secured.write(b"EHLO x\r\n")
    assert rig.heard() == b"EHLO x\r\n"
    rig.secured.connection_lost(None)
    assert (rig.above.log, other.log) == ([], ["lost None"])


def test_no_cycle_is_left_behind() -> None:
    """What a connection took is free as soon as it is lost, without a search for garbage."""

    class Owner(Above):
        def __init__(self, below: Below, layer: Layer) -> None:
            super().__init__()
            self.transport = Secured(below, self, layer, ready=self.ready, failed=self.failed)

        def ready(self) -> None: ...

        def failed(self, reason: str) -> None: ...

    below, (client, server) = Below(), layers()
    owner = Owner(below, server)
    for octets in (client.start(), client.receive(below.taken())[1] if below.octets else b""):
        owner.transport.data_received(octets)
    secured, gone = owner.transport, weakref.ref(owner)
    gc.disable()
    try:
        secured.connection_lost(None)
        del owner
        assert gone() is None
    finally:
        gc.enable()
    secured.write(b"too late")
    secured.connection_lost(None)


def test_what_is_said_at_once_leaves_in_one_write(rig: Rig) -> None:
    """And in bounded memory."""
    writes: list[bytes] = []

    def answer() -> None:
        for number in range(TOGETHER + 1):
            rig.secured.write(b"250 %d\r\n" % number)
            assert len(rig.secured._unsent) < TOGETHER
        if rig.above.octets.endswith(b"QUIT\r\n"):
            rig.secured.write_eof()

    def write(data: bytes) -> None:
        writes.append(data)
        Below.write(rig.below, data)

    rig.below.write = write  # type: ignore[method-assign]
    rig.above.on_data = answer
    rig.secured.data_received(rig.client.send(b"NOOP\r\n"))
    assert len(writes) == 2 and rig.heard() == b"250 0\r\n250 1\r\n250 2\r\n250 3\r\n"
    rig.secured.data_received(rig.client.send(b"QUIT\r\n"))
    assert len(writes) == 4 and rig.below.eof
    assert rig.heard() == b"250 0\r\n250 1\r\n250 2\r\n250 3\r\n" and rig.client.ended


# --- the end


def test_a_farewell_closes_though_no_fin_comes(rig: Rig) -> None:
    rig.secured.data_received(rig.client.send(b"QUIT\r\n") + rig.client.close())
    assert (rig.above.octets, rig.above.log) == (b"QUIT\r\n", ["eof"])
    assert rig.below.closing
    assert rig.heard() == b"" and rig.client.ended


def test_who_has_something_to_say_yet_may_stay() -> None:
    rig = Rig(stays=True)
    rig.shake()
    rig.secured.data_received(rig.client.close())
    assert (rig.above.log, rig.below.closing) == (["eof"], False)
    assert rig.secured.eof_received()
    rig.secured.write(b"250 Ok\r\n")
    assert rig.heard() == b"250 Ok\r\n"
    rig.secured.close()
    assert rig.below.closing


def test_a_fin_without_a_farewell_is_an_end_too(rig: Rig) -> None:
    assert not rig.secured.eof_received()
    assert rig.above.log == ["eof"] and rig.log == ["ready"]


def test_the_last_reply_arrives_and_what_follows_does_no_harm(rig: Rig) -> None:
    """Half closed, as a server does that lingers."""
    rig.secured.write(b"221 Bye\r\n")
    rig.secured.write_eof()
    assert (rig.below.eof, rig.below.closing) == (True, False)
    rig.secured.data_received(rig.client.send(b"more\r\n"))
    assert rig.above.octets == b"more\r\n"
    rig.secured.write(b"too late")
    rig.secured.write_eof()
    assert rig.heard() == b"221 Bye\r\n" and rig.client.ended
    rig.secured.data_received(rig.client.close())
    assert rig.above.log == ["eof"] and rig.below.closing and rig.log == ["ready"]
    rig.secured.close()
    rig.secured.write_eof()


def test_close_says_farewell_once(rig: Rig) -> None:
    rig.secured.write(b"221 Bye\r\n")
    rig.secured.close()
    rig.secured.close()
    rig.secured.write(b"too late")
    assert rig.heard() == b"221 Bye\r\n" and rig.client.ended


def test_before_the_handshake_nothing_is_said() -> None:
    for end in (Secured.close, Secured.write_eof, Secured.abort):
        rig = Rig()
        rig.secured.write(b"421 too late\r\n")
        end(rig.secured)
        assert rig.below.octets == b"" and (rig.below.closing or rig.below.eof)
        assert rig.log == []


def test_a_handshake_that_goes_on_though_we_have_ended() -> None:
    rig = Rig()
    rig.secured.write_eof()
    rig.secured.data_received(rig.client.start())
    assert rig.below.octets == b""


# --- faults


def test_a_failed_handshake_closes_and_is_told_once() -> None:
    rig = Rig()
    rig.secured.data_received(b"EHLO client.example\r\n")
    assert rig.below.closing
    rig.secured.data_received(b"NOOP\r\n")
    assert not rig.secured.eof_received()
    rig.secured.connection_lost(None)
    assert len(rig.log) == 1 and rig.log[0].startswith("TLS: ")
    assert rig.above.octets == b"" and rig.above.log == ["lost None"]


@pytest.mark.parametrize("how", ["eof", "lost"])
def test_who_goes_away_in_the_handshake(how: str) -> None:
    rig = Rig()
    rig.secured.data_received(rig.client.start())
    if how == "eof":
        assert not rig.secured.eof_received()
        assert rig.log == ["TLS: the peer went away in the handshake"]
    else:
        rig.secured.connection_lost(ConnectionResetError())
        assert rig.log == ["TLS: the connection was lost in the handshake"]
        assert rig.above.log == ["lost "]
    rig.secured.connection_lost(None)
    assert len(rig.log) == 1


def test_the_peer_is_told_what_is_wrong(rig: Rig) -> None:
    octets = bytearray(rig.client.send(b"NOOP\r\n"))
    octets[-1] ^= 1
    rig.secured.data_received(bytes(octets))
    assert rig.below.closing and rig.above.octets == b""
    assert len(rig.log) == 2 and rig.log[1].startswith("TLS: ")
    with pytest.raises(TlsError, match="bad record mac"):
        rig.heard()


def test_no_method_raises_for_what_tls_has_come_to(rig: Rig) -> None:
    rig.secured.layer.close()  # behind its back
    rig.secured.write(b"x")
    assert rig.log[1:] == ["TLS: protocol is shutdown"] and rig.below.closing
    rig.secured.write(b"x")
    rig.secured.write_eof()
    rig.secured.close()
    assert len(rig.log) == 2
