"""`conform` against servers that break one rule each, over real sockets: the deviation is found, at its level.

And against one that keeps them all: nothing is found, and nothing is delivered but what was allowed.
"""

from __future__ import annotations

import socket

import pytest

from pillarbox.app.conform.probe import Level, Target, Verdict
from pillarbox.app.conform.run import Report, conform
from tests.unit.conform_peers import HOST, KEYWORDS, MAILBOX, Host, Peer

TIMEOUT = 5.0  # seconds for each reply
SOON = 0.2  # the same, where one is waited for in vain
Messages = list[tuple[bytes, bytes]]


def asked(
    host: type[Host], *, mailbox: str | None = None, messages: Messages | None = None, timeout: float = TIMEOUT
) -> Report:
    with Peer.hosting(host, [] if messages is None else messages) as peer:
        return conform(Target(HOST, peer.port, timeout=timeout, mailbox=mailbox))


def deviations(report: Report) -> dict[str, Level]:
    return {finding.name: finding.level for finding in report.findings if finding.verdict is Verdict.DEVIATES}


# --- a server that keeps the rules


@pytest.mark.parametrize("mailbox", [None, MAILBOX], ids=["no-mailbox", "mailbox"])
def test_a_server_that_keeps_all_rules_has_no_deviation(mailbox: str | None) -> None:
    report = asked(Host, mailbox=mailbox)
    assert deviations(report) == {} and not report.cut and not report.failed
    seen = {(f.entry.command, f.entry.code) for f in report.pairs if f.verdict is Verdict.CONFORMS}
    assert {("EHLO", 250), ("MAIL", 552), ("RCPT", 503), ("NOOP", 500), ("SEND", 502), ("QUIT", 221)} <= seen
    assert (("DATA", 354) in seen) is (mailbox is not None)
    assert sum(f.entry.classical for f in report.pairs) == 112


def test_optional_commands_that_are_lacking_are_not_offered() -> None:
    report = asked(Host)
    verdicts = {(f.entry.command, f.entry.code): f.verdict for f in report.pairs}
    assert verdicts["SEND", 250] is verdicts["TURN", 250] is verdicts["AUTH", 235] is Verdict.NOT_OFFERED
    assert verdicts["RCPT", 450] is verdicts["VRFY", 250] is Verdict.NOT_PROVOKED
    assert all(f.note for f in report.pairs)


def test_without_a_mailbox_no_message_is_begun() -> None:
    class Recording(Host):
        begun = 0

        def do_DATA(self, argument: bytes) -> bytes:
            reply = super().do_DATA(argument)
            type(self).begun += self.data
            return reply

    messages: Messages = []
    asked(Recording, messages=messages)
    assert messages == [] and Recording.begun == 0


def test_with_a_mailbox_few_messages_go_to_it_alone_and_say_what_they_are() -> None:
    messages: Messages = []
    asked(Host, mailbox=MAILBOX, messages=messages)
    assert {recipient for recipient, _ in messages} == {MAILBOX.encode()}
    assert 3 <= len(messages) <= 9
    assert all(b"\r\nSubject: [pillarbox conform] " in b"\r\n" + text for _, text in messages)


def test_sessions_are_few_and_end_in_a_quit() -> None:
    class Counting(Host):
        ended = 0

        def do_QUIT(self, argument: bytes) -> bytes:
            type(self).ended += 1
            return super().do_QUIT(argument)

    with Peer.hosting(Counting, []) as peer:
        conform(Target(HOST, peer.port, timeout=TIMEOUT))
        assert peer.connections < 80
        assert Counting.ended >= peer.connections - 1  # one sees its QUIT refused for its argument


# --- servers that end sessions, as they may


def test_a_session_ended_for_too_many_errors_is_not_misread() -> None:
    class Strict(Host):
        errors = 0

        def answer(self, line: bytes) -> bytes:
            reply = super().answer(line)
            self.errors += reply.startswith(b"5")
            if self.errors > 2:
                self.over = True
                return b"421 4.7.0 too many errors\r\n"
            return reply

    assert deviations(asked(Strict)) == {}


def test_a_session_closed_for_too_many_commands_is_not_misread() -> None:
    class Curt(Host):
        commands = 0

        def answer(self, line: bytes) -> bytes:
            self.commands += 1
            self.over = self.commands > 6
            return b"" if self.over else super().answer(line)

    assert deviations(asked(Curt)) == {}


