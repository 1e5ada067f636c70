"""Addresses: what is one, its one spelling, and what is wrong with the others."""

from __future__ import annotations

import pytest

from pillarbox.core.address import (
    AddressError,
    AddressLiteral,
    Domain,
    LocalPart,
    Mailbox,
    UnknownLiteral,
    parse_host,
)

# --- local parts (RFC 5321 §4.1.2)


@pytest.mark.parametrize(
    ("source", "text", "printed"),
    [
        ("alice", "alice", "alice"),
        ("Alice", "Alice", "Alice"),  # case is kept: RFC 5321 §2.4
        ("a.b.c", "a.b.c", "a.b.c"),
        ("a+b-c=d", "a+b-c=d", "a+b-c=d"),
        ("!#$%&'*+-/=?^_`{|}~", "!#$%&'*+-/=?^_`{|}~", "!#$%&'*+-/=?^_`{|}~"),
        ("1", "1", "1"),
        ('"alice"', "alice", "alice"),
        ('"a.b"', "a.b", "a.b"),
        (r'"\a\l\i\c\e"', "alice", "alice"),
        ('""', "", '""'),
        ('" "', " ", '" "'),
        ('"a b"', "a b", '"a b"'),
        ('"a@b"', "a@b", '"a@b"'),
        ('".a"', ".a", '".a"'),
        ('"a..b"', "a..b", '"a..b"'),
        (r'"a\"b"', 'a"b', r'"a\"b"'),
        (r'"a\\b"', "a\\b", r'"a\\b"'),
        (r'"a\ b"', "a b", '"a b"'),
        ("x" * 64, "x" * 64, "x" * 64),
    ],
)
def test_local_parts(source: str, text: str, printed: str) -> None:
    local = LocalPart.parse(source)
    assert local.text == text
    assert str(local) == printed
    assert LocalPart.parse(printed) == local


@pytest.mark.parametrize(
    "source",
    ["", ".", ".a", "a.", "a..b", "a b", "a@b", "a,b", "<a>", "(a)", "a\\b", '"', '"a', 'a"', '"a"b', '"a"b"', '"\\"']
    + [
        '"a\x01"',
        '"a\r\nb"',
        '"a\tb"',
        "a\x7f",
        "a\0",
        "a\n",
        "j\u0085n",
        "a\u202eb",
        "ö" * 33,
        "x" * 65,
        '"' + "x" * 63 + '"',
    ],
)
def test_what_is_no_local_part(source: str) -> None:
    with pytest.raises(AddressError):
        LocalPart.parse(source)


# --- domains


@pytest.mark.parametrize(
    ("source", "ascii_", "unicode"),
    [
        ("example.test", "example.test", "example.test"),
        ("EXAMPLE.Test", "example.test", "example.test"),
        ("localhost", "localhost", "localhost"),
        ("a", "a", "a"),
        ("3com.example", "3com.example", "3com.example"),
        ("a--b.example", "a--b.example", "a--b.example"),
        ("bücher.example", "xn--bcher-kva.example", "bücher.example"),
        ("BÜCHER.example", "xn--bcher-kva.example", "bücher.example"),
        ("XN--bcher-KVA.example", "xn--bcher-kva.example", "bücher.example"),
        ("faß.example", "xn--fa-hia.example", "faß.example"),  # IDNA 2008, where that of 2003 had "fass"
        ("例え.テスト", "xn--r8jz45g.xn--zckzah", "例え.テスト"),
        ("x" * 63 + ".example", "x" * 63 + ".example", "x" * 63 + ".example"),
    ],
)
def test_domains(source: str, ascii_: str, unicode: str) -> None:
    domain = Domain.parse(source)
    assert domain.ascii == str(domain) == ascii_
    assert domain.unicode == unicode
    assert Domain.parse(ascii_) == Domain.parse(unicode) == domain


LONGEST = ".".join(["d" * 63] * 3 + ["d" * 63])


def test_the_longest_domain() -> None:
    assert len(LONGEST) == 255
    assert Domain.parse(LONGEST).ascii == LONGEST


