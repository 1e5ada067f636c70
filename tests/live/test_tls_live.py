"""TLS on a live server, by clients and servers that are not ours, and between two of ours."""

from __future__ import annotations

import signal
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme

from pillarbox.net.tls import TlsLayer
from tests.live.corpus import simple
from tests.live.support import BOB, HOST, Client, Server, arrived, needs, until

NAME = "mx.example.test"
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write(certificate: trustme.LeafCert, folder: Path, name: str) -> dict[str, str]:
    """The pair as files; gives the table of the configuration."""
    files = {"certificate": folder / f"{name}.pem", "key": folder / f"{name}.key"}
    files["certificate"].write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    files["key"].write_bytes(certificate.private_key_pem.bytes())
    return {key: str(file) for key, file in files.items()}


def listeners() -> list[dict[str, str]]:
    return [
        {"name": "mx", "address": f"{HOST}:0", "tls": "starttls"},
        {"name": "smtps", "address": f"{HOST}:0", "tls": "implicit"},
    ]


def asking(authorities: Path) -> list[dict[str, str]]:
    """Listeners that ask for a client's certificate: their TLS is by the other library."""
    return [{**each, "name": f"{each['name']}-ask", "client_certificates": str(authorities)} for each in listeners()]


both = pytest.mark.parametrize("suffix", ["", "-ask"], ids=["ssl", "pyopenssl"])


@pytest.fixture
def server(tmp_path: Path, authority: trustme.CA) -> Iterator[Server]:
    files = write(authority.issue_cert(NAME, HOST), tmp_path, "cert")
    authority.cert_pem.write_to_path(tmp_path / "clients.pem")
    settings = {"hostname": NAME, "listener": [*listeners(), *asking(tmp_path / "clients.pem")], "tls": [files]}
    with Server(tmp_path, settings=settings) as started:
        started.local(BOB)
        started.cli("user", "passwd", BOB, "--password-stdin", text=f"{PASSWORD}\n".encode())
        yield started


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def mail() -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"] = "under TLS", BOB
    message.set_content("hello\n")
    return message


@both
def test_smtplib_by_starttls(server: Server, authority: trustme.CA, suffix: str) -> None:
    with smtplib.SMTP(HOST, server.ports[f"mx{suffix}"], timeout=20) as client:
        client.starttls(context=trusting(authority))
        client.login(BOB, PASSWORD)
        client.mail(BOB)
        assert client.rcpt("away@else.example")[0] == 250  # who is known may relay
        client.rset()
        client.send_message(mail(), BOB, [BOB])
    assert b" with ESMTPSA id " in arrived(server)[0]


@both
def test_smtplib_by_implicit_tls(server: Server, authority: trustme.CA, suffix: str) -> None:
    port = server.ports[f"smtps{suffix}"]
    with smtplib.SMTP_SSL(HOST, port, timeout=20, context=trusting(authority)) as client:
        client.send_message(mail(), BOB, [BOB])
    assert b" with ESMTPS id " in arrived(server)[0]


