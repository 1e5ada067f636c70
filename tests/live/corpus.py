"""Messages for the live tests: generated from a seed, and those that others wrote.

A message is octets with CRLF line ends that end with CRLF, so that what must arrive is known to the octet. Generated
ones hold a token of their own in the Subject and in every line, so that each can be found wherever it went.
"""

from __future__ import annotations

import random
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LONG_LINE = 5_000  # octets
_WORDS = "mail box pillar queue relay letter stamp post envelope silver horn rider".split()
_EIGHT_BIT = bytes(range(0xA0, 0x100))


@dataclass(frozen=True, slots=True)
class Sample:
    """One message and where it is from."""

    name: str
    octets: bytes


def simple(token: str, size: int = 0) -> bytes:
    """A message of about so many octets, with the token in the Subject and in every line of the text."""
    head = f"From: alice@elsewhere.example\r\nSubject: {token}\r\n\r\n".encode()
    line = f"{token} the quick brown fox jumps over the lazy dog\r\n".encode()
    return head + line * max((size - len(head)) // len(line), 1)


def generated(seed: int, count: int, largest: int = 64 * 1024) -> Iterator[Sample]:
    """Every shape in turn, of 200 octets to `largest`; sizes spread evenly over their logarithm."""
    rng = random.Random(seed)
    for number in range(count):
        shape = _SHAPES[number % len(_SHAPES)]
        size = round(200 * (largest / 200) ** rng.random())
        token = f"tok-{seed}-{number}"
        yield Sample(f"{shape.__name__.strip('_')} {token}", _message(token, shape(rng, token, size)))


def _message(token: str, text: bytes) -> bytes:
    head = f"From: alice@elsewhere.example\r\nTo: bob@example.test\r\nSubject: {token}\r\nX-Pad: {'x' * 60}\r\n"
    return head.encode() + text


def _filled(line: bytes, size: int) -> bytes:
    return b"\r\n" + line * max(size // len(line), 1)


def _plain(rng: random.Random, token: str, size: int) -> bytes:
    return _filled(f"{token} {' '.join(rng.choices(_WORDS, k=8))}\r\n".encode(), size)


def _eight_bit(rng: random.Random, token: str, size: int) -> bytes:
    return _filled(token.encode() + b" " + bytes(rng.choices(_EIGHT_BIT, k=60)) + b"\r\n", size)


def _long_lines(rng: random.Random, token: str, size: int) -> bytes:
    return _filled(token.encode().ljust(LONG_LINE, rng.choice((b"x", b"\xfc"))) + b"\r\n", max(size, LONG_LINE))


def _dots(rng: random.Random, token: str, size: int) -> bytes:
    lines = [b".", b"..", b"...", b"." + token.encode(), b". ", b".\t.", b"", b"x."]
    return _filled(b"".join(line + b"\r\n" for line in rng.choices(lines, k=24)), size)


def _only_dots(rng: random.Random, token: str, size: int) -> bytes:
    return b"\r\n" + b".\r\n" * (size // 3)


def _empty_lines(rng: random.Random, token: str, size: int) -> bytes:
    return b"\r\n" * rng.randrange(2, 50)


def _empty_body(rng: random.Random, token: str, size: int) -> bytes:
    return b"\r\n"


def _only_header(rng: random.Random, token: str, size: int) -> bytes:
    return b""


def _controls(rng: random.Random, token: str, size: int) -> bytes:
    octets = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
    return _filled(token.encode() + octets + b"\r\n", size)


def _folded(rng: random.Random, token: str, size: int) -> bytes:
    return b"X-Folded: one\r\n two\r\n\tthree\r\n \r\n four\r\n" + _plain(rng, token, size)


_SHAPES = (
    _plain, _eight_bit, _long_lines, _dots, _only_dots, _empty_lines, _empty_body, _only_header, _controls, _folded,
)  # fmt: skip


# --- written by others


PACKAGES = {  # of Debian, and where in them the messages are
    "golang-github-jhillyerd-enmime-dev": "**/enmime/testdata/**/*.raw",
    "python3-flufl.bounce": "**/flufl/bounce/tests/data/*.txt",
    "spamassassin": "**/spamassassin/examples/sample-*.txt",
}


def of_python() -> list[Sample]:
    """What CPython tests its own e-mail package with; none where the interpreter came without its tests."""
    folder = Path(sysconfig.get_path("stdlib")) / "test" / "test_email" / "data"
    return [_read("cpython", file) for file in sorted(folder.glob("msg_*.txt"))]


def of_debian(folder: Path) -> list[Sample]:
    """The messages in PACKAGES, which are fetched and unpacked below `folder` at the first call; nothing is installed.
    Raises OSError, CalledProcessError."""
    samples = []
    for package, pattern in PACKAGES.items():
        place = folder / package
        if not place.exists():
            _unpack(package, place)
        samples += [_read(package, file) for file in sorted(place.glob(pattern)) if file.stat().st_size]
    return samples


def _unpack(package: str, place: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package]
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=120)
        (archive,) = Path(scratch).glob("*.deb")
        place.parent.mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", str(archive), str(place)], check=True, capture_output=True, timeout=60)


def _read(origin: str, file: Path) -> Sample:
    """A file with lines as they come on Unix, or with CRLF; what holds a CR elsewhere keeps it."""
    octets = file.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return Sample(f"{origin}/{file.name}", octets if octets.endswith(b"\r\n") else octets + b"\r\n")
