"""Source → A → B → sink: two servers that relay, and next hops of the last one, each with an EHLO of its own.

A takes mail for the domains of the sinks from anybody, and for anywhere from who has logged in; it passes all on to B.
B has a mailbox for ALICE, who so gets the notices, and a route for each sink: the sink NAME is where NAME.test leads.
Every certificate is of one authority, which A and B trust.
"""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.live.raw_sink import SECURED, Letter, RawSink
from tests.live.support import HOST, Server, letters, until
from tests.live.test_tls_live import trusting, write

ALICE = "alice@home.test"  # whose mailbox is on B
CAROL = "carol@work.test"  # who may log in at A
PASSWORD = "correct horse"
RELAYING = {"networks": ["127.0.0.0/8"]}


class Chain:
    def __init__(self, a: Server, b: Server, sinks: Mapping[str, RawSink], authority: trustme.CA) -> None:
        self.a = a
        self.b = b
        self.sinks = sinks
        self.authority = authority

    @contextmanager
    def source(self, *, login: bool = False, listener: str = "mx", tls: bool = True) -> Iterator[Source]:
        """A client of A."""
        with Source(HOST, self.a.ports[listener], timeout=20, local_hostname="source.example") as client:
            client.ehlo_msg = "lhlo" if listener == "local" else "ehlo"
            client.ehlo()
            if tls:
                client.starttls(context=trusting(self.authority))
                client.ehlo()
            if login:
                client.login(CAROL, PASSWORD)
            yield client

    def letter(self, sink: str, subject: str) -> Letter:
        """The one message with that subject that the sink got."""
        return self.letters(sink, subject, 1)[0]

    def letters(self, sink: str, subject: str, count: int) -> list[Letter]:
        """As many as that; more is an error."""

        def found() -> list[Letter]:
            return [each for each in list(self.sinks[sink].letters) if _is_about(each.text, subject)]

        until(lambda: len(found()) >= count, what=f"{count} × {subject!r} at {sink}: {self.b.log}")
        assert len(found()) == count
        return found()

    def notices(self, about: str) -> list[bytes]:
        """What ALICE has been told so far of the message with that subject."""
        return [each for each in letters(self.b, ALICE) if _is_about(each.split(b"\n\n", 1)[1], about)]

    def notice(self, about: str) -> bytes:
        """The first."""
        return until(lambda: self.notices(about), what=f"a notice about {about!r}: {self.b.log}")[0]


def _is_about(text: bytes, subject: str) -> bool:
    return re.search(rb"(?m)^Subject: %b\r?$" % re.escape(subject.encode()), text) is not None


class Source(smtplib.SMTP):
    """Says what it is told to, parameters and all."""

    def envelope(self, to: str | Sequence[str], *, mail: str = "", rcpt: str = "", sender: str = ALICE) -> str:
        """MAIL and RCPT, all taken; gives the reply to MAIL."""
        self.command_encoding = "utf-8"
        code, text = self.docmd(f"MAIL FROM:<{sender}> {mail}".rstrip())
        assert code == 250, text
        for each in [to] if isinstance(to, str) else to:
            answer = self.docmd(f"RCPT TO:<{each}> {rcpt}".rstrip())
            assert answer[0] == 250, answer
        return text.decode()

    def text(self, octets: bytes, *, chunked: bool = False) -> None:
        if chunked:
            self.send(b"BDAT %d LAST\r\n" % len(octets) + octets)
            code, said = self.getreply()
        else:
            code, said = self.data(octets)
        assert code == 250, said


def parameters(line: bytes) -> dict[str, str]:
    """Those of a MAIL or RCPT line, by keyword."""
    words = line.decode().partition(">")[2].split()
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def says(keywords: Sequence[str], *, tls: bool) -> dict[bytes, bytes]:
    """The script of a sink that offers this, and STARTTLS where it has it."""

    def hello(words: Sequence[str]) -> bytes:
        lines = ["sink.example", *words]
        return "".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines).encode()

    inside = [word for word in keywords if word != "STARTTLS"]
    outside = [word for word in inside if word != "REQUIRETLS"]
    return {
        b"EHLO": hello([*outside, *["STARTTLS"] * tls]),
        SECURED: hello(inside),
        b"BDAT": b"250 2.0.0 ok\r\n",
        b"AUTH": b"235 2.7.0 welcome\r\n",
    }


@contextmanager
def chain(place: Path, offers: Mapping[str, Sequence[str]], **of_a: Any) -> Iterator[Chain]:
    """`offers`: what each sink says to EHLO; one that says STARTTLS has a certificate that holds. `of_a`: settings."""
    authority = trustme.CA()
    roots = place / "roots.pem"
    authority.cert_pem.write_to_path(roots)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    pair = [write(authority.issue_cert(HOST, "a.mx.test", "b.mx.test"), place, "pair")]
    secret = place / "secret"
    secret.write_text(f"{CAROL}\n{PASSWORD}\n")
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("SSL_CERT_FILE", str(roots))
        sinks = {}
        routes = []
        for name, words in offers.items():
            tls = "STARTTLS" in words
            sink = sinks[name] = stack.enter_context(RawSink(says(words, tls=tls), context if tls else None))
            route = {"next_hop": f"smtp://{HOST}:{sink.port}"}
            if any(word.startswith("AUTH ") for word in words):
                route["credentials"] = str(secret)
            routes += [{"match": f"{name}.test", **route}, {"match": f"*.{name}.test", **route}]
        mx = {"name": "mx", "address": f"{HOST}:0", "tls": "starttls"}
        settings = {"listener": [mx], "tls": pair, "route": routes, "relay": RELAYING}
        b = stack.enter_context(Server(place, "b", settings=settings))
        b.local(ALICE)
        here = {"match": "work.test", "next_hop": "maildir"}
        home = {"match": "*", "next_hop": f"smtp://{HOST}:{b.port}", "tls": "verified"}
        listeners = [
            mx,
            {"name": "submission", "address": f"{HOST}:0", "tls": "starttls", "service": "submission"},
            {"name": "local", "address": f"{HOST}:0", "tls": "starttls", "service": "lmtp"},
        ]
        a = stack.enter_context(
            Server(place, "a", settings={"listener": listeners, "tls": pair, "route": [here, home], **of_a})
        )
        a.call("domain_add", domain="work.test")
        a.cli("user", "add", CAROL, "--password-stdin", text=PASSWORD.encode())
        for name in offers:
            a.call("domain_add", domain=f"{name}.test", relay=True)
        yield Chain(a, b, sinks, authority)
