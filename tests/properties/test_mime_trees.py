"""Messages of random structure, converted: what a reader of mail finds in them is what was put in.

The trees are built with `email` and read with `email`; binary contents are put into the octets afterwards, since its
generator doesn't let them through. Where nobody else's reading is needed the octets are without any sense at all.
"""

from __future__ import annotations

import gc
import tracemalloc
from binascii import a2b_qp, b2a_base64, b2a_qp
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.generator import BytesGenerator
from email.message import Message
from email.policy import compat32
from io import BytesIO
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillarbox.core.mime import Converter, Plan, Survey, Target, Unconvertible
from pillarbox.core.mime_encoders import LONG_LINE, Base64, Encoder, QuotedPrintable, base64_size

many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEVEN, EIGHT = Target.SEVEN_BIT, Target.EIGHT_BIT
WIRE = compat32.clone(linesep="\r\n", max_line_length=None, mangle_from_=False)

targets = st.sampled_from(Target)
cuts = st.lists(st.integers(1, 60), min_size=1, max_size=5)


# --- conversion and what the target can carry


def pieces(octets: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = turn = 0
    while at < len(octets):
        yield octets[at : at + sizes[turn % len(sizes)]]
        at += sizes[turn % len(sizes)]
        turn += 1


def survey(octets: bytes, target: Target, sizes: list[int]) -> Plan:
    found = Survey(target)
    for piece in pieces(octets, sizes):
        found.feed(piece)
    return found.finish()


def convert(octets: bytes, target: Target, sizes: list[int]) -> bytes:
    plan = survey(octets, target, sizes)
    converter = Converter(plan)
    out = b"".join([*map(converter.feed, pieces(octets, sizes[::-1])), converter.finish()])
    assert len(out) == plan.size
    assert plan.converts == (out != octets)
    return out


def is_fit(octets: bytes, target: Target) -> bool:
    bare = octets.replace(b"\r\n", b"")
    return not set(bare) & {0, 10, 13} and (target is EIGHT or octets.isascii())


# --- trees


@dataclass
class Leaf:
    type: str
    encoding: str  # of the input
    octets: bytes  # decoded
    has_type: bool

    @property
    def wire(self) -> bytes:
        if self.encoding == "base64":
            return b2a_base64(self.octets, newline=False)
        if self.encoding == "quoted-printable":
            return b2a_qp(self.octets, istext=False).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        return self.octets


@dataclass
class Multipart:
    subtype: str
    label: str
    parts: list[Tree]
    outside: bytes


@dataclass
class Nested:
    label: str
    content: Tree


Tree = Leaf | Multipart | Nested

_lines = st.sampled_from(
    [b"hello\r\n", b"gr\xc3\xbc\xc3\x9fe\r\n", b"\r\n", b"--\r\n", b"-- \r\n", b"=20 \t\r\n", b".\r\n", b"From x\r\n"]
    + [b"x" * 74 + b" \r\n", b" " * 75 + b"\r\n", b"\xe3\x81\x82" * 30 + b"\r\n", b"x" * 1200 + b"\r\n", b"\xfc" * 1200]
)  # fmt: skip
_texts = st.lists(_lines, max_size=6).map(b"".join)
_octets = st.lists(
    st.sampled_from([b"\r", b"\n", b"\0", b"\r\n", b"\r\n--", b"--", b"\xff", b"a", b"\r\r\n", b"b" * 80]), max_size=20
).map(b"".join)
_types = st.sampled_from(["text/plain", "text/html", "image/png", "application/octet-stream", "message/global"])
_labels = st.sampled_from(["", "7bit", "8bit", "binary", "8BIT"])
_leaves = st.builds(
    Leaf,
    _types,
    st.sampled_from(["", "8bit", "binary", "base64", "quoted-printable"]),
    _texts | _octets | st.binary(max_size=200),
    st.booleans(),
)


def _around(parts: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    subtypes = st.sampled_from(["mixed", "alternative", "related", "encrypted"])
    outside = st.sampled_from([b"", b"ignored\r\n", b"f\xfcr\r\n", b"\n--b0x\n\0\r"])
    multiparts = st.builds(Multipart, subtypes, _labels, st.lists(parts, min_size=1, max_size=4), outside)
    return multiparts | st.builds(Nested, _labels, parts)


trees: st.SearchStrategy[Tree] = st.recursive(_leaves, _around, max_leaves=6)


@dataclass
class Built:
    octets: bytes
    leaves: list[Leaf]
    wires: list[bytes]  # each leaf with its header section, as it stands in the octets


def build(tree: Tree, *, version: bool) -> Built:
    """`email` writes the structure; each leaf's content is a mark until it is written."""
    leaves: list[Leaf] = []
    marks: dict[bytes, bytes] = {}
    message = _message(tree, leaves, marks, depth=0)
    if version:
        message["MIME-Version"] = "1.0"
    out = BytesIO()
    BytesGenerator(out, policy=WIRE).flatten(message)
    octets = out.getvalue()
    wires = []
    for mark, content in marks.items():
        start = octets.rfind(b"X-Leaf: ", 0, octets.index(mark)) if mark.startswith(b"leaf") else -1
        if start >= 0:
            wires.append(octets[start : octets.index(mark)] + content)
        octets = octets.replace(mark, content)
    return Built(octets, leaves, wires)


def _message(tree: Tree, leaves: list[Leaf], marks: dict[bytes, bytes], depth: int) -> Message:
    message = Message(policy=WIRE)
    if isinstance(tree, Leaf):
        mark = f"leaf{len(leaves):04}"
        message["X-Leaf"] = str(len(leaves))
        message.set_payload(mark)
        leaves.append(tree)
        marks[mark.encode()] = tree.wire
        if tree.has_type:
            message["Content-Type"] = tree.type
        _label(message, tree.encoding)
        return message
    _label(message, tree.label)
    if isinstance(tree, Nested):
        message["Content-Type"] = "message/rfc822"
        message.set_payload([_message(tree.content, leaves, marks, depth + 1)])
        return message
    boundary = "b" * depth + f"b{len(leaves)}"  # some begin as others do
    message["Content-Type"] = f'multipart/{tree.subtype}; boundary="{boundary}"'
    message.set_payload([_message(part, leaves, marks, depth + 1) for part in tree.parts])
    if tree.outside:
        for place in ("preamble", "epilogue"):
            mark = f"{place}{len(marks):04}"
            setattr(message, place, mark)
            marks[mark.encode()] = tree.outside
    return message


def _label(message: Message, label: str) -> None:
    if label:
        message["Content-Transfer-Encoding"] = label


Row = tuple[str, str, object]


def structure(message: Message) -> list[Row]:
    """All types and encodings, and what is in the leaves, in order."""
    return [
        (
            part.get_content_type(),
            _kind(part["Content-Transfer-Encoding"]),
            None if part.is_multipart() else part.get_payload(decode=True),
        )
        for part in message.walk()
    ]


def expected(tree: Tree, target: Target) -> list[Row]:
    """What `structure` is of the converted message: no label says more than the target takes where something was
    changed, and any other stays."""
    if isinstance(tree, Leaf):
        encoding = _kind(tree.encoding) if is_fit(tree.wire, target) else "encoded"
        return [(tree.type if tree.has_type else "text/plain", encoding, tree.octets)]
    label = _kind(tree.label)
    if _changes(tree, target):
        label = {"8bit": "7bit" if target is SEVEN else "8bit", "binary": target.value}.get(label, label)
    if isinstance(tree, Nested):
        return [("message/rfc822", label, None), *expected(tree.content, target)]
    return [(f"multipart/{tree.subtype}", label, None), *(row for part in tree.parts for row in expected(part, target))]


def _kind(encoding: object) -> str:
    label = str(encoding or "").lower()
    return "encoded" if label in ("base64", "quoted-printable") else label


def _changes(tree: Tree, target: Target) -> bool:
    if isinstance(tree, Leaf):
        return not is_fit(tree.wire, target)
    if isinstance(tree, Nested):
        return _changes(tree.content, target)
    return not is_fit(tree.outside, target) or any(_changes(part, target) for part in tree.parts)


def _is_read_as_tree(leaf: Leaf) -> bool:
    """`email` reads message/global as a tree, not as a leaf; our own unit tests look at it."""
    return leaf.has_type and leaf.type == "message/global"


@many
@given(trees, targets, cuts, st.booleans())
def test_a_converted_message_reads_as_it_did(tree: Tree, target: Target, sizes: list[int], version: bool) -> None:
    built = build(tree, version=version)
    out = convert(built.octets, target, sizes)
    assert is_fit(out, target)
    for leaf, wire in zip(built.leaves, built.wires, strict=True):
        assert not is_fit(leaf.wire, target) or wire in out
    if not any(map(_is_read_as_tree, built.leaves)):
        assert structure(message_from_bytes(out)) == expected(tree, target)


@many
@given(trees, targets, cuts)
def test_a_second_conversion_finds_nothing(tree: Tree, target: Target, sizes: list[int]) -> None:
    out = convert(build(tree, version=True).octets, target, sizes)
    assert not survey(out, target, sizes).converts


# --- octets without sense

_fragments = st.sampled_from(
    [b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: multipart/x; boundary=bb\r\n", b"--b\r\n"]
    + [b"Content-Type: message/rfc822\r\n", b"Content-Type: multipart/signed;", b" boundary=c\r\n", b"--c\r\n"]
    + [b"MIME-Version: 1.0\r\n", b"Content-Transfer-Encoding: 8bit\r\n", b"Content-Transfer-Encoding: base64\r\n"]
    + [b"Content-Type: multipart/digest; boundary=c\r\n", b"X: y\r\n", b"x" * 998, b"--bb\r\n", b"--b--\r\n"]
    + [b"--bb--\r\n", b"--b", b"\r\n", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\0", b"\xfc", b"x", b"--", b" "]
)  # fmt: skip
nonsense = st.lists(_fragments | st.binary(max_size=3), max_size=30).map(b"".join)


@settings(many, max_examples=1000)
@given(nonsense, targets, cuts)
def test_nonsense_is_converted_the_same_however_it_is_cut_or_refused(
    octets: bytes, target: Target, sizes: list[int]
) -> None:
    def outcome(sizes: list[int]) -> bytes | str:
        try:
            return convert(octets, target, sizes)
        except Unconvertible as error:
            return str(error)

    whole = outcome([1 << 20])
    assert outcome(sizes) == whole
    assert outcome([1]) == whole
    if isinstance(whole, bytes):
        assert is_fit(whole, target)
    if is_fit(octets, target):
        assert whole == octets


# --- the encodings


@many
@given(st.binary(max_size=2000), cuts)
def test_base64_is_that_of_others(octets: bytes, sizes: list[int]) -> None:
    out = encode(Base64(), octets, sizes)
    assert b"".join(b2a_base64(octets[at : at + 57]) for at in range(0, len(octets), 57)) == (
        out.replace(b"\r\n", b"\n") + b"\n" * bool(octets)
    )
    assert len(out) == base64_size(len(octets))


@many
@given(st.lists(_lines | st.just(b" " * LONG_LINE) | st.just(b"y." * 1900), max_size=6).map(b"".join), cuts)
def test_quoted_printable_is_the_same_however_it_is_cut(octets: bytes, sizes: list[int]) -> None:
    out = encode(QuotedPrintable(), octets, [*sizes, 3000])
    assert out == encode(QuotedPrintable(), octets, [1 << 20])
    assert a2b_qp(out) == octets
    lines = out.split(b"\r\n")
    assert max(map(len, lines)) <= 76
    assert all(line == line.rstrip(b" \t") for line in lines)


@pytest.mark.parametrize("end", [b" ", b"\t", b"x", b"\xfc"])
def test_quoted_printable_of_a_line_of_any_length(end: bytes) -> None:
    """`binascii` writes 77 characters for 75 that end in white space, and is right otherwise."""
    for length in range(1, 160):
        line = b"x" * (length - 1) + end
        for octets in (line, line + b"\r\n", b"\r\n" + line + b"\r\n\r\n"):
            out = encode(QuotedPrintable(), octets, [1 << 20])
            assert a2b_qp(out) == octets
            assert max(map(len, out.split(b"\r\n"))) <= 76
            others = b2a_qp(octets + b"\r\n").removesuffix(b"\r\n")
            assert out == others or any(len(line) == 77 for line in others.split(b"\r\n"))


@pytest.mark.parametrize("octet", [b" ", b"=", b".", b"\xfc"])
def test_a_long_line_may_be_cut_anywhere(octet: bytes) -> None:
    """What ends a piece is white space within a line, not at its end."""
    for cut in range(LONG_LINE, LONG_LINE + 80):
        line = octet * (cut + 80) + b"x"
        assert encode(QuotedPrintable(), line, [cut]) == b2a_qp(line + b"\r\n").removesuffix(b"\r\n")


def encode(encoder: Encoder, octets: bytes, sizes: list[int]) -> bytes:
    return b"".join([*map(encoder.feed, pieces(octets, sizes)), encoder.finish()])


# --- time

_HEAD = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
_NESTED = b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n"
LARGE: dict[str, tuple[bytes, bytes]] = {
    "delimiters that are none": (_HEAD, b"\r\n--"),
    "and nothing in common with the two looked for": (_HEAD + _NESTED, b"\r\n--x"),
    "delimiters": (_HEAD, b"--b\r\n"),
    "delimiters of two": (_HEAD, _NESTED),
    "parts": (_HEAD, b"--b\r\n\r\n\xfc\r\n"),
    "one line": (_HEAD, b"x"),
    "one line of 8-bit": (b"Subject: x\r\n\r\n", b"\xfc"),
    "short lines": (b"Subject: x\r\n\r\n", b"\xfc\r\n"),
    "white space behind a delimiter": (_HEAD, b"\r\n--b" + b" " * 1200),
    "CR": (_HEAD, b"\r"),
    "a header section": (b"", b"X: y\r\n"),
    "a header section of one line": (b"", b"x"),
    "comments": (b"Content-Type: ", b"("),
    "parameters": (b"Content-Type: multipart/mixed", b";a=b"),
    "messages in messages": (b"", b"Content-Type: message/rfc822\r\n\r\n"),
    "a quoted string": (b'Content-Type: multipart/mixed; boundary="', b"\\"),
}
MEGABYTE = 1 << 20


@pytest.mark.parametrize(("head", "pattern"), LARGE.values(), ids=LARGE.keys())
def test_time_is_linear(head: bytes, pattern: bytes) -> None:
    """Four times the octets take four times as long; a bound of eight leaves room for noise, sixteen would not fit."""
    small, large = (head + pattern * (size // len(pattern)) for size in (MEGABYTE, 4 * MEGABYTE))

    def once(octets: bytes) -> Callable[[], object]:
        def run() -> object:
            try:
                return convert(octets, SEVEN, [MEGABYTE // 16])
            except Unconvertible:
                return None

        return run

    assert _seconds(once(large)) < 8 * _seconds(once(small)) + 0.01


def _seconds(run: Callable[[], object]) -> float:
    """Of processor time, the best of three."""
    gc.collect()
    best = float("inf")
    for _ in range(3):
        start = process_time()
        run()
        best = min(best, process_time() - start)
    return best


# --- memory


@pytest.mark.parametrize(
    "case",
    [
        "parts",
        "one line",
        "one line of 8-bit",
        "a header section",
        "a header section of one line",
        "CR",
        "delimiters",
    ],
)
def test_memory_is_bounded(case: str) -> None:
    """8 MB pass through with less than 2.5 in memory: a header section, and the plan for ten thousand parts."""
    head, pattern = LARGE[case]
    piece = pattern * (MEGABYTE // 16 // len(pattern))

    def message() -> Iterator[bytes]:
        yield head
        yield from (piece for _ in range(128))

    tracemalloc.start()
    try:
        found = Survey(SEVEN)
        for octets in message():
            found.feed(octets)
        try:
            converter = Converter(found.finish())
            for octets in message():
                converter.feed(octets)
            converter.finish()
        except Unconvertible:
            pass
        assert tracemalloc.get_traced_memory()[1] < 2.5 * MEGABYTE
    finally:
        tracemalloc.stop()