def test_a_busy_server_is_asked_again() -> None:
    turned_away = iter([False, True, False, True, True] + [False] * 200)

    class Busy(Host):
        def greeting(self) -> bytes:
            self.over = next(turned_away)
            return b"421 busy\r\n" if self.over else super().greeting()

    report = asked(Busy, timeout=SOON)
    assert deviations(report) == {} and not report.cut


def test_a_server_that_defers_instead_of_refusing_breaks_no_must() -> None:
    class Deferring(Host):
        def do_RCPT(self, argument: bytes) -> bytes:
            return super().do_RCPT(argument).replace(b"550 5.7.1", b"454 4.7.1")

    assert deviations(asked(Deferring)) == {"outside-rcpt-454": Level.TABLE}


def test_a_server_that_wants_a_password_first_breaks_no_rule() -> None:
    class Submission(Host):
        def do_MAIL(self, argument: bytes) -> bytes:
            return b"530 5.7.0 who are you?\r\n"

    report = asked(Submission, mailbox=MAILBOX)
    assert deviations(report) == {}
    notes = {finding.name: finding.note for finding in report.findings}
    assert notes["rcpt-postmaster"] == "needs a 2yz to MAIL, which was answered 530"


def test_a_server_that_takes_no_mail_breaks_no_rule() -> None:
    class NoMail(Host):
        def greeting(self) -> bytes:
            return b"521 mx.example.test takes no mail\r\n"

        def answer(self, line: bytes) -> bytes:
            return super().answer(line) if line == b"QUIT" else b"521 5.3.2 no mail\r\n"

    report = asked(NoMail)
    assert deviations(report) == {} and not report.failed


def test_a_server_without_ehlo_is_asked_with_helo() -> None:
    class Old(Host):
        def do_EHLO(self, argument: bytes) -> bytes:
            return b"500 what?\r\n"

    report = asked(Old)
    assert deviations(report) == {"ehlo": Level.MUST, "required-not-500": Level.MUST}
    verdicts = {finding.name: finding.verdict for finding in report.findings}
    assert verdicts["mail-null"] is verdicts["rcpt-postmaster"] is Verdict.CONFORMS
    assert verdicts["pipelined-order"] is Verdict.NOT_OFFERED


def test_a_server_that_is_busy_for_long_is_given_up() -> None:
    class Busy(Host):
        def greeting(self) -> bytes:
            self.over = True
            return b"421 busy\r\n"

    report = asked(Busy, timeout=SOON)
    assert report.cut == "the greeting: answered 421" and report.failed
    assert deviations(report) == {}


def test_a_server_that_refuses_sessions_is_asked_little() -> None:
    class Closed(Host):
        def greeting(self) -> bytes:
            return b"554 mx.example.test no service\r\n"

        def answer(self, line: bytes) -> bytes:
            return super().answer(line) if line == b"QUIT" else b"503 no service\r\n"

    report = asked(Closed)
    assert deviations(report) == {} and not report.cut
    verdicts = {finding.name: finding.verdict for finding in report.findings}
    assert verdicts["refusing-waits"] is verdicts["refusing-503"] is Verdict.CONFORMS
    assert verdicts["mail-null"] is Verdict.NOT_PROVOKED


# --- one broken rule each


class GreetsNobody(Host):
    def greeting(self) -> bytes:
        return b"220 -- welcome\r\n"


class GreetsWithEnhanced(Host):
    def greeting(self) -> bytes:
        return b"220 2.0.0 mx.example.test\r\n"


