"""The argument of each command: what is understood, and the reply that each fault deserves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pillarbox.core import reply as r
from pillarbox.core.address import Domain, LocalPart, Mailbox
from pillarbox.core.envelope import BodyType, Mode
from pillarbox.core.reply import Reply
from pillarbox.smtp.events import (
    Atrn,
    Authenticate,
    AuthResponse,
    DataCommand,
    Etrn,
    Expand,
    Hello,
    Help,
    MailFrom,
    Noop,
    Quit,
    RcptTo,
    Refused,
    Reset,
    ServerEvent,
    Turn,
    Verify,
)
from pillarbox.smtp.framing import Chunk
from pillarbox.smtp.grammar import MAX_PATH, PARSERS, VERBS, parse_response, print_path
from pillarbox.smtp.states import Verb

HOST = "mx.example.test"
SEVEN, EIGHT = BodyType.SEVEN_BIT, BodyType.EIGHT_BIT_MIME


def box(text: str) -> Mailbox:
    return Mailbox.parse(text)


def parse(verb: Verb, argument: bytes) -> ServerEvent | Chunk:
    return PARSERS[verb](argument, HOST)


# --- HELO and EHLO (RFC 5321 §4.1.1.1)


@pytest.mark.parametrize("verb", [Verb.HELO, Verb.EHLO])
@pytest.mark.parametrize(
    "name",
    [
        "client.example",
        "localhost",
        "a",
        "CLIENT.Example",
        "xn--bcher-kva.example",
        "1.2.3.4",
        "3com.example",
        "a-b.c-d",
        "my_container",  # a kindness: container names hold an underscore
        "_x.y_z",
        "[192.0.2.1]",
        "[IPv6:2001:db8::1]",
        "[ipv6:::1]",
        "[IPv6:::ffff:192.0.2.1]",
        ".".join(["a" * 63] * 3 + ["b" * 61]),
    ],
)
def test_names_that_say_hello(verb: Verb, name: str) -> None:
    assert parse(verb, name.encode()) == Hello(name, verb is Verb.EHLO)
    assert parse(verb, f" {name} ".encode()) == Hello(name, verb is Verb.EHLO)


@pytest.mark.parametrize("verb", [Verb.HELO, Verb.EHLO])
@pytest.mark.parametrize(
    ("name", "reply"),
    [
        (b"", r.HELO_SYNTAX),
        (b"  ", r.HELO_SYNTAX),
        (b"two names", r.HELO_SYNTAX),
        (b".a", r.HELO_SYNTAX),
        (b"a..b", r.HELO_SYNTAX),
        (b"-a", r.HELO_SYNTAX),
        (b"a-", r.HELO_SYNTAX),
        (b"a@b", r.HELO_SYNTAX),
        (b"<a>", r.HELO_SYNTAX),
        (b"a,b", r.HELO_SYNTAX),
        (b"(x)", r.HELO_SYNTAX),
        (b"b\xc3\xbccher.example", r.HELO_SYNTAX),
        (b"\xff", r.HELO_SYNTAX),
        (b"a\x1bb", r.HELO_SYNTAX),
        (b"x" * 256, r.HELO_SYNTAX),
        (b"[999.1.1.1]", r.HELO_SYNTAX),
        (b"[192.0.2]", r.HELO_SYNTAX),
        (b"[192.0.2.01]", r.HELO_SYNTAX),
        (b"[192.0.2.1", r.HELO_SYNTAX),
        (b"[]", r.HELO_SYNTAX),
        (b"[2001:db8::1]", r.HELO_LITERAL),  # by its form a literal of the type "2001"
        (b"[::1]", r.HELO_SYNTAX),
        (b"[IPv6:192.0.2.1]", r.HELO_SYNTAX),
        (b"[IPv6:]", r.HELO_SYNTAX),
        (b"[IPv6:1::2::3]", r.HELO_SYNTAX),
        (b"[IPv6:fe80::1%eth0]", r.HELO_SYNTAX),  # RFC 5321 §4.1.3 knows no zone
        (b"[IPv6:fe80::1%\x1b (x) by]", r.HELO_SYNTAX),
        (b"[X400:foo]", r.HELO_LITERAL),
        (b"[x-1:a!b]", r.HELO_LITERAL),
        (b"[X400:]", r.HELO_SYNTAX),
        (b"[X400:a b]", r.HELO_SYNTAX),
        (b"a-.b", r.HELO_SYNTAX),  # illegal labels: RFC 5321 §4.1.2 sub-domain, RFC 1035 §2.3.4
        (b"a.-b", r.HELO_SYNTAX),
        (b"x" * 64 + b".example", r.HELO_SYNTAX),
    ],
)
def test_names_that_do_not(verb: Verb, name: bytes, reply: Reply) -> None:
    assert parse(verb, name) == Refused(verb, reply)


# --- MAIL (RFC 5321 §4.1.1.2)


@pytest.mark.parametrize(
    ("argument", "event"),
    [
        ("FROM:<>", MailFrom(None, 0, SEVEN)),
        ("FROM:<a@b.test>", MailFrom(box("a@b.test"), 0, SEVEN)),
        ("from:<a@B.TEST>", MailFrom(box("a@b.test"), 0, SEVEN)),
        ("FROM:<a@b.test> ", MailFrom(box("a@b.test"), 0, SEVEN)),
        ("FROM:<a.b-c+d=e/f@b.test>", MailFrom(box("a.b-c+d=e/f@b.test"), 0, SEVEN)),
        ("FROM:<!#$%&'*+-/=?^_`{|}~@b.test>", MailFrom(box("!#$%&'*+-/=?^_`{|}~@b.test"), 0, SEVEN)),
        ('FROM:<"a b"@b.test>', MailFrom(Mailbox(LocalPart("a b"), Domain("b.test")), 0, SEVEN)),
        ('FROM:<"a@<>b"@b.test>', MailFrom(Mailbox(LocalPart("a@<>b"), Domain("b.test")), 0, SEVEN)),
        (
            r'FROM:<"a\"\\b"@b.test>',
            MailFrom(Mailbox(LocalPart(r"a\"\b".replace(r"\"", '"')), Domain("b.test")), 0, SEVEN),
        ),
        ('FROM:<"plain"@b.test>', MailFrom(box("plain@b.test"), 0, SEVEN)),
        ("FROM:<a@[192.0.2.1]>", MailFrom(box("a@[192.0.2.1]"), 0, SEVEN)),
        ("FROM:<a@[IPv6:2001:db8::1]>", MailFrom(box("a@[IPv6:2001:db8::1]"), 0, SEVEN)),
        # source routes must be taken and are ignored: RFC 5321 §4.1.1.3, appendix F.2
        ("FROM:<@x.test:a@b.test>", MailFrom(box("a@b.test"), 0, SEVEN)),
        ("FROM:<@x.test,@y.test:a@b.test>", MailFrom(box("a@b.test"), 0, SEVEN)),
        # kindnesses
        ("FROM: <a@b.test>", MailFrom(box("a@b.test"), 0, SEVEN)),
        ("FROM:\t <>", MailFrom(None, 0, SEVEN)),
        # parameters
        ("FROM:<> SIZE=0", MailFrom(None, 0, SEVEN)),
        ("FROM:<> SIZE=12345", MailFrom(None, 12345, SEVEN)),
        ("FROM:<> size=99999999999999999999", MailFrom(None, 99999999999999999999, SEVEN)),
        ("FROM:<> BODY=7BIT", MailFrom(None, 0, SEVEN)),
        ("FROM:<> BODY=8BITMIME", MailFrom(None, 0, EIGHT)),
        ("FROM:<> body=8bitmime  Size=7", MailFrom(None, 7, EIGHT)),
        ("FROM: <a@b.test>  BODY=8BITMIME SIZE=1 ", MailFrom(box("a@b.test"), 1, EIGHT)),
        # RFC 4954 §5: who the message is said to be from is taken from anyone and believed from nobody
        ("FROM:<a@b.test> AUTH=<>", MailFrom(box("a@b.test"), 0, SEVEN)),
        ("FROM:<a@b.test> AUTH=e+3Dmc2@example.com SIZE=3", MailFrom(box("a@b.test"), 3, SEVEN)),
    ],
)
def test_mail(argument: str, event: MailFrom) -> None:
    assert parse(Verb.MAIL, argument.encode()) == event
    for verb, mode in TO_TERMINALS.items():
        assert parse(verb, argument.encode()) == replace(event, mode=mode)


TO_TERMINALS = {Verb.SEND: Mode.SEND, Verb.SOML: Mode.SOML, Verb.SAML: Mode.SAML}  # RFC 821 §4.1.1
LONG_LOCAL = "l" * 64
LONGEST_PATH = f"{LONG_LOCAL}@{'.'.join(['d' * 62] * 3)}"  # 253 with its brackets


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (b"", r.SENDER_SYNTAX),
        (b"x", r.SENDER_SYNTAX),
        (b"FROM", r.SENDER_SYNTAX),
        (b"FROM:", r.SENDER_SYNTAX),
        (b"FROM:a@b.test", r.SENDER_SYNTAX),
        (b"FROM <a@b.test>", r.SENDER_SYNTAX),
        (b"FROM :<a@b.test>", r.SENDER_SYNTAX),
        (b" FROM:<a@b.test>", r.SENDER_SYNTAX),
        (b"TO:<a@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<a@b.test", r.SENDER_SYNTAX),
        (b"FROM:a@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<<a@b.test>>", r.SENDER_SYNTAX),
        (b"FROM:<a@b.test>>", r.SENDER_SYNTAX),
        (b"FROM:<a@b.test>SIZE=1", r.SENDER_SYNTAX),
        (b"FROM:<a@b.test>,<c@d.test>", r.SENDER_SYNTAX),
        (b"FROM:<a>", r.SENDER_INCOMPLETE),
        (b"FROM:<a@>", r.SENDER_SYNTAX),
        (b"FROM:<@b.test>", r.SENDER_SYNTAX),
        (b"FROM:< >", r.SENDER_SYNTAX),
        (b"FROM:<a b@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<a@b@c.test>", r.SENDER_SYNTAX),
        (b"FROM:<.a@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<a.@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<a..b@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<a@b..test>", r.SENDER_SYNTAX),
        (b"FROM:<a@-b.test>", r.SENDER_SYNTAX),
        (b"FROM:<a@b_c.test>", r.SENDER_SYNTAX),
        (b"FROM:<a@b.test.>", r.SENDER_SYNTAX),
        (b'FROM:<"a@b.test>', r.SENDER_SYNTAX),
        (b'FROM:<"a"b@b.test>', r.SENDER_SYNTAX),
        (b'FROM:<"a\x01"@b.test>', r.SENDER_SYNTAX),
        (b"FROM:<a\x7f@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<a@[300.0.0.1]>", r.SENDER_SYNTAX),
        (b"FROM:<a@[X400:foo]>", r.SENDER_SYNTAX),
        (b"FROM:<a@[IPv6:fe80::1%\x1b]>", r.SENDER_SYNTAX),  # RFC 5321 §4.1.3 knows no zone
        (b"FROM:<" + b"l" * 65 + b"@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<a@" + b"d" * 64 + b".test>", r.SENDER_SYNTAX),
        (b"FROM:<" + LONGEST_PATH.encode() + b"ddd.d>", r.SENDER_SYNTAX),
        (b"FROM:<@x.test>", r.SENDER_SYNTAX),
        (b"FROM:<@x.test:>", r.SENDER_SYNTAX),  # a source route to nowhere is not the null path
        (b"FROM:<@:a@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<@x.test,y.test:a@b.test>", r.SENDER_SYNTAX),
        # 8-bit: UTF-8 is an address of SMTPUTF8 (RFC 6531 §3.5), anything else is no address
        ("FROM:<jürgen@b.test>".encode(), r.NON_ASCII_PATH),
        ("FROM:<a@bücher.test>".encode(), r.NON_ASCII_PATH),
        ('FROM:<"jürgen x"@b.test> SIZE=1'.encode(), r.NON_ASCII_PATH),
        (b"FROM:<j\xfcrgen@b.test>", r.SENDER_SYNTAX),
        (b"FROM:<\xff>", r.SENDER_SYNTAX),
        # parameters
        (b"FROM:<> SIZE", r.BAD_PARAMETER),
        (b"FROM:<> SIZE=", r.BAD_PARAMETER),
        (b"FROM:<> SIZE=abc", r.BAD_PARAMETER),
        (b"FROM:<> SIZE=-1", r.BAD_PARAMETER),
        (b"FROM:<> SIZE=1.5", r.BAD_PARAMETER),
        (b"FROM:<> SIZE=" + b"1" * 21, r.BAD_PARAMETER),
        (b"FROM:<> SIZE=1 SIZE=1", r.BAD_PARAMETER),
        (b"FROM:<> size=1 SIZE=2", r.BAD_PARAMETER),
        (b"FROM:<> BODY", r.BAD_PARAMETER),
        (b"FROM:<> BODY=X", r.BAD_PARAMETER),
        (b"FROM:<> BODY=BINARY", r.BAD_PARAMETER),
        (b"FROM:<> =1", r.BAD_PARAMETER),
        (b"FROM:<> -X=1", r.BAD_PARAMETER),
        (b"FROM:<> A=B=C", r.BAD_PARAMETER),
        (b"FROM:<> SIZE=1,BODY=7BIT", r.BAD_PARAMETER),
        (b"FROM:<> X=\xc3\xbc", r.UNKNOWN_PARAMETER),
        (b"FROM:<> FOO=1", r.UNKNOWN_PARAMETER),
        (b"FROM:<> FOO", r.UNKNOWN_PARAMETER),
        (b"FROM:<> SIZE=1 RET=HEADERS", r.BAD_PARAMETER),
        (b"FROM:<> SMTPUTF9", r.UNKNOWN_PARAMETER),
        (b"FROM:<> AUTH", r.BAD_PARAMETER),
        (b"FROM:<> AUTH=", r.BAD_PARAMETER),
        (b"FROM:<> AUTH=a+3", r.BAD_PARAMETER),  # RFC 3461 §4: no xtext
        (b"FROM:<> AUTH=a+3d", r.BAD_PARAMETER),
        (b"FROM:<> AUTH=a AUTH=b", r.BAD_PARAMETER),
    ],
)
def test_mail_refused(argument: bytes, reply: Reply) -> None:
    for verb in (Verb.MAIL, *TO_TERMINALS):
        assert parse(verb, argument) == Refused(verb, reply)


def test_the_longest_path() -> None:
    domain = ".".join(["d" * 63] * 2 + ["d" * 61])
    path = f"{LONG_LOCAL}@{domain}"
    assert len(path) + 2 == MAX_PATH
    assert parse(Verb.MAIL, f"FROM:<{path}>".encode()) == MailFrom(box(path), 0, SEVEN)
    assert parse(Verb.MAIL, f"FROM:<{path}d>".encode()) == Refused(Verb.MAIL, r.SENDER_SYNTAX)
    assert parse(Verb.RCPT, f"TO:<{path}d>".encode()) == Refused(Verb.RCPT, r.RECIPIENT_SYNTAX)


# --- RCPT (RFC 5321 §4.1.1.3)


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        ("TO:<a@b.test>", "a@b.test"),
        ("to:<A@b.test>", "A@b.test"),
        ("TO: <a@b.test> ", "a@b.test"),
        ("TO:<@x.test,@y.test:a@b.test>", "a@b.test"),
        ('TO:<"a b"@b.test>', '"a b"@b.test'),
        ("TO:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        # RFC 5321 §4.1.1.3: the postmaster needs no domain
        ("TO:<Postmaster>", "postmaster@mx.example.test"),
        ("TO:<postmaster>", "postmaster@mx.example.test"),
        ("TO:<POSTMASTER>", "postmaster@mx.example.test"),
        ("TO:<Postmaster@b.test>", "Postmaster@b.test"),
    ],
)
def test_rcpt(argument: str, address: str) -> None:
    assert parse(Verb.RCPT, argument.encode()) == RcptTo(box(address))


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (b"", r.RECIPIENT_SYNTAX),
        (b"TO:", r.RECIPIENT_SYNTAX),
        (b"TO:<>", r.RECIPIENT_SYNTAX),
        (b"TO:a@b.test", r.RECIPIENT_SYNTAX),
        (b"FROM:<a@b.test>", r.RECIPIENT_SYNTAX),
        (b"TO:<a>", r.RECIPIENT_INCOMPLETE),
        (b"TO:<postmaster@>", r.RECIPIENT_SYNTAX),
        (b"TO:<a@b.test", r.RECIPIENT_SYNTAX),
        (b"TO:<a@b.test><c@d.test>", r.RECIPIENT_SYNTAX),
        (b"TO:<a@b.test> <c@d.test>", r.BAD_PARAMETER),
        (b"TO:<@x.test>", r.RECIPIENT_SYNTAX),
        (b"TO:<@x.test:>", r.RECIPIENT_SYNTAX),
        (b"TO:<" + b"l" * 65 + b"@b.test>", r.RECIPIENT_SYNTAX),
        (b"TO:<a@[999.0.0.1]>", r.RECIPIENT_SYNTAX),
        (b"TO:<j\xfcrgen@b.test>", r.RECIPIENT_SYNTAX),
        (b"TO:<a@b.test> FOO=1", r.UNKNOWN_PARAMETER),
        (b"TO:<a@b.test> SIZE=1", r.UNKNOWN_PARAMETER),
        (b"TO:<a@b.test> =", r.BAD_PARAMETER),
    ],
)
def test_rcpt_refused(argument: bytes, reply: Reply) -> None:
    assert parse(Verb.RCPT, argument) == Refused(Verb.RCPT, reply)


# --- the others


@pytest.mark.parametrize(
    ("verb", "event"),
    [(Verb.DATA, DataCommand()), (Verb.RSET, Reset()), (Verb.QUIT, Quit()), (Verb.TURN, Turn())],
    ids=str,
)
def test_commands_without_argument(verb: Verb, event: ServerEvent) -> None:
    assert parse(verb, b"") == event
    assert parse(verb, b"  ") == event
    assert parse(verb, b"x") == Refused(verb, r.NO_ARGUMENT_ALLOWED)
    assert parse(verb, b"\xff") == Refused(verb, r.NO_ARGUMENT_ALLOWED)


@pytest.mark.parametrize(
    ("argument", "classic"),
    [
        (b"x", False),
        (b"KEY=VALUE", True),
        (b" a-1=<b> ", True),
        (b"KEY=", False),
        (b"=VALUE", False),
        (b"A=B C=D", False),
        (b"A=B=C", False),
        (b"A=\xff", False),
    ],
)
def test_the_odd_pair_of_rset(argument: bytes, classic: bool) -> None:
    """504 is for what looks like a parameter, and only where somebody asks for the odd pairs."""
    event = parse(Verb.RSET, argument)
    assert isinstance(event, Refused)
    assert event.reply == r.NO_ARGUMENT_ALLOWED
    assert event.classic == (r.UNKNOWN_PARAMETER_OF_COMMAND if classic else None)


@pytest.mark.parametrize(
    ("verb", "argument", "event"),
    [
        (Verb.NOOP, b"", Noop()),
        (Verb.NOOP, b"anything <at> all \xff", Noop()),  # RFC 5321 §4.1.1.9
        (Verb.VRFY, b"alice", Verify("alice")),
        (Verb.VRFY, b" Alice Liddell ", Verify("Alice Liddell")),
        (Verb.VRFY, b"<alice@example.test>", Verify("<alice@example.test>")),
        (Verb.VRFY, b"", Refused(Verb.VRFY, r.ARGUMENT_NEEDED)),
        (Verb.VRFY, b"  ", Refused(Verb.VRFY, r.ARGUMENT_NEEDED)),
        (Verb.VRFY, b"j\xfcrgen", Refused(Verb.VRFY, r.BAD_ARGUMENT)),
        (Verb.HELP, b"", Help("")),
        (Verb.HELP, b" MAIL ", Help("MAIL")),
        (Verb.HELP, b"\xff", Refused(Verb.HELP, r.BAD_ARGUMENT)),
        (Verb.EXPN, b" staff ", Expand("staff")),
        (Verb.EXPN, b"", Refused(Verb.EXPN, r.ARGUMENT_NEEDED)),
        (Verb.EXPN, b"st\xe4ff", Refused(Verb.EXPN, r.BAD_ARGUMENT)),
        # RFC 4954 §4
        (Verb.AUTH, b"plain", Authenticate("PLAIN", None)),
        (Verb.AUTH, b" X-1_y ", Authenticate("X-1_Y", None)),
        (Verb.AUTH, b"PLAIN =", Authenticate("PLAIN", b"")),
        (Verb.AUTH, b"PLAIN AGEAYg==", Authenticate("PLAIN", b"\0a\0b")),
        (Verb.AUTH, b"PLAIN " + b"QUJD" * 3000, Authenticate("PLAIN", b"ABC" * 3000)),
        (Verb.AUTH, b"", Refused(Verb.AUTH, r.ARGUMENT_NEEDED)),
        (Verb.AUTH, b"  ", Refused(Verb.AUTH, r.ARGUMENT_NEEDED)),
        (Verb.AUTH, b"PL\xc4IN", Refused(Verb.AUTH, r.BAD_ARGUMENT)),
        (Verb.AUTH, b"P=", Refused(Verb.AUTH, r.BAD_ARGUMENT)),
        (Verb.AUTH, b"M" * 21, Refused(Verb.AUTH, r.BAD_ARGUMENT)),  # RFC 4422 §3.1
        *(
            (Verb.AUTH, b"PLAIN " + text, Refused(Verb.AUTH, r.AUTH_BASE64))
            for text in (
                b"AGEAYg",
                b"AGEAYg=",
                b"AGEAYg===",
                b"AGE AYg==",
                b"AGEAYg== x",
                b"==",
                b"\xff",
                b"*",
                b"A-_A",
            )
        ),
        # RFC 2645 §5.2
        (Verb.ATRN, b"", Atrn(())),
        (Verb.ATRN, b"a.test", Atrn((Domain("a.test"),))),
        (Verb.ATRN, b" A.test,b.test , a.TEST", Atrn((Domain("a.test"), Domain("b.test")))),
        *(
            (Verb.ATRN, text, Refused(Verb.ATRN, r.BAD_ARGUMENT))
            for text in (b",", b"a.test,", b"a.test b.test", b"a..test", b"@a.test", b"b\xc3\xbccher.test", b"\xff")
        ),
        # RFC 1985 §5.2, §5.3
        (Verb.ETRN, b"a.test", Etrn(Domain("a.test"), below=False)),
        (Verb.ETRN, b"@A.test ", Etrn(Domain("a.test"), below=True)),
        (Verb.ETRN, b"#queue", Etrn(None, below=False)),
        (Verb.ETRN, b"", Refused(Verb.ETRN, r.ARGUMENT_NEEDED)),
        *(
            (Verb.ETRN, text, Refused(Verb.ETRN, r.BAD_ARGUMENT))
            for text in (b"#", b"@", b"a.test,b.test", b"@@a.test", b"<a.test>", b"a@b.test", b"\xff")
        ),
    ],
)
def test_other_commands(verb: Verb, argument: bytes, event: ServerEvent) -> None:
    assert parse(verb, argument) == event


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"AGEAYg==", AuthResponse(b"\0a\0b")),
        (b"", AuthResponse(b"")),
        (b"*", AuthResponse(None)),
        (b"=", Refused(Verb.AUTH, r.AUTH_BASE64)),
        (b"**", Refused(Verb.AUTH, r.AUTH_BASE64)),
        (b" AGEAYg==", Refused(Verb.AUTH, r.AUTH_BASE64)),
        (b"\xff", Refused(Verb.AUTH, r.AUTH_BASE64)),
    ],
)
def test_responses(line: bytes, event: ServerEvent) -> None:
    assert parse_response(line) == event


def test_what_counts_as_a_verb() -> None:
    assert VERBS[b"MAIL"] is Verb.MAIL
    assert not {b".", b"CONNECT", b"UNKNOWN", b"unknown"} & set(VERBS)
    assert all(name == name.upper() for name in VERBS)
    assert set(PARSERS) == set(VERBS.values())


@pytest.mark.parametrize(
    ("mailbox", "path"),
    [
        (None, b"<>"),
        (box("A@b.test"), b"<A@b.test>"),
        (box('"a b"@b.test'), b'<"a b"@b.test>'),
        (box("a@[IPv6:2001:DB8::1]"), b"<a@[IPv6:2001:db8::1]>"),
        (box("a@bücher.test"), b"<a@xn--bcher-kva.test>"),
    ],
)
def test_printed_paths(mailbox: Mailbox | None, path: bytes) -> None:
    assert print_path(mailbox) == path
    assert parse(Verb.MAIL, b"FROM:" + path) == MailFrom(mailbox, 0, SEVEN)
