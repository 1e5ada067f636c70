"""Servers for the tests of `conform` that break one rule of mail each; see conform_broken."""

from __future__ import annotations

import socket

from tests.unit.conform_peers import KEYWORDS, Host

WITHOUT_PIPELINING = tuple(keyword for keyword in KEYWORDS if keyword != "PIPELINING")


class UpperCaseArguments(Host):
    def do_MAIL(self, argument: bytes) -> bytes:
        return b"501 5.1.7 FROM?\r\n" if argument.startswith(b"from") else super().do_MAIL(argument)


class NoNullPath(Host):
    def do_MAIL(self, argument: bytes) -> bytes:
        return b"550 5.1.7 who?\r\n" if argument == b"FROM:<>" else super().do_MAIL(argument)


class BadPathNotRecognised(Host):
    def do_MAIL(self, argument: bytes) -> bytes:
        return super().do_MAIL(argument).replace(b"501 5.1.7", b"504 5.5.4")


class IgnoresParameters(Host):
    def do_MAIL(self, argument: bytes) -> bytes:
        return super().do_MAIL(argument.partition(b" ")[0])


class NestedMailResets(Host):
    def do_MAIL(self, argument: bytes) -> bytes:
        reply = super().do_MAIL(argument)
        self.mail = self.mail and reply.startswith(b"2")
        return reply


class ShortLocalParts(Host):
    def do_MAIL(self, argument: bytes) -> bytes:
        return b"501 5.1.7 too long\r\n" if b"x" * 60 in argument else super().do_MAIL(argument)


class RcptWithoutMail(Host):
    def do_RCPT(self, argument: bytes) -> bytes:
        return super().do_RCPT(argument) if self.mail else b"550 5.1.1 who?\r\n"


class NoPostmaster(Host):
    def do_RCPT(self, argument: bytes) -> bytes:
        reply = super().do_RCPT(argument)
        return b"550 5.1.1 who?\r\n" if reply.startswith(b"2") and b"@" not in argument else reply


class NoSourceRoutes(Host):
    def do_RCPT(self, argument: bytes) -> bytes:
        return b"501 5.1.3 route\r\n" if argument.startswith(b"TO:<@") else super().do_RCPT(argument)


class RelayDeniedWith554(Host):
    def do_RCPT(self, argument: bytes) -> bytes:
        return super().do_RCPT(argument).replace(b"550", b"554")


class FiftyRecipients(Host):
    def do_RCPT(self, argument: bytes) -> bytes:
        return super().do_RCPT(argument) if len(self.recipients) < 50 else b"452 4.5.3 too many\r\n"


class RefusedDataResets(Host):
    def do_DATA(self, argument: bytes) -> bytes:
        reply = super().do_DATA(argument)
        if not self.data:
            self.clear()
        return reply


class DataForNobody(Host):
    def do_DATA(self, argument: bytes) -> bytes:
        self.data = True
        return b"354 go on\r\n"


class ShortLines(Host):
    def answer(self, line: bytes) -> bytes:
        return self.unreadable(line) if len(line) > 400 else super().answer(line)


class LongLinesClose(Host):
    def unreadable(self, line: bytes) -> bytes:
        self.over = True
        return b""


class LongLinesInPieces(Host):
    def answer(self, line: bytes) -> bytes:
        pieces = [line[at : at + 510] for at in range(0, len(line), 510)] or [line]
        return b"".join(super(LongLinesInPieces, self).answer(piece) for piece in pieces)


class BareLfEndsLines(Host):
    END = b"\n"

    def answer(self, line: bytes) -> bytes:
        return super().answer(line.rstrip(b"\r"))


class BareLfWithoutPipelining(Host):
    """Ends a session in which anything comes before its reply is out: what it took for an end does not show by that."""

    def keywords(self) -> tuple[str, ...]:
        return WITHOUT_PIPELINING

    def take(self, held: bytes, client: socket.socket) -> bytes:
        end = b"\n.\n" if self.data else b"\n"
        whole = held.replace(b"\r\n", b"\n")
        text, found, rest = whole.partition(end)
        if not found:
            return held
        if rest:
            client.sendall(b"500 5.5.1 one by one\r\n")
            self.over = True
            return b""
        client.sendall(self.finished(text.replace(b"\n", b"\r\n")) if self.data else self.answer(text))
        return b""


