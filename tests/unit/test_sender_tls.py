"""TLS and AUTH at a next hop, against scripted servers whose TLS is not ours.

Scripts are those of `test_sender`, with one step more: `T` makes the handshake.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Sequence

import pytest
import trustme

from pillarbox.engine.routing import Mx, SmartHost, TlsPolicy
from pillarbox.net import sender
from pillarbox.net.pool import KEPT_FREE, SmtpMailer, Ways
from pillarbox.net.tls_faults import MOST, REMEMBERED, TlsFaults
from pillarbox.sim.dns import ScriptedResolver
from pillarbox.smtp.sasl import Credentials
from tests.making import HOSTNAME, turns
from tests.unit.test_sender import (
    FAR,
    IP,
    PIECE,
    TAKEN,
    TEXT,
    Conversation,
    Office,
    ScriptedServer,
    hello,
    in_order,
    job,
    message,
    run,
    talk,
)
from tests.unit.test_starttls import faultless
from tests.unit.test_tls_layer import AUTHORITY, LARGE, client_context, server_context

NAME = "mx.far.example"
GOOD = server_context(AUTHORITY.issue_cert(NAME))
WRONG_NAME = server_context(AUTHORITY.issue_cert("other.example"))
UNKNOWN = server_context(trustme.CA().issue_cert(NAME))
OPPORTUNISTIC, REQUIRED, VERIFIED, OFF = (
    TlsPolicy.OPPORTUNISTIC,
    TlsPolicy.REQUIRED,
    TlsPolicy.VERIFIED,
    TlsPolicy.OFF,
)
KNOWN = Credentials("user", "secret")
AUTH = "C AUTH PLAIN " + b64encode(b"\0user\0secret").decode().replace("=", "\\=") + "\n"
OFFER = hello("STARTTLS", "SIZE 100")
ASKED = OFFER + "C STARTTLS\nN\nS 220 Go\n"
SMART = SmartHost(NAME, 465, implicit_tls=True)


def again(*keywords: str) -> str:
    """EHLO behind the handshake."""
    return (
        "C EHLO mx.example.test\nS 250-mx.far.example\n"
        + "".join(f"S 250-{each}\n" for each in keywords)
        + "S 250 HELP\n"
    )


UNDER_TLS = ASKED + "T\n" + again("PIPELINING")
IN_CLEAR = hello("PIPELINING")
SENT = talk(together=True)


class TlsConversation(Conversation):
    """`T`: the handshake."""

    def __init__(
        self, script: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext
    ) -> None:
        super().__init__(script, reader, writer)
        self.context = context
        self.secure = False

    async def _step(self, kind: str, text: str) -> None:
        if kind != "T":
            await super()._step(kind, text)
            return
        try:
            await self._writer.start_tls(self.context)
        except OSError as error:  # of which an SSLError is one
            raise ConnectionError(str(error)) from error
        self.secure = True


class TlsServer(ScriptedServer):
    def __init__(self, scripts: Sequence[str], context: ssl.SSLContext = GOOD, *, implicit: bool = False) -> None:
        super().__init__(scripts)
        self.context = context
        self.implicit = implicit
        self.talked: list[TlsConversation] = []

    async def start(self) -> None:
        context = self.context if self.implicit else None
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = TlsConversation(self.scripts.pop(0), reader, writer, self.context)
        self.conversations.append(conversation)
        self.talked.append(conversation)
        self._arrived.set()
        await conversation.play()


def contexts(policy: TlsPolicy) -> ssl.SSLContext:
    context = client_context()
    if policy is not VERIFIED:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class TlsOffice(Office):
    """An office with one server and a policy."""

    def __init__(
        self,
        server: ScriptedServer,
        policy: TlsPolicy,
        *,
        credentials: Credentials | None = None,
        next_hop: Mx | SmartHost | None = None,
    ) -> None:
        super().__init__({IP: server}, ScriptedResolver(mx=FAR, addresses={NAME: [IP]}), next_hop or Mx())
        ways = Ways(self.wires, self.resolver, self.clock, self.bodies, HOSTNAME, in_order, tls=contexts)
        self.mailer = SmtpMailer(self.next_hop, ways, tls=policy, credentials=credentials)

    @property
    def talked(self) -> list[TlsConversation]:
        server = self.server
        assert isinstance(server, TlsServer)
        return server.talked


def carried(
    *scripts: str,
    policy: TlsPolicy = OPPORTUNISTIC,
    context: ssl.SSLContext = GOOD,
    credentials: Credentials | None = None,
    next_hop: Mx | SmartHost | None = None,
) -> tuple[str, list[TlsConversation]]:
    """What a message comes to, and the conversations that it took."""
    implicit = isinstance(next_hop, SmartHost) and next_hop.implicit_tls
    found: list[str] = []
    server = TlsServer(scripts, context, implicit=implicit)

    async def main(here: Office) -> None:
        found.extend(await here.carry(job()))

    run(lambda: TlsOffice(server, policy, credentials=credentials, next_hop=next_hop), faultless(main))
    (outcome,) = found
    return outcome, server.talked


def deferred(outcome: str, said: str) -> bool:
    return outcome.startswith("deferred 4.4.1 ") and said in outcome


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next hop is on no loopback address."""
    monkeypatch.setattr(sender, "is_loopback", lambda transport: False)


