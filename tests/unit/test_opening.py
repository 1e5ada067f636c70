"""Opening: what is said before the first command of mail, reply by reply, and what no server can make us say."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import pbkdf2_hmac

import pytest

from pillarbox.engine.opening import Declined, Opened, Opening, OpeningStep, Terms, Unfit
from pillarbox.engine.routing import TlsPolicy
from pillarbox.smtp.client import ClientConnection
from pillarbox.smtp.events import ReplyReceived
from pillarbox.smtp.sasl import Credentials, Derivation
from pillarbox.smtp.scram import ScramServer, Verifier, keys_of
from tests.making import FixedChannel

KNOWN = Credentials("tim", "secret")
PLAIN = b"AUTH PLAIN " + b64encode(b"\0tim\0secret") + b"\r\n"
HELLO = b"EHLO me.test\r\n"
SALT = b"salted so that it lasts"
KEYS = keys_of(pbkdf2_hmac("sha256", b"secret", SALT, 4096), SALT, 4096)
CHANNEL = FixedChannel({"tls-exporter": b"exported"})


class Talk:
    """An opening, and a server that says what it is told to."""

    def __init__(
        self,
        *,
        policy: TlsPolicy = TlsPolicy.OFF,
        credentials: Credentials | None = KNOWN,
        loopback: bool = True,
        secure: bool = False,
        channel: FixedChannel | None = None,
    ) -> None:
        self.client = ClientConnection()
        self.opening = Opening(self.client, Terms("me.test", policy, credentials, loopback), nonce=lambda: "chance")
        self.step: OpeningStep = b""
        if secure:
            assert self.opening.secured(channel) == b""

    def hears(self, *lines: str) -> OpeningStep:
        """The last step behind these lines of the server."""
        for line in lines:
            self.client.receive_data(f"{line}\r\n".encode())
            reply = self.client.next_event()
            if isinstance(reply, ReplyReceived):
                self.step = self.opening.on_reply(reply)
        return self.step

    def greeted(self, *keywords: str) -> OpeningStep:
        return self.hears("220 far.test ESMTP", "250-far.test", *(f"250-{word}" for word in keywords), "250 HELP")


def challenged(octets: bytes) -> str:
    return f"334 {b64encode(octets).decode()}"


def sent(step: OpeningStep) -> bytes:
    """The octets of a response."""
    assert isinstance(step, bytes) and step.endswith(b"\r\n")
    return b64decode(step.split()[-1]) if step.strip() else b""


def test_without_credentials_hello_is_enough() -> None:
    talk = Talk(credentials=None)
    assert talk.hears("220 far.test ESMTP") == HELLO
    assert talk.hears("250 far.test") is Opened.DONE


def test_hello_of_old() -> None:
    talk = Talk(credentials=None)
    assert talk.hears("220 far.test", "502 What?") == b"HELO me.test\r\n"
    assert talk.hears("250 far.test") is Opened.DONE


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["554 no"], "554 no"),
        (["220 far.test", "451 later"], "451 later"),
        (["220 far.test", "421 bye"], "421 bye"),
        (["220 far.test", "500 what?", "550 go"], "550 go"),
    ],
)
def test_servers_that_decline(lines: Sequence[str], text: str) -> None:
    step = Talk().hears(*lines)
    assert isinstance(step, Declined) and step.text == text


@pytest.mark.parametrize(
    ("offers", "mechanism"),
    [
        ("PLAIN LOGIN", "PLAIN"),
        ("LOGIN plain", "PLAIN"),
        ("LOGIN", "LOGIN"),
        ("PLAIN SCRAM-SHA-256", "SCRAM-SHA-256"),
        ("PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"),
        ("PLAIN SCRAM-SHA-256-PLUS", "PLAIN"),
        ("SCRAM-SHA-1 GSSAPI LOGIN", "LOGIN"),
    ],
)
def test_the_strongest_is_taken(offers: str, mechanism: str) -> None:
    step = Talk().greeted(f"AUTH {offers}")
    assert isinstance(step, bytes) and step.split()[1].decode() == mechanism


@pytest.mark.parametrize(
    ("offers", "mechanism", "header"),
    [
        ("SCRAM-SHA-256 SCRAM-SHA-256-PLUS", "SCRAM-SHA-256-PLUS", b"p=tls-exporter,,"),
        ("PLAIN SCRAM-SHA-256-PLUS", "SCRAM-SHA-256-PLUS", b"p=tls-exporter,,"),
        ("PLAIN SCRAM-SHA-256", "SCRAM-SHA-256", b"y,,"),
    ],
)
def test_a_channel_is_bound_where_it_can_be(offers: str, mechanism: str, header: bytes) -> None:
    step = Talk(secure=True, channel=CHANNEL, loopback=False).greeted(f"AUTH {offers}")
    assert isinstance(step, bytes) and step.split()[1].decode() == mechanism
    assert sent(step).startswith(header + b"n=tim,r=chance")


@pytest.mark.parametrize("offers", ["PLAIN", "SCRAM-SHA-256", "LOGIN"])
def test_nothing_that_shows_a_password_crosses_a_network_in_clear(offers: str) -> None:
    step = Talk(loopback=False).greeted(f"AUTH {offers}")
    assert isinstance(step, Unfit) and "in clear" in step.text


def test_plain() -> None:
    talk = Talk()
    assert talk.greeted("AUTH PLAIN") == PLAIN
    assert talk.hears("235 welcome") is Opened.DONE


def test_login() -> None:
    talk = Talk()
    assert talk.greeted("AUTH LOGIN") == b"AUTH LOGIN\r\n"
    assert sent(talk.hears(challenged(b"Username:"))) == b"tim"
    assert sent(talk.hears(challenged(b"Password:"))) == b"secret"
    assert talk.hears("235 welcome") is Opened.DONE


def test_login_without_being_asked_for_the_password() -> None:
    talk = Talk()
    talk.greeted("AUTH LOGIN")
    talk.hears(challenged(b"Username:"))
    assert isinstance(talk.hears("235 welcome"), Unfit)


class TestScram:
    def begun(self, server: ScramServer, talk: Talk) -> OpeningStep:
        """Up to our proof."""
        server.begin(sent(talk.step))
        challenge = server.challenge(Verifier(KEYS, "served", usable=True))
        wanted = talk.hears(challenged(challenge.octets))
        assert isinstance(wanted, Derivation) and "secret" not in repr(wanted)
        return talk.opening.derived(pbkdf2_hmac("sha256", b"secret", wanted.salt, wanted.iterations))

    @pytest.mark.parametrize("bound", [False, True])
    def test_both_sides_show_that_they_know(self, bound: bool) -> None:
        channel = CHANNEL if bound else None
        talk = Talk(secure=True, channel=channel)
        talk.greeted("AUTH SCRAM-SHA-256 SCRAM-SHA-256-PLUS")
        server = ScramServer(channel, plus=bound, may_bind=bound)
        proof = server.respond(sent(self.begun(server, talk)))
        talk.step = talk.hears(challenged(getattr(proof, "octets", b"")))
        assert talk.step == b"\r\n"
        assert talk.hears("235 welcome") is Opened.DONE

    def test_a_235_from_who_has_shown_nothing_is_not_believed(self) -> None:
        talk = Talk()
        talk.greeted("AUTH SCRAM-SHA-256")
        self.begun(ScramServer(None, plus=False, may_bind=False), talk)
        step = talk.hears("235 come in")
        assert isinstance(step, Unfit) and "has not shown that it knows the password" in step.text

    def test_a_235_at_once_is_not_believed(self) -> None:
        talk = Talk()
        talk.greeted("AUTH SCRAM-SHA-256")
        assert isinstance(talk.hears("235 come in"), Unfit)

    def test_a_wrong_signature(self) -> None:
        talk = Talk()
        talk.greeted("AUTH SCRAM-SHA-256")
        self.begun(ScramServer(None, plus=False, may_bind=False), talk)
        step = talk.hears(challenged(b"v=" + b64encode(b"x" * 32)))
        assert isinstance(step, Unfit) and "AUTH SCRAM-SHA-256: the server does not know the password" in step.text

    def test_a_wrong_password_is_the_server_s_word(self) -> None:
        talk = Talk()
        talk.greeted("AUTH SCRAM-SHA-256")
        self.begun(ScramServer(None, plus=False, may_bind=False), talk)
        step = talk.hears("535 5.7.8 no")
        assert isinstance(step, Declined) and step.text == "535 5.7.8 no"


@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED, TlsPolicy.VERIFIED])
def test_tls_comes_before_the_password_and_what_was_said_before_counts_no_more(policy: TlsPolicy) -> None:
    talk = Talk(policy=policy, loopback=False)
    assert talk.greeted("AUTH PLAIN", "STARTTLS") == b"STARTTLS\r\n"
    assert talk.hears("220 go") is Opened.HANDSHAKE
    assert talk.opening.secured(None) == HELLO
    assert isinstance(talk.hears("250 far.test"), Unfit), "AUTH was offered in clear only"


def test_octets_behind_starttls() -> None:
    talk = Talk(policy=TlsPolicy.OPPORTUNISTIC)
    talk.greeted("STARTTLS")
    talk.client.receive_data(b"220 go\r\n250 injected\r\n")
    reply = talk.client.next_event()
    assert isinstance(reply, ReplyReceived)
    assert talk.opening.on_reply(reply) == Unfit("the server sent octets behind its reply to STARTTLS")


def test_where_tls_is_required_its_refusal_counts() -> None:
    talk = Talk(policy=TlsPolicy.REQUIRED)
    talk.greeted("STARTTLS")
    step = talk.hears("454 not now")
    assert isinstance(step, Declined) and step.text == "TLS is required here: 454 not now"
    assert isinstance(Talk(policy=TlsPolicy.VERIFIED).greeted(), Unfit)


def test_where_tls_is_not_required_its_refusal_does_not() -> None:
    talk = Talk(policy=TlsPolicy.OPPORTUNISTIC, credentials=None)
    talk.greeted("STARTTLS")
    assert talk.hears("454 not now") is Opened.DONE
