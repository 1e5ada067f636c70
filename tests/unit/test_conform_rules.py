"""`conform` against servers that break one rule each, over real sockets: the deviation is found, at its level.

And against one that keeps them all: nothing is found, and nothing is delivered but what was allowed.
"""

from __future__ import annotations

import pytest

from pillarbox.app.conform.probe import Level, Target, Verdict
from pillarbox.app.conform.run import Report, conform
from tests.unit import conform_broken as broken
from tests.unit import conform_broken_mail as broken_mail
from tests.unit.conform_peers import HOST, MAILBOX, Host, Peer

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


def test_a_server_that_bears_one_greeting_is_asked_everything_all_the_same() -> None:
    report = asked(broken.GreetedOnce)
    assert deviations(report) == {
        "ehlo-again": Level.MUST,
        "outside-ehlo-503": Level.TABLE,
        "outside-helo-503": Level.TABLE,
    }
    verdicts = {finding.name: finding.verdict for finding in report.findings}
    for name in ("ehlo-keywords", "ehlo-bad-literal", "helo-plain", "helo-no-argument", "mail-null", "rcpt-postmaster"):
        assert verdicts[name] is Verdict.CONFORMS, name


def test_a_server_that_dislikes_arguments_with_500_is_not_said_to_lack_the_command() -> None:
    class NoArguments(Host):
        def do_NOOP(self, argument: bytes) -> bytes:
            return b"500 5.5.4 no argument\r\n" if argument else super().do_NOOP(argument)

    assert deviations(asked(NoArguments)) == {"noop-argument": Level.SHOULD}


def test_a_server_that_does_not_pipeline_is_given_a_moment() -> None:
    class OneByOne(Host):
        def keywords(self) -> tuple[str, ...]:
            return broken_mail.WITHOUT_PIPELINING

    assert deviations(asked(OneByOne, mailbox=MAILBOX)) == {}


def test_a_server_without_ehlo_is_not_judged_by_its_replies_to_it() -> None:
    class Old(Host):
        def do_EHLO(self, argument: bytes) -> bytes:
            return b"502 no\r\n"

    assert deviations(asked(Old)) == {"ehlo": Level.MUST, "required-not-502": Level.MUST}


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


@pytest.mark.parametrize(
    ("host", "name", "level"),
    [*broken.BROKEN, *broken_mail.BROKEN],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_broken_rule_is_found(host: type[Host], name: str, level: str) -> None:
    report = asked(host, timeout=SOON if host in (*broken.SILENT, *broken_mail.SILENT) else TIMEOUT)
    assert deviations(report).get(name) is Level(level), deviations(report)
    assert report.failed is bool(report.broken)
    assert level != "MUST" or report.failed


@pytest.mark.parametrize(
    ("host", "name", "level"),
    [*broken.BROKEN_WITH_MESSAGES, *broken_mail.BROKEN_WITH_MESSAGES],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_broken_rule_about_messages_is_found(host: type[Host], name: str, level: str) -> None:
    report = asked(host, mailbox=MAILBOX)
    assert deviations(report).get(name) is Level(level), deviations(report)