# --- what is used


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, REQUIRED, VERIFIED], ids=lambda policy: policy.value)
def test_tls_is_used_where_it_is_offered(policy: TlsPolicy) -> None:
    outcome, (talked,) = carried(UNDER_TLS + SENT, policy=policy)
    assert outcome == f"delivered {TAKEN}"
    assert talked.secure and talked.messages == [TEXT]
    assert talked.commands[:3] == ["EHLO mx.example.test", "STARTTLS", "EHLO mx.example.test"]
    assert talked.commands[3] == "MAIL FROM:<from@here.test>"  # SIZE was offered in clear only


def test_tls_that_is_not_wanted_is_not_asked_for() -> None:
    outcome, (talked,) = carried(OFFER + talk(together=False), policy=OFF)
    assert outcome == f"delivered {TAKEN}" and not talked.secure


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, REQUIRED], ids=lambda policy: policy.value)
@pytest.mark.parametrize("context", [WRONG_NAME, UNKNOWN], ids=["other name", "unknown authority"])
def test_who_verifies_nothing_takes_any_certificate(policy: TlsPolicy, context: ssl.SSLContext) -> None:
    outcome, (talked,) = carried(UNDER_TLS + SENT, policy=policy, context=context)
    assert outcome == f"delivered {TAKEN}" and talked.secure


@pytest.mark.parametrize(
    ("context", "said"),
    [(WRONG_NAME, "certificate: Hostname mismatch"), (UNKNOWN, "certificate: unable to get local issuer certificate")],
    ids=["other name", "unknown authority"],
)
@pytest.mark.parametrize("next_hop", [Mx(), SMART], ids=["starttls", "smtps"])
def test_who_verifies_takes_no_other(next_hop: Mx | SmartHost, context: ssl.SSLContext, said: str) -> None:
    async def main(here: Office) -> None:
        (outcome,) = await here.carry(job())
        assert deferred(outcome, said)
        assert len(here.wires.asked) == 1

    scripts = [ASKED + "T\n"] if next_hop != SMART else []
    server = TlsServer(scripts, context, implicit=next_hop == SMART)
    run(lambda: TlsOffice(server, VERIFIED, next_hop=next_hop), faultless(main))