class ThreeDigitsTooHigh(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return b"999 2.0.0 ok\r\n"


class NoDigits(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return b"OK\r\n"


class MixedCodes(Host):
    def do_HELP(self, argument: bytes) -> bytes:
        return b"214-2.0.0 one\r\n250 2.0.0 two\r\n"


class BareReplies(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return b"250 2.0.0 ok\n"


class LongReplies(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return b"250 2.0.0 " + b"x" * 600 + b"\r\n"


class EightBitReplies(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return "250 2.0.0 schön\r\n".encode()


class AnswersTwice(Host):
    def do_VRFY(self, argument: bytes) -> bytes:
        return super().do_VRFY(argument) * 2


class AnswersNever(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return b"" if argument == b"anything" else super().do_NOOP(argument)


class ClosesInstead(Host):
    def do_VRFY(self, argument: bytes) -> bytes:
        self.over = True
        return b""


class StaysBehind421(Host):
    def do_HELP(self, argument: bytes) -> bytes:
        return b"421 4.3.2 closing\r\n"


class VerifyNotRecognised(Host):
    def do_VRFY(self, argument: bytes) -> bytes:
        return b"500 5.5.2 what?\r\n"


class VerifyNotImplemented(Host):
    def do_VRFY(self, argument: bytes) -> bytes:
        return b"502 5.5.1 no\r\n"


class VerifiesAll(Host):
    def do_VRFY(self, argument: bytes) -> bytes:
        return b"250 2.1.5 <" + argument + b"@example.test>\r\n"


class VerifiesInWords(Host):
    def do_VRFY(self, argument: bytes) -> bytes:
        return b"250 2.1.5 sure\r\n" if argument == b"postmaster" else super().do_VRFY(argument)


class VerifiesLate(Host):
    def do_VRFY(self, argument: bytes) -> bytes:
        return super().do_VRFY(argument) if self.hello else b"503 5.5.1 hello?\r\n"


class ForgetsEnhanced(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return b"250 ok\r\n"


class WrongClass(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return b"250 5.0.0 ok\r\n"


class MixedEnhanced(Host):
    def do_HELP(self, argument: bytes) -> bytes:
        return b"214-2.0.0 one\r\n214 2.1.0 two\r\n"


class OddKeyword(Host):
    def keywords(self) -> tuple[str, ...]:
        return ("AUTH=PLAIN", *KEYWORDS)


class ExtendedHelo(Host):
    def do_HELO(self, argument: bytes) -> bytes:
        reply = super().do_HELO(argument)
        return b"250-mx.example.test\r\n250 SIZE 5\r\n" if reply.startswith(b"250") else reply


class EhloKeepsTransaction(Host):
    def do_EHLO(self, argument: bytes) -> bytes:
        mail = self.mail
        reply = super().do_EHLO(argument)
        self.mail = mail
        return reply


class BadEhloResets(Host):
    def do_EHLO(self, argument: bytes) -> bytes:
        self.clear()
        return super().do_EHLO(argument)


class TakesAnyName(Host):
    def do_EHLO(self, argument: bytes) -> bytes:
        return super().do_EHLO(argument.replace(b"$", b"") or b"x")


class ShortNames(Host):
    def do_EHLO(self, argument: bytes) -> bytes:
        return b"501 too long\r\n" if len(argument) > 200 else super().do_EHLO(argument)


class UpperCaseOnly(Host):
    def answer(self, line: bytes) -> bytes:
        verb = line.partition(b" ")[0]
        return super().answer(line) if verb.isupper() else self.unknown(line)


class UpperCaseArguments(Host):
    def do_MAIL(self, argument: bytes) -> bytes:
        return b"501 5.1.7 FROM?\r\n" if argument.startswith(b"from") else super().do_MAIL(argument)


class KeepsAtReset(Host):
    def do_RSET(self, argument: bytes) -> bytes:
        return b"501 5.5.4 no argument\r\n" if argument.strip() else b"250 2.0.0 ok\r\n"


class ClassicReset(Host):
    def do_RSET(self, argument: bytes) -> bytes:
        return super().do_RSET(argument).replace(b"250", b"200")


class ClosesAtReset(Host):
    def do_RSET(self, argument: bytes) -> bytes:
        self.over = True
        return super().do_RSET(argument)


class ForgetsHelloAtReset(Host):
    def do_RSET(self, argument: bytes) -> bytes:
        self.hello = False
        return super().do_RSET(argument)


class ResetWithAnything(Host):
    def do_RSET(self, argument: bytes) -> bytes:
        return super().do_RSET(b"")


class ResetNeedsHello(Host):
    def do_RSET(self, argument: bytes) -> bytes:
        return super().do_RSET(argument) if self.hello else b"503 5.5.1 hello?\r\n"


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


class HelpUnlisted(Host):
    def keywords(self) -> tuple[str, ...]:
        return tuple(keyword for keyword in KEYWORDS if keyword != "HELP")


class HelpListedInVain(Host):
    def do_HELP(self, argument: bytes) -> bytes:
        return b"502 5.5.1 no\r\n"


class ExpandsUnlisted(Host):
    def keywords(self) -> tuple[str, ...]:
        return tuple(keyword for keyword in KEYWORDS if keyword != "EXPN")

    def do_EXPN(self, argument: bytes) -> bytes:
        return b"250 2.1.5 <list@example.test>\r\n"


class SendsUnlisted(Host):
    def do_SEND(self, argument: bytes) -> bytes:
        return super().do_MAIL(argument)


class TurnsForAnybody(Host):
    def do_TURN(self, argument: bytes) -> bytes:
        return b"250 2.0.0 turned\r\n"


class AuthInTransaction(Host):
    def keywords(self) -> tuple[str, ...]:
        return ("AUTH PLAIN", *KEYWORDS)

    def do_AUTH(self, argument: bytes) -> bytes:
        return b"334 \r\n" if argument else b"501 5.5.4 mechanism?\r\n"


class UnknownIs502(Host):
    def unknown(self, line: bytes) -> bytes:
        return b"502 5.5.1 no\r\n"


class ClosesAtUnknown(Host):
    def unknown(self, line: bytes) -> bytes:
        self.over = True
        return super().unknown(line)


class NoopNeedsNone(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return b"501 5.5.4 no argument\r\n" if argument else super().do_NOOP(argument)


class TrailingSpaceRefused(Host):
    def answer(self, line: bytes) -> bytes:
        return b"501 5.5.4 space\r\n" if line.endswith(b" ") else super().answer(line)


class InventsCodes(Host):
    def do_NOOP(self, argument: bytes) -> bytes:
        return b"299 2.0.0 ok\r\n"


class QuitSays250(Host):
    def do_QUIT(self, argument: bytes) -> bytes:
        return super().do_QUIT(argument).replace(b"221", b"250")


class QuitStays(Host):
    def do_QUIT(self, argument: bytes) -> bytes:
        reply = super().do_QUIT(argument)
        self.over = False
        return reply


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


class RefusesAndCloses(Host):
    def greeting(self) -> bytes:
        self.over = True
        return b"554 no service\r\n"


class RefusesAndObeys(Host):
    def greeting(self) -> bytes:
        self.hello = True
        return b"554 no service\r\n"


SILENT = (StaysBehind421, AnswersNever, QuitStays, LosesInput)
BROKEN = [
    (GreetsNobody, "greeting-host", "table"),
    (GreetsWithEnhanced, "enhanced-none", "table"),
    (ThreeDigitsTooHigh, "reply-code", "MUST"),
    (NoDigits, "reply-code", "MUST"),
    (MixedCodes, "reply-one-code", "MUST"),
    (BareReplies, "reply-crlf", "MUST"),
    (LongReplies, "reply-length", "SHOULD"),
    (EightBitReplies, "reply-text", "table"),
    (AnswersTwice, "reply-each", "MUST"),
    (AnswersNever, "reply-each", "MUST"),
    (ClosesInstead, "reply-before-close", "MUST"),
    (StaysBehind421, "closing", "table"),
    (VerifyNotRecognised, "required-not-500", "MUST"),
    (VerifyNotRecognised, "vrfy", "MUST"),
    (VerifyNotImplemented, "required-not-502", "MUST"),
    (VerifiesAll, "vrfy-not-verified", "MUST"),
    (VerifiesInWords, "vrfy-mailbox", "MUST"),
    (VerifiesLate, "vrfy-before-ehlo", "SHOULD"),
    (ForgetsEnhanced, "enhanced-each", "MUST"),
    (WrongClass, "enhanced-class", "MUST"),
    (MixedEnhanced, "enhanced-same", "MUST"),
    (OddKeyword, "ehlo-keywords", "table"),
    (ExtendedHelo, "helo-plain", "MUST"),
    (EhloKeepsTransaction, "ehlo-twice", "MUST"),
    (EhloKeepsTransaction, "ehlo-twice-mail", "MUST"),
    (BadEhloResets, "ehlo-refused-state", "MUST"),
    (TakesAnyName, "ehlo-bad-character", "MUST"),
    (TakesAnyName, "ehlo-no-argument", "table"),
    (ShortNames, "ehlo-longest-domain", "MUST"),
    (UpperCaseOnly, "ehlo-mixed-case", "MUST"),
    (UpperCaseArguments, "mail-mixed-case", "MUST"),
    (KeepsAtReset, "rset-discards", "MUST"),
    (ClassicReset, "rset", "MUST"),
    (ClosesAtReset, "rset-stays-open", "MUST"),
    (ForgetsHelloAtReset, "rset-keeps-ehlo", "table"),
    (ResetWithAnything, "rset-argument", "SHOULD"),
    (ResetNeedsHello, "rset-before-ehlo", "SHOULD"),
    (NoNullPath, "mail-null", "MUST"),
    (BadPathNotRecognised, "mail-bad-path", "MUST"),
    (IgnoresParameters, "mail-unknown-parameter", "table"),
    (IgnoresParameters, "mail-over-size", "table"),
    (NestedMailResets, "mail-nested-state", "MUST"),
    (ShortLocalParts, "mail-longest-local-part", "MUST"),
    (RcptWithoutMail, "rcpt-before-mail", "MUST"),
    (NoPostmaster, "rcpt-postmaster", "MUST"),
    (NoSourceRoutes, "rcpt-source-route", "MUST"),
    (RelayDeniedWith554, "rcpt-elsewhere", "SHOULD"),
    (RefusedDataResets, "data-out-of-order-state", "MUST"),
    (DataForNobody, "pipelined-data", "SHOULD"),
    (DataForNobody, "data-argument", "SHOULD"),
    (HelpUnlisted, "help-listed", "MUST"),
    (HelpListedInVain, "offered-help", "MUST"),
    (HelpListedInVain, "help", "SHOULD"),
    (ExpandsUnlisted, "expn-listed", "MUST"),
    (ExpandsUnlisted, "expn-not-verified", "MUST"),
    (SendsUnlisted, "send-listed", "MUST"),
    (TurnsForAnybody, "turn-unauthenticated", "SHOULD"),
    (TurnsForAnybody, "turn-listed", "MUST"),
    (AuthInTransaction, "auth-in-transaction", "MUST"),
    (UnknownIs502, "unknown", "SHOULD"),
    (ClosesAtUnknown, "unknown-stays-open", "MUST"),
    (NoopNeedsNone, "noop-argument", "SHOULD"),
    (TrailingSpaceRefused, "white-space-rset", "SHOULD"),
    (InventsCodes, "outside-noop-299", "table"),
    (QuitSays250, "quit", "MUST"),
    (QuitStays, "quit-in-transaction", "MUST"),
    (ShortLines, "longest-line", "MUST"),
    (LongLinesClose, "overlong-noop", "MUST"),
    (LongLinesInPieces, "overlong-vrfy", "MUST"),
    (BareLfEndsLines, "command-bare-lf", "MUST"),
    (BareCrEndsLines, "command-bare-cr", "MUST"),
    (LosesInput, "reply-each", "MUST"),
    (Backwards, "pipelined-order", "MUST"),
    (RefusesAndCloses, "refusing-waits", "MUST"),
    (RefusesAndObeys, "refusing-503", "SHOULD"),
]
BROKEN_WITH_MESSAGES = [
    (FiftyRecipients, "rcpt-100", "MUST"),
    (SmallMessages, "message-64k", "MUST"),
    (EndsAtLfLf, "end-lf-dot-lf", "MUST"),
    (EndsAtLfCrlf, "end-lf-dot-crlf", "MUST"),
    (EndsAtCrlfLf, "end-crlf-dot-lf", "MUST"),
    (EndsAtCrCr, "end-cr-dot-cr", "MUST"),
    (EndsAtCrCrlf, "end-cr-dot-crlf", "MUST"),
    (EndsAtCrlfCr, "end-crlf-dot-cr", "MUST"),
    (DataForNobody, "data-argument-in-place", "SHOULD"),
    (NoSourceRoutes, "rcpt-routed-mailbox", "SHOULD"),
]


@pytest.mark.parametrize(("host", "name", "level"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_rule_is_found(host: type[Host], name: str, level: str) -> None:
    report = asked(host, timeout=SOON if host in SILENT else TIMEOUT)
    assert deviations(report).get(name) is Level(level), deviations(report)
    assert report.failed is bool(report.broken)
    assert level != "MUST" or report.failed


@pytest.mark.parametrize(
    ("host", "name", "level"), BROKEN_WITH_MESSAGES, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_broken_rule_about_messages_is_found(host: type[Host], name: str, level: str) -> None:
    report = asked(host, mailbox=MAILBOX)
    assert deviations(report).get(name) is Level(level), deviations(report)
