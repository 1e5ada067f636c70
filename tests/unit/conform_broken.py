"""Servers for the tests of `conform` that break one rule of a session each, and what is to be found of it.

A row: the server, the rule, its level. SILENT are those that leave a client without a reply that it waits for.
"""

from __future__ import annotations

from tests.unit.conform_peers import KEYWORDS, Host


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


class GreetedOnce(Host):
    def do_EHLO(self, argument: bytes) -> bytes:
        return b"503 already said\r\n" if self.hello else super().do_EHLO(argument)

    def do_HELO(self, argument: bytes) -> bytes:
        return b"503 already said\r\n" if self.hello else super().do_HELO(argument)


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


class RefusesAndCloses(Host):
    def greeting(self) -> bytes:
        self.over = True
        return b"554 no service\r\n"


class RefusesAndObeys(Host):
    def greeting(self) -> bytes:
        self.hello = True
        return b"554 no service\r\n"


SILENT = (StaysBehind421, AnswersNever, QuitStays)
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
    (GreetedOnce, "ehlo-again", "MUST"),
    (EhloKeepsTransaction, "ehlo-twice", "MUST"),
    (EhloKeepsTransaction, "ehlo-twice-mail", "MUST"),
    (BadEhloResets, "ehlo-refused-state", "MUST"),
    (TakesAnyName, "ehlo-bad-character", "MUST"),
    (TakesAnyName, "ehlo-no-argument", "table"),
    (ShortNames, "ehlo-longest-domain", "MUST"),
    (UpperCaseOnly, "ehlo-mixed-case", "MUST"),
    (KeepsAtReset, "rset-discards", "MUST"),
    (ClassicReset, "rset", "MUST"),
    (ClosesAtReset, "rset-stays-open", "MUST"),
    (ForgetsHelloAtReset, "rset-keeps-ehlo", "table"),
    (ResetWithAnything, "rset-argument", "SHOULD"),
    (ResetNeedsHello, "rset-before-ehlo", "SHOULD"),
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
    (RefusesAndCloses, "refusing-waits", "MUST"),
    (RefusesAndObeys, "refusing-503", "SHOULD"),
]
BROKEN_WITH_MESSAGES = [
    (VerifiesAll, "vrfy-unknown-mailbox", "MUST"),
]