def test_a_large_message_under_tls() -> None:
    text = b"Subject: x\r\n\r\n" + b"".join(b"%08d\r\n" % number for number in range(len(LARGE) // 10))

    async def main(here: Office) -> None:
        here.bodies.chunks = [text[at : at + 65536] for at in range(0, len(text), 65536)]
        assert await here.carry(job(of=message(None, size=len(text)))) == [f"delivered {TAKEN}"]
        assert here.server.conversations[0].messages == [text]

    run(lambda: TlsOffice(TlsServer([UNDER_TLS + SENT]), REQUIRED), faultless(main))


def test_a_slow_server_is_not_sent_more_than_it_takes() -> None:
    script = UNDER_TLS + "C MAIL .*\nC RCPT .*\nC DATA\nS 250 Ok\nS 250 Ok\nS 354 Go\nL\n"

    async def main(here: Office) -> None:
        here.bodies.chunks = [PIECE] * 400  # 40 MB: more than any socket holds
        report = here.deliver(job(of=message(None, size=400 * len(PIECE))))
        talked = await here.server.conversation()
        await talked.silent.wait()
        await turns(200)
        assert 0 < here.bodies.given < 350
        here.clock.advance(200)
        assert [outcome.text for outcome in (await report).outcomes] == ["no answer in time"]

    run(lambda: TlsOffice(TlsServer([script]), REQUIRED), faultless(main))


def test_a_connection_is_kept_with_its_tls() -> None:
    async def main(here: Office) -> None:
        for _ in range(2):
            assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.wires.asked) == 1
        ((_, connection),) = here.mailer._free
        assert connection.channel is not None
        assert len(connection.channel.binding("tls-server-end-point") or b"") == 32

    run(lambda: TlsOffice(TlsServer([UNDER_TLS + SENT + SENT]), REQUIRED), faultless(main))


# --- in clear, or not at all


@pytest.mark.parametrize("answer", ["454 4.7.0 Not now", "502 5.5.1 What?", "501 No"])
def test_opportunistic_goes_on_in_clear_where_starttls_is_refused(answer: str) -> None:
    script = hello("STARTTLS", "PIPELINING") + f"C STARTTLS\nS {answer}\n" + SENT
    outcome, (talked,) = carried(script)
    assert outcome == f"delivered {TAKEN}" and not talked.secure


def test_opportunistic_goes_on_in_clear_where_it_is_not_offered() -> None:
    assert carried(IN_CLEAR + SENT)[0] == f"delivered {TAKEN}"


@pytest.mark.parametrize(
    "failure",
    ["P 5\nR no handshake\n", "X\n", "!\n", "P 5\nR \\x15\\x03\\x01\\x00\\x02\\x02\\x28\n"],
    ids=["text", "end", "reset", "alert"],
)
def test_opportunistic_tries_anew_in_clear_where_the_handshake_fails(failure: str) -> None:
    outcome, (first, second) = carried(ASKED + failure, hello("STARTTLS", "PIPELINING") + SENT)
    assert outcome == f"delivered {TAKEN}"
    assert (first.messages, second.messages) == ([], [TEXT])
    assert not second.secure


def test_opportunistic_tries_anew_in_clear_where_the_handshake_takes_too_long() -> None:
    async def main(here: Office) -> None:
        report = here.deliver(job())
        talked = await here.server.conversation()
        await talked.held[0].wait()
        await turns()
        here.clock.advance(305)
        talked.go_on[0].set()
        assert [str(outcome.text) for outcome in (await report).outcomes] == [TAKEN]

    run(lambda: TlsOffice(TlsServer([ASKED + "H 0\n", IN_CLEAR + SENT]), OPPORTUNISTIC), faultless(main))


def test_where_tls_has_failed_it_is_not_tried_with_each_connection() -> None:
    """One connection for each message, until it is forgotten; another host is not taken for this one."""
    clear = hello("STARTTLS", "PIPELINING") + SENT + "C QUIT\nX\n"
    failing = ASKED + "P 5\nR no handshake\n"

    async def main(here: Office) -> None:
        for connections in (2, 3, 4):
            assert await here.carry(job()) == [f"delivered {TAKEN}"]
            assert len(here.wires.asked) == connections
            here.clock.advance(KEPT_FREE + 1)
        here.clock.advance(REMEMBERED)
        assert await here.carry(job()) == [f"delivered {TAKEN}"]
        assert len(here.wires.asked) == 6
        assert isinstance(here, TlsOffice) and not any(each.secure for each in here.talked)

    scripts = [failing, clear, clear, clear, failing, clear]
    run(lambda: TlsOffice(TlsServer(scripts), OPPORTUNISTIC), faultless(main))


def test_what_is_remembered_of_tls_is_bounded() -> None:
    faults = TlsFaults()
    for number in range(MOST + 1):
        faults.failed((IP, number), 100.0)
    faults.failed((IP, 1), 200.0)
    assert [faults.known((IP, number), 100.0) for number in (0, 1, 2, MOST)] == [False, True, True, True]
    faults.failed((IP, MOST + 1), 200.0)
    assert not faults.known((IP, 2), 200.0)
    assert [faults.known((IP, 1), 200.0 + seconds) for seconds in (REMEMBERED - 1, REMEMBERED)] == [True, False]


@pytest.mark.usefixtures("far")
def test_with_a_password_tls_is_tried_each_time() -> None:
    """In clear it would be of no use, so that a passing fault must not keep us there."""
    bound = ASKED + "T\n" + again("AUTH PLAIN", "PIPELINING") + AUTH + "S 235 Ok\n" + SENT

    async def main(here: Office) -> None:
        (outcome,) = await here.carry(job())
        assert deferred(outcome, "the password would cross the network in clear")
        assert await here.carry(job()) == [f"delivered {TAKEN}"]

    scripts = [ASKED + "X\n", hello("AUTH PLAIN", "STARTTLS"), bound]
    run(lambda: TlsOffice(TlsServer(scripts), OPPORTUNISTIC, credentials=KNOWN), faultless(main))


def test_a_server_that_closes_instead_is_tried_later() -> None:
    outcome, _ = carried(OFFER + "C STARTTLS\nS 421 4.3.2 Going down\n")
    assert deferred(outcome, "421 4.3.2 Going down")


@pytest.mark.parametrize("policy", [REQUIRED, VERIFIED], ids=lambda policy: policy.value)
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (IN_CLEAR, "TLS is required here, and the server does not offer it"),
        ("S 220 mx ESMTP\nC EHLO .*\nS 502 What?\nC HELO .*\nS 250 mx\n", "TLS is required here, and the server does"),
        (OFFER + "C STARTTLS\nS 454 4.7.0 Not now\n", "TLS is required here: 454 4.7.0 Not now"),
        (ASKED + "P 5\nR no handshake at all\n", "TLS: "),
        (ASKED + "X\n", " in the handshake"),
    ],
    ids=["not offered", "HELO", "refused", "failed", "closed"],
)
def test_what_requires_tls_never_leaves_in_clear(policy: TlsPolicy, script: str, said: str) -> None:
    outcome, talked = carried(script, policy=policy)
    assert deferred(outcome, said)
    assert len(talked) == 1 and not any("MAIL" in command for command in talked[0].commands)


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, REQUIRED, VERIFIED], ids=lambda policy: policy.value)
@pytest.mark.parametrize("behind", ["250 injected\\r\\n", "2", "\\x16\\x03\\x03"])
def test_octets_behind_the_reply_to_starttls_end_the_connection(policy: TlsPolicy, behind: str) -> None:
    """RFC 3207 §4.2: nothing said in clear may be taken for what TLS protects."""
    outcome, (talked,) = carried(OFFER + f"C STARTTLS\nR 220 Go\\r\\n{behind}\n", policy=policy)
    assert deferred(outcome, "the server sent octets behind its reply to STARTTLS")


