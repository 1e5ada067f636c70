"""Mail and logins by programs that were not written here, where other files show less: SCRAM bound to the channel,
aiosmtplib under TLS, swaks in one write and behind proxies; Postfix and Exim as relays towards us and as next hops.

None of the servers offers BINARYMIME, so our BDAT has no next hop here that was written elsewhere; Exim's client speaks
BDAT to us, Postfix's never does.
"""

from __future__ import annotations

import asyncio
import email
import signal
import ssl
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
import trustme

from tests.live.corpus import simple
from tests.live.relay_chain import Source
from tests.live.support import DOMAIN, HOST, Client, Server, arrived, letters, needs, until
from tests.live.test_extensions_relayed import BINARY, EIGHT_BIT, PIECE, parts, status, text
from tests.live.test_peers import started
from tests.live.test_tls_live import NAME, trusting, write
from tests.peers.aiosmtpd import Aiosmtpd
from tests.peers.exim import Exim
from tests.peers.peer import MAILBOX, Peer
from tests.peers.postfix import Postfix

ALICE, BOB, JÖRG = f"alice@{DOMAIN}", f"bob@{DOMAIN}", f"jörg@{DOMAIN}"
PASSWORD = "correct horse"
ENDS = (("submission", "starttls"), ("submissions", "implicit"), ("mx", "starttls"))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(tmp_path: Path, authority: trustme.CA) -> Iterator[Server]:
    here = {"address": f"{HOST}:0", "service": "submission"}
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings = {
        "hostname": NAME,
        "listener": [
            {"name": "mx", "address": f"{HOST}:0", "tls": "starttls"},
            {"name": "submissions", "tls": "implicit", **here},
            {"name": "submission", "tls": "starttls", **here},
            {"name": "proxied", "address": f"{HOST}:0", "proxy_protocol": [HOST]},
        ],
        "tls": [write(authority.issue_cert(NAME, "localhost", HOST), tmp_path, "cert")],
        "relay": {"networks": ["192.0.2.0/24"]},
    }
    with Server(tmp_path, settings=settings) as running:
        running.local(ALICE, BOB, JÖRG)
        running.cli("user", "passwd", ALICE, "--password-stdin", text=f"{PASSWORD}\n".encode())
        yield running


# --- SCRAM bound to the channel


def by_gsasl(server: Server, mechanism: str, *options: str, password: str = PASSWORD) -> tuple[int, str]:
    """By STARTTLS: implicit TLS is beyond this program."""
    address = f"--connect=localhost:{server.ports['submission']}"
    command = [needs("gsasl"), "--smtp", address, f"--x509-ca-file={server.place / 'ca.pem'}", "--verbose"]
    login = [f"--mechanism={mechanism}", f"--authentication-id={ALICE}", f"--password={password}"]
    run = subprocess.run(
        [*command, *login, *options], input="", capture_output=True, text=True, timeout=50, check=False
    )
    return run.returncode, run.stdout + run.stderr


def test_gsasl_by_the_exporter_of_tls_1_3(server: Server) -> None:
    good, said = by_gsasl(server, "SCRAM-SHA-256-PLUS")
    assert good == 0 and "235 2.7.0" in said and "(TLS1.3)" in said, said
    bad, said = by_gsasl(server, "SCRAM-SHA-256-PLUS", password="wrong")
    assert bad != 0 and "535 5.7.8" in said, said


def test_gsasl_by_what_was_withdrawn(server: Server) -> None:
    """In TLS 1.2 it takes tls-unique, which RFC 9266 §3 warns of and nobody here knows: no login."""
    bad, said = by_gsasl(server, "SCRAM-SHA-256-PLUS", "--priority=NORMAL:-VERS-TLS1.3")
    assert bad != 0 and "535 5.7.8" in said and "(TLS1.2)" in said, said


@pytest.mark.parametrize("version", ["NORMAL", "NORMAL:-VERS-TLS1.3"], ids=["TLS 1.3", "TLS 1.2"])
def test_gsasl_that_knows_no_binding(server: Server, version: str) -> None:
    good, said = by_gsasl(server, "SCRAM-SHA-256", "--no-cb", f"--priority={version}")
    assert good == 0 and "235 2.7.0" in said, said


