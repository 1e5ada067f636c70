"""Messages converted for a next hop that can't take them: by the rules of MIME, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from textwrap import dedent

import pytest

from pillarbox.core.mime import Converter, Plan, Survey, Target, Unconvertible
from pillarbox.core.mime_fields import Edit, read_section, rewrite
from pillarbox.core.mime_walk import MAX_DEPTH, MAX_HEADER, MAX_LINE, MAX_PARTS

SEVEN, EIGHT = Target.SEVEN_BIT, Target.EIGHT_BIT


def lines(text: str) -> bytes:
    """Each line with a CRLF; of a text that is indented the first and the last line are none."""
    if text.startswith("\n    "):
        text = dedent(text).strip("\n")
    return "".join(line + "\r\n" for line in text.split("\n")).encode()


def plan_of(octets: bytes, target: Target, size: int = 1 << 20) -> Plan:
    survey = Survey(target)
    for start in range(0, len(octets), size):
        survey.feed(octets[start : start + size])
    return survey.finish()


def converted(octets: bytes, target: Target = SEVEN, size: int = 1 << 20) -> bytes:
    plan = plan_of(octets, target, size)
    converter = Converter(plan)
    out = b"".join(converter.feed(octets[start : start + size]) for start in range(0, len(octets), size))
    out += converter.finish()
    assert len(out) == plan.size
    assert plan.converts == (out != octets)
    return out


def everywhere(octets: bytes, target: Target = SEVEN) -> bytes:
    """Converted whole, and the same when it is cut into pieces of any size."""
    whole = converted(octets, target)
    for size in (1, 2, 3, 5, 7, 64):
        assert converted(octets, target, size) == whole
    return whole


def leaves(message: Message) -> Iterator[bytes]:
    for part in message.walk():
        if not part.is_multipart():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            yield payload


def refused(octets: bytes, target: Target = SEVEN) -> str:
    reasons = set()
    for size in (1 << 20, 1, 7):
        with pytest.raises(Unconvertible) as caught:
            plan_of(octets, target, size)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    return reasons.pop()


# --- what comes out

TEXT = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"

CONVERTED: dict[str, tuple[Target, bytes, bytes]] = {
    "text": (
        SEVEN,
        lines(TEXT + "Content-Transfer-Encoding: 8bit\nSubject: x\n\nGrüße"),
        lines(TEXT + "Content-Transfer-Encoding: quoted-printable\nSubject: x\n\nGr=C3=BC=C3=9Fe"),
    ),
    "a field is added where there was none": (
        SEVEN,
        lines(TEXT + "Subject: x\n\nGrüße"),
        lines(TEXT + "Subject: x\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe"),
    ),
    "a folded field with a comment is replaced whole": (
        SEVEN,
        TEXT.replace("\n", "\r\n").encode() + b"content-transfer-encoding :\r\n\t(yes) 8BIT\r\nX: y\r\n\r\n\xe4\r\n",
        lines(TEXT + "Content-Transfer-Encoding: quoted-printable\nX: y\n\n=E4"),
    ),
    "text that would be mostly =XX": (
        SEVEN,
        lines(TEXT + "\nこんにちは"),
        lines(TEXT + "Content-Transfer-Encoding: base64\n\n44GT44KT44Gr44Gh44GvDQo=").removesuffix(b"\r\n"),
    ),
    "no MIME at all": (
        SEVEN,
        lines("Subject: x\n\nGrüße"),
        lines(
            "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n"
            "Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe"
        ),
    ),
    "no MIME-Version": (
        SEVEN,
        lines("Content-Type: text/html\n\nGrüße"),
        lines(
            "Content-Type: text/html\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe"
        ),
    ),
    "no header section": (
        SEVEN,
        lines("\nGrüße"),
        lines(
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n"
            "Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe"
        ),
    ),
    "a type that can't be read is text": (
        SEVEN,
        lines("MIME-Version: 1.0\nContent-Type: text\n\nGrüße"),
        lines("MIME-Version: 1.0\nContent-Type: text\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe"),
    ),
    "binary": (
        EIGHT,
        b"MIME-Version: 1.0\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n\x89PNG\r\n\x1a\n\0",
        b"MIME-Version: 1.0\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgoA",
    ),
    "text with a bare LF": (
        EIGHT,
        b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\na\nb\r\n",
        b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nYQpiDQo=",
    ),
    "a bare LF and no MIME: ASCII is what is assumed anyway": (
        SEVEN,
        b"Subject: x\r\n\r\na\nb\r\n",
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nYQpiDQo=",
    ),
    "message/global may be encoded": (
        SEVEN,
        lines("MIME-Version: 1.0\nContent-Type: message/global\nContent-Transfer-Encoding: 8bit\n\nSubject: ü\n\n"),
        lines(
            "MIME-Version: 1.0\nContent-Type: message/global\n"
            "Content-Transfer-Encoding: base64\n\nU3ViamVjdDogw7wNCg0KDQo="
        ).removesuffix(b"\r\n"),
    ),
    "only the part that needs it, and what is around it": (
        SEVEN,
        lines("""
            MIME-Version: 1.0
            Content-Type: multipart/mixed; boundary=b
            Content-Transfer-Encoding: 8bit

            preamble
            --b
            Content-Type: text/plain
            Content-Transfer-Encoding: 8bit

            ASCII all the same
            --b
            Content-Type: text/plain; charset=utf-8
            Content-Transfer-Encoding: 8bit

            ü

            --b--
            epilogue
        """),
        lines("""
            MIME-Version: 1.0
            Content-Type: multipart/mixed; boundary=b
            Content-Transfer-Encoding: 7bit

            preamble
            --b
            Content-Type: text/plain
            Content-Transfer-Encoding: 8bit

            ASCII all the same
            --b
            Content-Type: text/plain; charset=utf-8
            Content-Transfer-Encoding: quoted-printable

            =C3=BC

            --b--
            epilogue
        """),
    ),
    "binary in a message in a digest; 8-bit stays": (
        EIGHT,
        lines("""
            Content-Type: multipart/digest; boundary="a b"
            Content-Transfer-Encoding: binary

            --a b
            Content-Transfer-Encoding: binary

            Subject: inside
            Content-Type: application/x-y

            ü\0
            --a b

            Subject: another

            ü
            --a b--
        """),
        lines("""
            Content-Type: multipart/digest; boundary="a b"
            Content-Transfer-Encoding: 8bit
            MIME-Version: 1.0

            --a b
            Content-Transfer-Encoding: 8bit

            Subject: inside
            Content-Type: application/x-y
            MIME-Version: 1.0
            Content-Transfer-Encoding: base64

            w7wA
            --a b

            Subject: another

            ü
            --a b--
        """),
    ),
    "a multipart becomes one of MIME": (
        SEVEN,
        lines("Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nü\n--b--"),
        lines(
            "Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n--b\nContent-Type: text/plain\n"
            "Content-Transfer-Encoding: quoted-printable\n\n=C3=BC\n--b--"
        ),
    ),
    "what stands around the parts becomes question marks": (
        SEVEN,
        lines("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\nfür\n--b\n\nx\n--b--\nü\nx"),
        lines("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\nf??r\n--b\n\nx\n--b--\n??\nx"),
    ),
    "a bare LF before what looks like a delimiter": (
        EIGHT,
        b"MIME-Version: 1.0\r\nContent-Type: multipart/x; boundary=b\r\n\r\n\n--b\r\n\r\r\n--b--\r\n\r\n\n--b\r",
        b"MIME-Version: 1.0\r\nContent-Type: multipart/x; boundary=b\r\n\r\n?--b\r\n?\r\n--b--\r\n\r\n?--b?",
    ),
}


@pytest.mark.parametrize(("target", "octets", "expected"), CONVERTED.values(), ids=CONVERTED.keys())
def test_converts(target: Target, octets: bytes, expected: bytes) -> None:
    assert everywhere(octets, target) == expected


UNTOUCHED: dict[str, tuple[Target, bytes]] = {
    "nothing": (SEVEN, b""),
    "one CR": (SEVEN, b"Subject: x\r\n"),
    "ASCII": (SEVEN, lines("Subject: x\n\nx")),
    "without an end": (SEVEN, b"Subject: x\r\n\r\nx"),
    "a line of 2000": (SEVEN, b"\r\n" + b"x" * 2000 + b"\r\n"),
    "8-bit for a hop that takes it": (EIGHT, lines("Subject: ü\n\nü")),
    "a label that says too much": (SEVEN, lines("Content-Transfer-Encoding: binary\n\nx")),
    "signed 8-bit for a hop that takes it": (
        EIGHT,
        lines(
            "Content-Type: multipart/signed; boundary=b\n\n--b\nContent-Transfer-Encoding: 8bit\n\nü\n--b\n\nx\n--b--"
        ),
    ),
    "no structure at all": (SEVEN, lines("Content-Type: multipart/mixed\n\n--\n--x\n")),
    "nested without end": (
        SEVEN,
        b"".join(b"Content-Type: multipart/x; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(2 * MAX_DEPTH)),
    ),
    "an endless header section": (SEVEN, b"X: y\r\n" * (MAX_HEADER // 3)),
}


@pytest.mark.parametrize(("target", "octets"), UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_leaves_as_it_is(target: Target, octets: bytes) -> None:
    for size in (1 << 20, 1000, 7):
        assert converted(octets, target, size) == octets


# --- what can't be converted


def nested(depth: int) -> bytes:
    opened = (b"Content-Type: multipart/x; boundary=%d.\r\n\r\n--%d.\r\n" % (n, n) for n in range(depth))
    return b"".join(opened) + b"\r\n\xfc\r\n"


MULTIPART = "Content-Type: multipart/mixed; boundary=b\n"

REFUSED: dict[str, tuple[Target, bytes, str]] = {
    "header section": (SEVEN, lines("Subject: ü\n\nx"), "SMTPUTF8"),
    "of a part": (SEVEN, lines(MULTIPART + "\n--b\nX: ü\n\nx\n--b--"), "SMTPUTF8"),
    "of a part without a body": (SEVEN, lines(MULTIPART + "\n--b\nX: ü\n--b--"), "SMTPUTF8"),
    "of a message inside": (SEVEN, lines("Content-Type: message/rfc822\n\nSubject: ü\n\nx"), "SMTPUTF8"),
    "that never ends": (SEVEN, "Subject: ü".encode(), "SMTPUTF8"),
    "bare LF in a header section": (EIGHT, b"Subject: x\ny\r\n\r\nx", "bare LF"),
    "all lines end with LF": (EIGHT, b"Subject: x\n\nx\n", "bare LF"),
    "no boundary": (SEVEN, lines("Content-Type: multipart/mixed\n\nü"), "no usable boundary"),
    "empty boundary": (SEVEN, lines('Content-Type: multipart/mixed; boundary=""\n\nü'), "no usable boundary"),
    "two boundaries": (SEVEN, lines(MULTIPART.strip() + "; boundary=c\n\nü"), "no usable boundary"),
    "encoded multipart": (SEVEN, lines(MULTIPART + "Content-Transfer-Encoding: base64\n\nü"), "encoding base64"),
    "encoded message": (
        SEVEN,
        lines("Content-Type: message/rfc822\nContent-Transfer-Encoding: quoted-printable\n\nü"),
        "encoding quoted-printable",
    ),
    "encoded already": (SEVEN, lines("Content-Transfer-Encoding: quoted-printable\n\nü"), "encoding quoted-printable"),
    "encoded in an unknown way": (SEVEN, lines("Content-Transfer-Encoding: x-uue\n\nü"), "encoding x-uue"),
    "encoded in two ways": (SEVEN, lines("Content-Transfer-Encoding: 8bit 7bit\n\nü"), "encoding 8bit 7bit"),
    "two types": (SEVEN, lines("Content-Type: text/plain\nContent-Type: text/html\n\nü"), "stands twice"),
    "two types of a multipart": (SEVEN, lines(MULTIPART * 2 + "\n--b\n\nü\n--b--"), "stands twice"),
    "no field": (SEVEN, lines("Subject: x\nhello\nContent-Type: text/plain\n\nü"), "no field"),
    "message/partial": (SEVEN, lines("Content-Type: message/partial; id=x\n\nü"), "type message/partial"),
    "message/delivery-status": (SEVEN, lines("Content-Type: message/delivery-status\n\nü"), "delivery-status"),
    "signed": (
        SEVEN,
        lines("Content-Type: multipart/signed; boundary=b\n\n--b\nContent-Type: text/plain\n\nü\n--b\n\nx\n--b--"),
        "multipart/signed",
    ),
    "deep inside what is signed": (
        SEVEN,
        lines(
            "Content-Type: multipart/signed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\n"
            "Content-Type: multipart/mixed; boundary=c\n\n--c\n\nü\n--c--\n--b\n\nx\n--b--"
        ),
        "multipart/signed",
    ),
    "before what is signed": (
        SEVEN,
        lines("Content-Type: multipart/signed; boundary=b\n\nü\n--b\n\nx\n--b\n\nx\n--b--"),
        "multipart/signed",
    ),
    "the boundary of another": (
        SEVEN,
        lines(MULTIPART + "\n--b\n" + MULTIPART + "\nü\n--b\n\nx\n--b--"),
        "of one around it",
    ),
    "the end of another": (
        SEVEN,
        lines(MULTIPART + '\n--b\nContent-Type: multipart/mixed; boundary="b--"\n\nü\n--b--\n'),
        "of one around it",
    ),
    "too deep": (SEVEN, nested(MAX_DEPTH + 1), "deep"),
    "a header section too large": (SEVEN, lines(MULTIPART + "\n--b") + b"X: y\r\n" * 50_000 + b"\xfc", "octets"),
    "too many parts": (SEVEN, lines(MULTIPART + "\n") + b"--b\r\n" * (MAX_PARTS + 1) + b"\r\n\xfc", "parts"),
}


@pytest.mark.parametrize(("target", "octets", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(target: Target, octets: bytes, reason: str) -> None:
    assert reason.lower() in refused(octets, target).lower()


@pytest.mark.parametrize("depth", [1, MAX_DEPTH])
def test_goes_as_deep_as_it_says(depth: int) -> None:
    assert everywhere(nested(depth)).endswith(b"=FC\r\n")


# --- delimiters

DELIMITERS: list[tuple[bytes, list[bytes]]] = [
    (b"--b\r\n\r\n\xe41\r\n--b\r\n\r\n\xe42\r\n--b--\r\n", [b"\xe41", b"\xe42"]),
    (b"--b\r\n\r\n\xe41\r\n\r\n--b \t\r\n\r\n\xe42\r\n--b-- \r\n\xe4", [b"\xe41\r\n", b"\xe42"]),
    (b"--b\r\n\r\n\xe41\r\n--b", [b"\xe41", b""]),
    (b"--b\r\n\r\n\xe41\r\n--b--", [b"\xe41"]),
    (b"--b\r\n\r\n\xe41\r\nx", [b"\xe41\r\nx"]),
    (b"--b\r\n\r\n\xe41", [b"\xe41"]),
    (b"--b\r\n\r\n" + b"\xe4" * 30 + b"\r\n--b--", [b"\xe4" * 30]),
    (b"--b\r\n\r\n" + b"\xe4" * 30 + b"\r\n--b", [b"\xe4" * 30, b""]),
    (b"--b\r\n\r\n--b\r\n\r\n\xe42\r\n--b--", [b"", b"\xe42"]),
    (b"--b\r\nX: y\r\n--b\r\n\r\n\xe42\r\n--b--", [b"", b"\xe42"]),
    (b"--b\r\n\r\n\xe4\r\n--bb\r\n --b\r\n--b-\r\n--b--x\r\n--b x\r\n--b--",
     [b"\xe4\r\n--bb\r\n --b\r\n--b-\r\n--b--x\r\n--b x"]),
    (b"--bb\r\n--b\r\n\r\n\xe4\r\n-\r\n--\r\n\r\n--b--", [b"\xe4\r\n-\r\n--\r\n"]),
    (b"--b\r\n\r\n\xe4\r\n--b" + b" " * (MAX_LINE - 3) + b"\r\n\r\n\xe4\r\n--b--", [b"\xe4", b"\xe4"]),
    (b"--b--\r\n--b\r\n\r\n\xe4\r\n--b--", []),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), DELIMITERS)
def test_reads_delimiters(body: bytes, expected: list[bytes]) -> None:
    out = everywhere(b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + body)
    assert out.isascii()
    message = message_from_bytes(out)
    assert [leaf for leaf in leaves(message) if message.is_multipart()] == expected or not expected
    assert out.count(b"quoted-printable") + out.count(b"base64") == sum(not leaf.isascii() for leaf in expected)


@pytest.mark.parametrize(
    "inner",
    ["bb", "b-", "b-x", "b.", "c"],
)
def test_tells_nested_boundaries_apart(inner: str) -> None:
    """One is the beginning of the other; the inner end is there, or missing (RFC 2046 §5.1.2)."""
    for end in (f"--{inner}--\n", ""):
        octets = lines(
            f"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n"
            f"Content-Type: multipart/alternative; boundary={inner}\n\n--{inner}\n\nü1\n--{inner}\n\nü2\n{end}"
            f"--b\n\nü3\n--b--"
        )
        message = message_from_bytes(everywhere(octets))
        assert list(leaves(message)) == ["ü1".encode(), "ü2".encode(), "ü3".encode()]
        assert [part.get_content_type() for part in message.walk()][1] == "multipart/alternative"


def test_a_delimiter_line_has_a_longest_length() -> None:
    """One octet more, and it is text."""
    octets = lines(MULTIPART + "\n--b\n\nü") + b"--b" + b" " * (MAX_LINE - 2) + b"\r\n--b--\r\n"
    assert everywhere(octets).count(b"quoted-printable") == 1
    assert b"=20" in converted(octets)


# --- header sections

TYPES: list[tuple[str, str, bytes]] = [
    ("text/plain", "text/plain", b""),
    ("TEXT/Plain; Charset=UTF-8", "text/plain", b""),
    ("multipart/mixed; boundary=b", "multipart/mixed", b"b"),
    ('multipart/mixed; boundary="b"', "multipart/mixed", b"b"),
    ('multipart/mixed;\r\n\tBOUNDARY="b c"', "multipart/mixed", b"b c"),
    ('multipart/mixed; boundary="b\\"c\\\\"', "multipart/mixed", b'b"c\\'),
    ('multipart/mixed; boundary="b  "', "multipart/mixed", b"b"),
    ("(a (nested \\) one)) multipart (x) / (y) mixed (z) ; (;) boundary (=) = (q) b (r)", "multipart/mixed", b"b"),
    ("multipart/mixed; boundary=----=_Part_1.2", "multipart/mixed", b"----=_Part_1.2"),
    ("multipart/mixed; boundary=b;", "multipart/mixed", b"b"),
    ("multipart/mixed;; boundary=b ; ;", "multipart/mixed", b"b"),
    ("multipart/mixed; boundary*0=a; boundary*1=b", "multipart/mixed", b"ab"),
    ('multipart/mixed; boundary*1="b c"; boundary*0="a;"', "multipart/mixed", b"a;b c"),
    ("multipart/mixed; boundary*=us-ascii'en'a%20b", "multipart/mixed", b"a b"),
    ("multipart/mixed; boundary*0*=us-ascii''a%3D; boundary*1=%3D", "multipart/mixed", b"a=%3D"),
    ("multipart/mixed; boundary*0=a; boundary*2=b", "multipart/mixed", b""),
    ("multipart/mixed; boundary*0=a; boundary*0=b", "multipart/mixed", b""),
    ("multipart/mixed; boundary*x=a", "multipart/mixed", b""),
    ("multipart/mixed; boundary*9999999999=a", "multipart/mixed", b""),
    ("multipart/mixed; boundary=a; boundary*0=b", "multipart/mixed", b""),
    ("multipart/mixed; boundary=a; boundary=a", "multipart/mixed", b""),
    ("multipart/mixed; boundary", "multipart/mixed", b""),
    ("multipart/mixed; boundary=", "multipart/mixed", b""),
    ('multipart/mixed; boundary="b', "multipart/mixed", b""),
    ('multipart/mixed; boundary="b\tc"', "multipart/mixed", b""),
    ("multipart/mixed; boundary=b; (unfinished", "multipart/mixed", b"b"),
    ("multipart/mixed; boundary=b c", "multipart/mixed", b""),
    ("multipart/mixed boundary=b", "multipart/mixed", b""),
    ("multipart/mixed; boundary=" + "x" * 250, "multipart/mixed", b"x" * 250),
    ("multipart/mixed; boundary=" + "x" * 251, "multipart/mixed", b""),
    ("multipart; boundary=b", "text/plain", b""),
    ("/mixed", "text/plain", b""),
    ("multipart/", "text/plain", b""),
    ("", "text/plain", b""),
    ("ü/ü", "text/plain", b""),
    ("(", "text/plain", b""),
]


@pytest.mark.parametrize(("value", "type_", "boundary"), TYPES)
def test_reads_a_content_type(value: str, type_: str, boundary: bytes) -> None:
    section = read_section(f"Content-Type: {value}\r\n\r\n".encode(), "text/plain")
    assert (section.type, section.boundary, section.fault) == (type_, boundary, "")


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        ("8bit", "8bit"),
        (" BASE64 ", "base64"),
        ("(7bit) 8bit (binary)", "8bit"),
        ("\r\n 8bit", "8bit"),
        ("", "?"),
        ("8bit;", "8bit;"),
        ("8 bit", "8 bit"),
        ("ü", "\N{REPLACEMENT CHARACTER}" * 2),
    ],
)
def test_reads_an_encoding(value: str, encoding: str) -> None:
    assert read_section(f"Content-Transfer-Encoding:{value}\r\n".encode(), "text/plain").encoding == encoding


@pytest.mark.parametrize(
    ("header", "has_type", "has_version", "fault"),
    [
        (b"", False, False, ""),
        (b"\r\n", False, False, ""),
        (b"Content-Type: x\r\nMIME-Version: 1.0\r\n\r\n", True, True, ""),
        (b"X-Content-Type: x\r\n MIME-Version: 1.0\r\n\r\n", False, False, ""),
        (b"MIME-Version: 1.0\r\nmime-version: 1.0\r\n", False, True, "a MIME field stands twice in one header section"),
        (b" folded at the start\r\n", False, False, "a line of a header section is no field"),
        (b"From me Mon\r\nContent-Type: x\r\n", False, False, "a line of a header section is no field"),
        (b"X: cut", False, False, "a line of a header section is no field"),
        (b"X: a\nContent-Type: x\r\n", False, False, "a line of a header section is no field"),
    ],
)
def test_reads_a_header_section(header: bytes, has_type: bool, has_version: bool, fault: str) -> None:
    section = read_section(header, "text/plain")
    assert (section.has_type, section.has_version, section.fault) == (has_type, has_version, fault)


def test_rewrites_only_what_is_asked() -> None:
    header = b"A: \r\n b\r\nContent-Transfer-Encoding: 8bit\r\n \r\nZ:z\r\n\r\n"
    assert rewrite(header, Edit(), message=False) == header
    new = b"A: \r\n b\r\nContent-Transfer-Encoding: base64\r\nZ:z\r\n\r\n"
    assert rewrite(header, Edit("base64"), message=False) == new


# --- lines


def test_no_line_of_what_is_encoded_is_longer_than_76() -> None:
    for body in (b"\xfc" + b"x" * 20_000, b"\xfc" * 5000, (b"\xfc" + b" " * 500 + b"\r\n") * 50):
        out = everywhere(b"Subject: x\r\n\r\n" + body)
        assert max(map(len, out.split(b"\r\n"))) <= 76
        assert list(leaves(message_from_bytes(out))) == [body]