# --- the handshake comes first


@pytest.mark.parametrize("policy", [OFF, OPPORTUNISTIC, REQUIRED, VERIFIED], ids=lambda policy: policy.value)
def test_smtps(policy: TlsPolicy) -> None:
    script = hello("PIPELINING", "STARTTLS") + SENT
    outcome, (talked,) = carried(script, policy=policy, next_hop=SMART)
    assert outcome == f"delivered {TAKEN}" and talked.messages == [TEXT]


def test_smtps_never_leaves_in_clear() -> None:
    async def main(here: Office) -> None:
        (outcome,) = await here.carry(job())
        assert deferred(outcome, "TLS: ")
        assert here.wires.asked == [(IP, 465)]

    run(lambda: TlsOffice(TlsServer(["S 220 mx ESMTP\nW\n"]), OPPORTUNISTIC, next_hop=SMART), faultless(main))


# --- AUTH


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("policy", [OPPORTUNISTIC, REQUIRED], ids=lambda policy: policy.value)
def test_a_password_is_sent_under_tls(policy: TlsPolicy) -> None:
    script = ASKED + "T\n" + again("AUTH LOGIN PLAIN", "PIPELINING") + AUTH + "S 235 Ok\n" + SENT
    assert carried(script, policy=policy, credentials=KNOWN)[0] == f"delivered {TAKEN}"
    assert carried(
        hello("auth plain", "PIPELINING") + AUTH + "S 235 Ok\n" + SENT, policy=policy, credentials=KNOWN, next_hop=SMART
    )[0] == (f"delivered {TAKEN}")


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize(
    "scripts",
    [
        [hello("AUTH PLAIN")],
        [hello("AUTH PLAIN", "STARTTLS") + "C STARTTLS\nS 454 Not now\n"],
        [ASKED + "X\n", hello("AUTH PLAIN")],
    ],
    ids=["not offered", "refused", "failed"],
)
def test_a_password_never_crosses_a_network_in_clear(scripts: list[str]) -> None:
    outcome, talked = carried(*scripts, credentials=KNOWN)
    assert deferred(outcome, "the password would cross the network in clear: the server offers no TLS")
    assert not any("AUTH" in command for each in talked for command in each.commands)


def test_on_this_machine_it_may_be_in_clear() -> None:
    script = hello("AUTH PLAIN", "PIPELINING") + AUTH + "S 235 Ok\n" + SENT
    assert carried(script, credentials=KNOWN)[0] == f"delivered {TAKEN}"


def test_a_wrong_password_is_not_the_fault_of_the_mail() -> None:
    script = hello("AUTH PLAIN") + AUTH + "S 535 5.7.8 Never heard of you\n"
    outcome, (talked,) = carried(script, credentials=KNOWN)
    assert deferred(outcome, "535 5.7.8 Never heard of you")
    assert "secret" not in outcome and AUTH.split()[3].replace("\\", "") not in outcome


@pytest.mark.parametrize(
    "behind",
    [again("PIPELINING"), again("AUTH GSSAPI"), "C EHLO .*\nS 502 What?\nC HELO .*\nS 250 mx\n"],
    ids=["no AUTH", "nothing known", "no EHLO"],
)
def test_what_was_offered_in_clear_counts_no_more(behind: str) -> None:
    """RFC 3207 §4.2."""
    script = hello("AUTH PLAIN", "STARTTLS") + "C STARTTLS\nS 220 Go\nT\n" + behind
    outcome, _ = carried(script + "X\n", credentials=KNOWN)
    assert deferred(outcome, ": none of SCRAM-SHA-256, PLAIN, LOGIN")