@pytest.mark.parametrize(
    "source",
    ["", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a-.b", "a_b.example", "a b", "a@b", "a/b", "[192.0.2.1]", "a:25"]
    + [
        "a\n",
        "a\0",
        "x" * 64,
        LONGEST + "d",
        "ü..example",
        "ü_.example",
        "\u2028.example",
        "ü" * 64,
        "☃\u200d.example",
    ],
)
def test_what_is_no_domain(source: str) -> None:
    with pytest.raises(AddressError):
        Domain.parse(source)


@pytest.mark.parametrize("source", ["xn--a.example", "xn--zzzzzz.example", "xn--.example", "a.xn--\u0661"])
def test_an_a_label_that_means_nothing(source: str) -> None:
    """Either it is refused, or its Unicode form is shown as it stands: never a surprise."""
    try:
        domain = Domain.parse(source)
    except AddressError:
        return
    assert domain.unicode == source


# --- address literals (RFC 5321 §4.1.3)


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("[ipv6:2001:DB8:0:0::1]", "[IPv6:2001:db8::1]"),
        ("[IPv6:::1]", "[IPv6:::1]"),
        ("[IPv6:::ffff:192.0.2.1]", "[IPv6:::ffff:192.0.2.1]"),
    ],
)
def test_address_literals(source: str, printed: str) -> None:
    host = parse_host(source)
    assert isinstance(host, AddressLiteral)
    assert parse_host(str(host)) == host
    assert parse_host(printed) == host


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("[]", AddressError),
        ("[192.0.2]", AddressError),
        ("[192.0.2.256]", AddressError),
        ("[192.0.2.01]", AddressError),
        ("[ 192.0.2.1]", AddressError),
        ("[example.test]", AddressError),
        ("[IPv6:]", AddressError),
        ("[IPv6:192.0.2.1]", AddressError),
        ("[IPv6:1::2::3]", AddressError),
        ("[IPv6:x]", AddressError),
        ("[X400:foo]", UnknownLiteral),
        ("[a-b:c]", UnknownLiteral),
        ("[-:c]", AddressError),
        ("[X400:a b]", AddressError),
        ("[X400:a[b]", AddressError),
        ("[IPv6:fe80::1%eth0]", AddressError),  # RFC 5321 §4.1.3 knows no zone
        ("[IPv6:fe80::1%\r\nX: y]", AddressError),
    ],
)
def test_malformed_literals(source: str, error: type[AddressError]) -> None:
    with pytest.raises(AddressError) as caught:
        parse_host(source)
    assert type(caught.value) is error


def test_hosts() -> None:
    assert parse_host("Example.test") == Domain("example.test")
    with pytest.raises(AddressError):
        parse_host("[192.0.2.1")


# --- mailboxes


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("alice@example.test", "alice@example.test"),
        ("Alice@EXAMPLE.test", "Alice@example.test"),
        ('"alice"@example.test', "alice@example.test"),
        ('"a@b"@example.test', '"a@b"@example.test'),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"),
        ("a@[IPv6:2001:DB8::1]", "a@[IPv6:2001:db8::1]"),
    ],
)
def test_mailboxes(source: str, printed: str) -> None:
    mailbox = Mailbox.parse(source)
    assert str(mailbox) == printed
    assert Mailbox.parse(printed) == mailbox
    assert hash(Mailbox.parse(printed)) == hash(mailbox)


def test_mailboxes_are_equal_by_the_letter() -> None:
    assert Mailbox.parse("Alice@example.test") != Mailbox.parse("alice@example.test")
    assert Mailbox(LocalPart("a b"), Domain("example.test")) == Mailbox.parse('"a b"@example.test')


@pytest.mark.parametrize(
    "source",
    ["", "a", "@", "a@", "@b", "a@b@c", "a@@b", "<a@b>", "a b@c", '"a@b', "a@b ", " a@b", "a@b\n", "a@b\r\nX:"],
)
def test_what_is_no_mailbox(source: str) -> None:
    with pytest.raises(AddressError):
        Mailbox.parse(source)


@pytest.mark.parametrize("source", ["", "a@b..c", "a@[300.0.0.1]", ".@b"])
def test_errors_have_words_fit_for_a_reply(source: str) -> None:
    with pytest.raises(AddressError) as caught:
        Mailbox.parse(source)
    assert str(caught.value).isprintable()
    assert str(caught.value)