@both
def test_swaks_and_curl(server: Server, tmp_path: Path, suffix: str) -> None:
    swaks = [needs("swaks"), "--server", HOST, "--to", BOB, "--from", BOB]
    login = ["--auth", "PLAIN", "--auth-user", BOB, "--auth-password", PASSWORD]
    starttls, implicit = (str(server.ports[f"{name}{suffix}"]) for name in ("mx", "smtps"))
    for options in (["--port", starttls, "--tls"], ["--port", implicit, "--tls-on-connect"]):
        run = subprocess.run([*swaks, *login, *options], capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    letter = tmp_path / "letter"
    letter.write_bytes(simple("curl"))
    url = f"smtps://{HOST}:{implicit}"
    command = [needs("curl"), "-sS", "-k", "--url", url, "--mail-from", BOB, "--mail-rcpt", BOB, "-T", str(letter)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    arrived(server, 3)


@both
def test_s_client_finds_what_is_refused(server: Server, suffix: str) -> None:
    """TLS 1.0 and 1.1 are refused, 1.2 and 1.3 are not."""
    openssl = needs("openssl")
    for version, taken in (("tls1", False), ("tls1_1", False), ("tls1_2", True), ("tls1_3", True)):
        run = subprocess.run(
            [
                openssl,
                "s_client",
                "-starttls",
                "smtp",
                "-connect",
                f"{HOST}:{server.ports[f'mx{suffix}']}",
                f"-{version}",
            ]
            + ["-cipher", "DEFAULT@SECLEVEL=0", "-servername", NAME, "-quiet", "-no_ign_eof"],
            input=b"QUIT\r\n",
            capture_output=True,
            timeout=20,
            check=False,
        )
        said = run.stdout + run.stderr
        assert (b"250 AUTH " in said or b"221 " in said) is taken, (version, said)


def test_octets_behind_starttls_close_the_connection(server: Server) -> None:
    with Client(server.port) as client:
        client.write(b"STARTTLS\r\nMAIL FROM:<>\r\n")
        assert client.reply().startswith("220 2.0.0")
        assert client.closed()


@both
def test_a_client_that_renegotiates_is_refused(server: Server, suffix: str) -> None:
    """In TLS 1.2; another client is served all the same."""
    address = f"{HOST}:{server.ports[f'smtps{suffix}']}"
    with subprocess.Popen(
        [needs("openssl"), "s_client", "-tls1_2", "-connect", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(b"R\n")  # its command to renegotiate
        client.stdin.flush()
        said = client.stdout.read()
        client.kill()
    assert b"RENEGOTIATING" in said and b"no renegotiation" in said
    with Client(server.port) as other:
        assert other.greeting.startswith("220")


@both
@pytest.mark.parametrize("known", [True, False], ids=["known", "stranger"])
def test_a_client_with_a_certificate(server: Server, authority: trustme.CA, suffix: str, known: bool) -> None:
    """One that does not hold does no harm to its mail."""
    context = trusting(authority)
    (authority if known else trustme.CA()).issue_cert(BOB).configure_cert(context)
    with smtplib.SMTP(HOST, server.ports[f"mx{suffix}"], timeout=20) as client:
        client.starttls(context=context)
        client.send_message(mail(), BOB, [BOB])
    assert b" with ESMTPS id " in arrived(server)[0]


@both
def test_a_client_that_goes_away_in_the_handshake(server: Server, suffix: str) -> None:
    hello = TlsLayer(ssl.create_default_context(), server_side=False, server_hostname=NAME).start()
    for octets in (b"", hello[:40], hello, b"EHLO plain.example\r\n"):
        with socket.create_connection((HOST, server.ports[f"smtps{suffix}"]), timeout=20) as client:
            client.sendall(octets)
            client.shutdown(socket.SHUT_WR)
            while client.recv(10_000):
                pass
    assert fingerprint(server, f"smtps{suffix}")


def fingerprint(server: Server, name: str = "smtps") -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP_SSL(HOST, server.ports[name], timeout=20, context=context) as client:
        found = client.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
    assert isinstance(found, bytes)
    return found


@pytest.mark.alone
@both
def test_a_certificate_is_replaced(server: Server, authority: trustme.CA, suffix: str) -> None:
    """New connections get the new one within a second; an open one goes on, and so does one in its handshake."""
    smtps = f"smtps{suffix}"
    before = fingerprint(server, smtps)
    with smtplib.SMTP(HOST, server.ports[f"mx{suffix}"], timeout=20) as open_one:
        open_one.starttls(context=trusting(authority))
        shaking = TlsLayer(trusting(authority), server_side=False, server_hostname=NAME)
        half = socket.create_connection((HOST, server.ports[smtps]), timeout=20)
        hello = shaking.start()
        half.sendall(hello[:50])
        write(authority.issue_cert(NAME, HOST), server.place, "cert")
        until(lambda: fingerprint(server, smtps) != before, 1.0, "the new certificate")
        half.sendall(hello[50:])
        with half:
            plain = b""
            while not plain.endswith(b"\r\n"):
                plain, answer = shaking.receive(half.recv(100_000))
                half.sendall(answer)
        assert plain.startswith(b"220 ")
        open_one.send_message(mail(), BOB, [BOB])
    arrived(server, 1)


def test_a_self_signed_certificate_is_made(tmp_path: Path) -> None:
    with Server(tmp_path, settings={"listener": listeners()}) as server:
        assert fingerprint(server)
        assert "self-signed" in server.log
    assert (server.data / "keys").is_dir()


@pytest.mark.parametrize("policy", ["opportunistic", "required", "verified"])
@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "smtps"])
def test_from_one_to_another(
    server: Server, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, implicit: bool
) -> None:
    """With a password, which is sent under TLS; the certificate is good for the IP address that the route names."""
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(roots)
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    secret = tmp_path / "relay.secret"
    secret.write_text(f"{BOB}\n{PASSWORD}\n")
    hop = f"smtps://{HOST}:{server.ports['smtps']}" if implicit else f"smtp://{HOST}:{server.port}"
    route = {"match": "*", "next_hop": hop, "tls": policy, "credentials": str(secret)}
    with Server(tmp_path, "source", settings={"route": [route]}) as source:
        source.ask("send", "--from", BOB, "--to", BOB, text=simple("relayed"))
        assert b" with ESMTPSA id " in arrived(server)[0]
        source.drained()


def test_verified_means_verified(server: Server, tmp_path: Path) -> None:
    """Nobody vouches for the certificate here: the message waits, and says why."""
    route = {"match": "*", "next_hop": f"smtp://{HOST}:{server.port}", "tls": "verified"}
    with Server(tmp_path, "source", settings={"route": [route]}) as source:
        sent = source.ask("send", "--from", BOB, "--to", BOB, text=simple("not relayed"))
        until(lambda: source.call("queue_count", where="state=deferred")["count"], what="it is deferred")
        told = source.cli("why", sent["id"])
        assert "certificate" in told, told


def test_turn_under_tls_keeps_the_layer(server: Server, authority: trustme.CA) -> None:
    """RFC 2645 §5: the roles change inside TLS."""
    server.configure(
        listener=[{"name": "mx", "address": f"{HOST}:0", "tls": "starttls", "commands.TURN": "auth"}, listeners()[1]]
    )
    server.stop()
    server.start()
    server.call("domain_add", domain="away.test", relay=True)
    server.cli("user", "add", "owner@example.test", "--password-stdin", "--owns", "away.test", text=b"owner pass\n")
    with Client(server.port) as client:
        assert client.send(simple("turned"), ("carol@away.test",)).startswith("250")
    until(lambda: server.call("queue_count", where="state=scheduled")["count"], what="it waits")
    swapped = smtplib.SMTP(HOST, server.port, timeout=20)
    try:
        swapped.starttls(context=trusting(authority))
        swapped.login("owner@example.test", "owner pass")
        assert swapped.docmd("TURN")[0] == 250
        sock = swapped.sock
        assert isinstance(sock, ssl.SSLSocket)
        sock.sendall(b"220 b ready\r\n")
        assert sock.recv(1000) == f"EHLO {NAME}\r\n".encode()
        sock.sendall(b"250 b\r\n")
        assert sock.recv(1000).startswith(b"MAIL FROM:<alice@elsewhere.example>")
    finally:
        swapped.close()


def test_fetching_under_tls(server: Server, tmp_path: Path) -> None:
    """`pillarbox atrn` takes STARTTLS where it is offered; on this machine whatever the certificate."""
    server.configure(
        listener=[*listeners(), {"name": "odmr", "address": f"{HOST}:0", "service": "odmr", "tls": "starttls"}]
    )
    server.stop()
    server.start()
    server.call("domain_add", domain="away.test", relay=True)
    server.cli("user", "add", "owner@example.test", "--password-stdin", "--owns", "away.test", text=b"owner pass\n")
    with Client(server.port) as client:
        assert client.send(simple("fetched"), ("carol@away.test",)).startswith("250")
    until(lambda: server.call("queue_count", where="state=scheduled")["count"], what="it waits")
    with Server(tmp_path, "away") as away:
        away.local("carol@away.test")
        host = f"{HOST}:{server.ports['odmr']}"
        words = ("atrn", host, "--user", "owner@example.test", "--password-stdin")
        assert "1 messages came in" in away.cli(*words, text=b"owner pass\n")
        arrived(away, 1, "carol@away.test")


def test_a_reload_with_a_bad_certificate_holds_no_address(server: Server, tmp_path: Path) -> None:
    """The new listener's address is let go of, so that it can be had once the certificate is mended."""
    good = server.settings["tls"]
    with Server(tmp_path, "probe") as probe:
        free = probe.port  # nobody's, once this has ended
    more = {"name": "more", "address": f"{HOST}:{free}", "tls": "starttls"}
    for round_, tls in enumerate(([{"certificate": "none.pem", "key": "none.key"}], good), start=1):
        server.configure(listener=[*listeners(), more], tls=tls)
        server.signal(signal.SIGHUP)
        said = "the old configuration stays" if round_ == 1 else "reload: done"
        until(lambda: said in server.log, what=said)  # noqa: B023
    with Client(free) as client:
        assert client.greeting.startswith("220")
    assert "Address already in use" not in server.log