@pytest.mark.parametrize(("listener", "kind"), ENDS[:2])
@pytest.mark.parametrize("mechanism", ["scram-sha-256", "scram-sha-256-plus"])
def test_msmtp_by_scram_under_tls(server: Server, listener: str, kind: str, mechanism: str) -> None:
    msmtp = needs("msmtp")
    version = subprocess.run([msmtp, "--version"], capture_output=True, text=True, check=True).stdout
    if mechanism not in version:
        pytest.skip(f"LOUD: this {version.splitlines()[0]} has no {mechanism} (1.8.24 and later do)")
    command = [msmtp, "--file=/dev/null", "--host=localhost", f"--port={server.ports[listener]}", "--tls=on"]
    command += [f"--tls-starttls={'on' if kind == 'starttls' else 'off'}", f"--tls-trust-file={server.place}/ca.pem"]
    command += [f"--auth={mechanism}", f"--user={ALICE}", f"--passwordeval=echo '{PASSWORD}'", f"--from={ALICE}", BOB]
    run = subprocess.run(command, input=simple("msmtp"), capture_output=True, timeout=50, check=False)
    assert run.returncode == 0, run.stderr
    assert b" with ESMTPSA id " in arrived(server, 1, BOB)[0]


# --- aiosmtplib


@pytest.mark.parametrize(("listener", "kind"), ENDS)
def test_aiosmtplib_under_tls(server: Server, authority: trustme.CA, listener: str, kind: str) -> None:
    """AUTH, and a message whose sender, recipient and header are not ASCII."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = ALICE, JÖRG, "Grüße"
    message.set_content("Grüße\n", cte="8bit")

    async def talk() -> None:
        client = aiosmtplib.SMTP(
            hostname=HOST,
            port=server.ports[listener],
            use_tls=kind == "implicit",
            start_tls=kind == "starttls",
            tls_context=trusting(authority),
            timeout=20,
        )
        async with client:
            await client.login(ALICE, PASSWORD)
            await client.send_message(message)

    asyncio.run(talk())
    (letter,) = arrived(server, 1, JÖRG)
    assert b" with UTF8SMTPSA id " in letter and "Subject: Grüße\n".encode() in letter


def test_aiosmtplib_wants_a_certificate_that_holds(server: Server) -> None:
    async def talk() -> None:
        context = ssl.create_default_context()
        port = server.ports["submissions"]
        client = aiosmtplib.SMTP(hostname=HOST, port=port, use_tls=True, tls_context=context, timeout=20)
        with pytest.raises(aiosmtplib.SMTPConnectError, match="certificate verify failed"):
            await client.connect()

    asyncio.run(talk())
    with Client(server.port) as other:
        assert other.greeting.startswith("220")


# --- swaks

PROXY = ["--proxy-source", "192.0.2.9", "--proxy-source-port", "1", "--proxy-dest", "198.51.100.1"]
PROXIES = {
    "1": ["--proxy-version", "1", "--proxy-family", "TCP4"],
    "2": ["--proxy-version", "2", "--proxy-family", "AF_INET", "--proxy-protocol", "STREAM"],
    "2, six": ["--proxy-version", "2", "--proxy-family", "AF_INET6", "--proxy-protocol", "STREAM"],
}


def swaks(server: Server, listener: str, *options: str) -> str:
    command = [needs("swaks"), "--server", HOST, "--port", str(server.ports[listener]), "--from", ALICE, "--to", BOB]
    run = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("version", PROXIES)
def test_swaks_behind_a_proxy(server: Server, version: str) -> None:
    ends = [*PROXY, "--proxy-dest-port", "25"]
    if "six" in version:
        ends = [word.replace("192.0.2.9", "2001:db8::9").replace("198.51.100.1", "2001:db8::1") for word in ends]
    swaks(server, "proxied", *PROXIES[version], *ends)
    expected = b"([IPv6:2001:db8::9])" if "six" in version else b"([192.0.2.9])"
    assert expected in arrived(server, 1, BOB)[0]


@pytest.mark.parametrize("tls", [(), ("--tls",)], ids=["clear", "STARTTLS"])
def test_swaks_in_one_write(server: Server, tls: tuple[str, ...]) -> None:
    said = swaks(server, "mx", "--pipeline", *tls, "--auth", "PLAIN", "--au", ALICE, "--ap", PASSWORD)
    assert said.index("-> DATA" if not tls else "~> DATA") < said.index("2.1.0"), "it did not wait"
    assert (b" with ESMTPSA id " if tls else b" with ESMTPA id ") in arrived(server, 1, BOB)[0]


def test_swaks_by_lmtp_under_tls(server: Server) -> None:
    server.configure(listener=[*server.settings["listener"], _lmtp()])
    server.signal(signal.SIGHUP)
    until(lambda: "lmtp" in server.printed_ports(), what="the listener for LMTP")
    server.ports = server.printed_ports()
    said = swaks(server, "lmtp", "--protocol", "LMTP", "--tls", "--pipeline")
    assert "LHLO" in said and b" with LMTPS id " in arrived(server, 1, BOB)[0]


def _lmtp() -> dict[str, Any]:
    return {"name": "lmtp", "address": f"{HOST}:0", "service": "lmtp", "tls": "starttls"}


# --- other servers, as relays towards us


class SecurePostfix(Postfix):
    """It passes on under TLS or not at all."""

    more = "smtp_tls_security_level = encrypt\nsmtp_tls_loglevel = 1\n"
    services = "tlsmgr unix - - n 1000? 1 tlsmgr\n"


def through(peer: Peer, to: str, octets: bytes, *, mail: str = "", rcpt: str = "", sender: str = ALICE) -> None:
    with Source(HOST, peer.port, timeout=20, local_hostname="source.example") as source:
        source.ehlo()
        source.envelope(to, mail=mail, rcpt=rcpt, sender=sender)
        source.text(octets)


def notice(server: Server, count: int = 1) -> tuple[Any, Any]:
    """The groups of what ALICE was told."""
    until(lambda: len(letters(server, ALICE)) >= count, 20.0, f"a notice: {server.log}")
    return status(letters(server, ALICE)[-1])


@pytest.mark.matrix
@pytest.mark.timeout(300)
def test_postfix_passes_on_under_tls_what_was_asked(server: Server, tmp_path: Path) -> None:
    """DSN, SMTPUTF8 and 8BITMIME; by DATA, since its client has no BDAT."""
    with started(SecurePostfix, tmp_path / "peer", server.port) as peer:
        through(
            peer, BOB, text("dsn"), mail="RET=HDRS ENVID=an+2Bid", rcpt=f"NOTIFY=SUCCESS ORCPT=rfc822;First+2B@{DOMAIN}"
        )
        of_message, recipient = notice(server)
        through(peer, JÖRG, text("Grüße", EIGHT_BIT), mail="SMTPUTF8 BODY=8BITMIME")
        (international,) = arrived(server, 1, JÖRG)
    assert (of_message["Original-Envelope-Id"], recipient["Action"]) == ("an+id", "delivered")
    assert recipient["Original-Recipient"] == f"rfc822;First+@{DOMAIN}"
    (letter,) = arrived(server, 1, BOB)
    assert b" with ESMTPS id " in letter and b" with UTF8SMTPS id " in international
    assert international.endswith("\n\nGrüße\n.\n..x\n".encode())


@pytest.mark.matrix
@pytest.mark.timeout(300)
def test_exim_passes_on_by_bdat(server: Server, tmp_path: Path) -> None:
    with started(Exim, tmp_path / "peer", server.port) as peer:
        large = text("large", "\r\n" + ".line\r\n" * 100_000)
        for octets in (text("small"), large):
            through(peer, BOB, octets)
        found = arrived(server, 2, BOB)
        log = (peer.site.place / "var/log/exim4/mainlog").read_text()
    assert log.count(" K C=") >= 2, log  # how it writes that it spoke BDAT
    assert sorted(map(len, found))[1] > 600_000
    for letter, octets in zip(sorted(found, key=len), (text("small"), large), strict=True):  # it adds header fields
        assert letter.partition(b"\n\n")[2] == octets.replace(b"\r\n", b"\n").partition(b"\n\n")[2]


# --- and as next hops


def routed(server: Server, peer: Peer) -> None:
    """From now on the peer gets its own mail from us."""
    reloads = server.log.count("reload: done")
    server.configure(route=[{"match": MAILBOX.partition("@")[2], "next_hop": f"smtp://{HOST}:{peer.port}"}])
    server.signal(signal.SIGHUP)
    until(lambda: server.log.count("reload: done") > reloads, what="the route to it")


def by_us(server: Server, octets: bytes, *, chunked: bool = False, mail: str = "", rcpt: str = "") -> None:
    """Through our server, which asks for a login."""
    with Source(HOST, server.port, timeout=20, local_hostname="source.example") as source:
        source.login(ALICE, PASSWORD)
        source.envelope(MAILBOX, mail=mail, rcpt=rcpt, sender=ALICE)
        source.text(octets, chunked=chunked)


@pytest.mark.matrix
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [Postfix, Exim], ids=["Postfix", "Exim"])
def test_a_next_hop_gets_what_was_asked(kind: type[Peer], server: Server, tmp_path: Path) -> None:
    """DSN where it is offered: Postfix tells of the delivery itself; Exim does not, so we tell of the relay."""
    with started(kind, tmp_path / "peer", server.port) as peer:
        routed(server, peer)
        asked = "NOTIFY=SUCCESS ORCPT=rfc822;First@far.test"
        by_us(server, text("dsn"), mail="RET=HDRS ENVID=an+2Bid", rcpt=asked)
        of_message, recipient = notice(server)
        by_us(server, text("8-bit", EIGHT_BIT), mail="BODY=8BITMIME")
        binary = text("binary", "")[:-2] + b"\r\n" + BINARY
        by_us(server, binary, mail="BODY=BINARYMIME", chunked=True)
        until(lambda: len(peer.letters()) >= 3, 20.0, f"three letters: {server.cli('queue')}")
        found = {email.message_from_bytes(letter)["Subject"]: letter for letter in peer.letters()}
    assert (of_message["Original-Envelope-Id"], recipient["Original-Recipient"]) == ("an+id", "rfc822;First@far.test")
    assert recipient["Action"] == ("delivered" if kind is Postfix else "relayed")
    assert "Grüße\n".encode() in found["8-bit"].replace(b"\r\n", b"\n")
    assert parts(found["binary"])[1] == PIECE


@pytest.mark.matrix
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [Postfix, Exim, Aiosmtpd], ids=["Postfix", "Exim", "aiosmtpd"])
def test_a_next_hop_gets_international_mail_where_it_takes_it(kind: type[Peer], server: Server, tmp_path: Path) -> None:
    """aiosmtpd does not by itself: the sender is told, and what is ASCII goes there all the same."""
    with started(kind, tmp_path / "peer", None if kind is Aiosmtpd else server.port) as peer:
        routed(server, peer)
        by_us(server, text("plain"), mail="SMTPUTF8")
        by_us(server, text("international", f"To: jörg@{DOMAIN}\r\n\r\nbody\r\n"), mail="SMTPUTF8")
        if kind is Aiosmtpd:
            _, recipient = notice(server)
            assert (recipient["Action"], recipient["Status"]) == ("failed", "5.6.7")
        wanted = {"plain"} if kind is Aiosmtpd else {"plain", "international"}
        until(lambda: len(peer.letters()) >= len(wanted), 20.0, f"{wanted}: {server.cli('queue')}")
        found = {str(email.message_from_bytes(letter)["Subject"]): letter for letter in peer.letters()}
    assert set(found) == wanted
    if "international" in found:
        assert "To: jörg@".encode() in found["international"]