class BareCrEndsLines(Host):
    END = b"\r"

    def answer(self, line: bytes) -> bytes:
        return super().answer(line.lstrip(b"\n"))


class LosesInput(Host):
    def take(self, held: bytes, client: socket.socket) -> bytes:
        first, end, rest = held.partition(b"\r\n")
        super().take(first + end, client)
        return b"" if end else first


class Backwards(Host):
    def take(self, held: bytes, client: socket.socket) -> bytes:
        if self.data or not held.endswith(b"\r\n"):
            return super().take(held, client)
        client.sendall(b"".join(reversed([self.answer(line) for line in held[:-2].split(b"\r\n")])))
        return b""


class SmallMessages(Host):
    def finished(self, text: bytes) -> bytes:
        reply = super().finished(text)
        return b"552 5.3.4 too large\r\n" if len(text) > 10_000 else reply


class EndsAtLfLf(Host):
    END_OF_DATA = (b"\r\n.\r\n", b"\n.\n")


class EndsAtLfCrlf(Host):
    END_OF_DATA = (b"\n.\r\n",)


class EndsAtCrlfLf(Host):
    END_OF_DATA = (b"\r\n.\r\n", b"\r\n.\n")


class EndsAtCrCr(Host):
    END_OF_DATA = (b"\r\n.\r\n", b"\r.\r")


class EndsAtCrCrlf(Host):
    END_OF_DATA = (b"\r\n.\r\n", b"\r.\r\n")


class EndsAtCrlfCr(Host):
    END_OF_DATA = (b"\r\n.\r\n", b"\r\n.\rN")


SILENT = (LosesInput,)
BROKEN = [
    (UpperCaseArguments, "mail-mixed-case", "MUST"),
    (NoNullPath, "mail-null", "table"),
    (BadPathNotRecognised, "mail-bad-path", "MUST"),
    (IgnoresParameters, "mail-unknown-parameter", "table"),
    (IgnoresParameters, "mail-over-size", "SHOULD"),
    (NestedMailResets, "mail-nested-state", "MUST"),
    (ShortLocalParts, "mail-longest-local-part", "MUST"),
    (RcptWithoutMail, "rcpt-before-mail", "MUST"),
    (NoPostmaster, "rcpt-postmaster", "MUST"),
    (NoSourceRoutes, "rcpt-source-route", "MUST"),
    (RelayDeniedWith554, "rcpt-elsewhere", "SHOULD"),
    (RefusedDataResets, "data-out-of-order-state", "MUST"),
    (DataForNobody, "pipelined-data", "table"),
    (DataForNobody, "data-argument", "SHOULD"),
    (ShortLines, "longest-line", "MUST"),
    (LongLinesClose, "overlong-noop", "MUST"),
    (LongLinesInPieces, "overlong-vrfy", "MUST"),
    (BareLfEndsLines, "command-bare-lf", "MUST"),
    (BareLfWithoutPipelining, "command-bare-lf", "MUST"),
    (BareCrEndsLines, "command-bare-cr", "MUST"),
    (LosesInput, "reply-each", "MUST"),
    (Backwards, "pipelined-order", "MUST"),
]
BROKEN_WITH_MESSAGES = [
    (FiftyRecipients, "rcpt-100", "MUST"),
    (SmallMessages, "message-64k", "MUST"),
    (EndsAtLfLf, "end-lf-dot-lf", "MUST"),
    (BareLfWithoutPipelining, "end-lf-dot-lf", "MUST"),
    (BareLfWithoutPipelining, "end-crlf-dot-lf", "MUST"),
    (EndsAtLfCrlf, "end-lf-dot-crlf", "MUST"),
    (EndsAtCrlfLf, "end-crlf-dot-lf", "MUST"),
    (EndsAtCrCr, "end-cr-dot-cr", "MUST"),
    (EndsAtCrCrlf, "end-cr-dot-crlf", "MUST"),
    (EndsAtCrlfCr, "end-crlf-dot-cr", "MUST"),
    (DataForNobody, "data-argument-in-place", "SHOULD"),
    (NoSourceRoutes, "rcpt-routed-mailbox", "SHOULD"),
]
