"""Runs probes: opens sessions, brings them into the state that a probe needs, says its script, has it judged.

Several probes share a session, but not too many, and none after too many refusals, as servers end sessions that look
like abuse: what a server says to a probe in a used session that then ends is not believed, and asked again in a new
one. Knows nothing of what the probes mean. Every exchange that counts is kept in `log`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from threading import Event
from time import monotonic

from pillarbox.app.conform.judge import lost, unclear
from pillarbox.app.conform.probe import (
    NOBODY,
    Course,
    Exchange,
    Facts,
    Finding,
    Probe,
    Ruling,
    State,
    Step,
    Target,
)
from pillarbox.app.conform.session import Session
from pillarbox.app.conform.wire import Answer, Loss, Lost, Outcome, Wire
from pillarbox.core.address import AddressError, Domain

_TRIES = 3  # at a session, and probes in a row without any reply, before the server is given up
_PAUSE = 1.0  # seconds before a session is tried again
_PROMPT = 0.25  # of the time that is waited for a reply: who answers sooner is not slow
_MOMENT = 0.5  # seconds that a part of a line or of a message is given to be answered
_DRAINED = 50  # replies that are read to the end of a connection
_LEAVE = "leave"  # in place of a probe's name: the QUIT between them


class GaveUp(Exception):
    """No more can be learnt from this server; the text says why."""


class NotReady(Exception):
    """A session can't be brought into the state that the probe needs; the text says why."""


class Ended(Exception):
    """A session that was used before has ended: nothing that is said of it is to be believed."""


class Prober:
    """Asks one server. `log` has all exchanges; `facts` what is known of the server so far."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._deadline = monotonic() + target.deadline
        self._session: Session | None = None
        self._unready = ""
        self._greets_with: tuple[str, ...] = ("EHLO",)
        self._lingers = False  # it was seen not to close the connection behind its last reply: not waited for again
        self._odd_goodbye = False  # it was seen to answer QUIT with something else than 221, and nothing more
        self._silent = 0  # probes in a row without any reply
        self.log: list[Exchange] = []
        self.facts = Facts(_fields(target), {}, target.timeout)

    # --- sessions

    def _open(self, probe: str) -> Session:
        """A new session. Raises GaveUp, and OSError where none was ever had."""
        why = ""
        for attempt in range(_TRIES):
            if attempt:
                Event().wait(min(_PAUSE, self._target.timeout))
            self._check_time()
            try:
                wire = Wire(self._target.host, self._target.port, timeout=self._target.timeout, deadline=self._deadline)
            except OSError as error:
                if not self.log:
                    raise
                why = f"no connection: {error.strerror or error}"
                continue
            greeted = self._log(Exchange(probe, "connect", b"", wire.read()), wire)
            if greeted.code not in (0, 421):
                self._learn(wire, greeted.outcome)
                self._session = Session(wire, greeted)
                return self._session
            why = f"the greeting: {greeted.answered}"
            wire.close()
        raise GaveUp(why)

    def _check_time(self) -> None:
        if monotonic() >= self._deadline:
            raise GaveUp(f"{self._target.deadline:g} s have passed")

    def _learn(self, wire: Wire, greeting: Outcome) -> None:
        if self.facts.greeting is None and isinstance(greeting, Answer):
            fields = {
                **self.facts.fields,
                "helo": self._target.helo or _own_name(wire.ours),
                "server": greeting.texts[0].split(" ", 1)[0] or "example.org",
                "literal": _literal(wire.theirs),
            }
            self.facts = replace(self.facts, fields=fields, greeting=greeting)

    def _learn_keywords(self, answer: Answer) -> None:
        if not self.facts.extended:
            keywords = _keywords(answer)
            fields = {**self.facts.fields, "mechanism": keywords.get("AUTH", "").partition(" ")[0] or "PLAIN"}
            self.facts = replace(self.facts, keywords=keywords, fields=fields, extended=True)

    def leave(self) -> None:
        """End the session, with a QUIT where it can be said."""
        session, self._session = self._session, None
        if session is None:
            return
        self._read_unasked(_LEAVE, session)
        if not session.over and not session.halfway:
            answer = self._say(_LEAVE, session, b"QUIT\r\n", "QUIT")
            if not answer.code:
                self.log.pop()  # the session may have been ended for what it was used for
            elif not session.over:
                self._late_goodbye(session, answer)
        session.wire.close()

    def _late_goodbye(self, session: Session, answer: Exchange) -> None:
        """QUIT had another reply than 221. Does that come now? Then the other one was to something else."""
        outcome = Lost(Loss.SILENT) if self._odd_goodbye else session.wire.read()
        self._odd_goodbye = outcome == Lost(Loss.SILENT)
        if isinstance(outcome, Answer):
            self.log[-1] = replace(answer, command=NOBODY)
            self._log(Exchange(_LEAVE, "QUIT", b"", outcome), session.wire)

    # --- probes

    def ask(self, probe: Probe, group: str) -> Finding:
        """The finding of a probe. Raises GaveUp."""
        mark = len(self.log)
        ruling = self._attempt(probe)
        if ruling is None:  # the session ended, and may have done so for what other probes did
            del self.log[mark:]
            self.leave()
            ruling = self._attempt(probe)
        self._check_time()
        exchanges = tuple(exchange for exchange in self.log[mark:] if exchange.probe == probe.name)
        self._count_silence(exchanges)
        ruling = ruling or unclear("the session ended")
        return Finding(
            probe.name, group, probe.rule, probe.section, probe.level, ruling.verdict, ruling.note, exchanges
        )

    def _count_silence(self, exchanges: Sequence[Exchange]) -> None:
        asked = [exchange for exchange in exchanges if exchange.command != "connect"]
        self._silent = self._silent + 1 if asked and not any(exchange.code for exchange in asked) else 0
        if self._silent >= _TRIES:
            raise GaveUp(f"{_TRIES} probes in a row got no reply: {asked[-1].answered}")

    def _attempt(self, probe: Probe) -> Ruling | None:
        """None: the session had been used before, and ended."""
        try:
            session = self._ready(probe)
        except NotReady as error:
            return unclear(str(error))
        except Ended:
            return None
        used, session.used = session.used, True
        if not probe.script:
            return probe.judge(Course((session.greeted,), self.facts))
        taken: list[Exchange] = []
        for step in probe.script:
            start = len(taken)
            taken += self._perform(probe, session, step)
            if used and any(map(_is_end, taken)):
                return None
            course = Course(tuple(taken), self.facts, start, len(step.commands))
            if not probe.judges_loss and (ruling := lost(course)) is not None:
                return ruling
            if (broken := _premise(step, course.tail)) is not None:
                return unclear(broken)
            if session.over and step is not probe.script[-1] and not probe.judges_loss:
                return unclear(f"the session ended: {course.last.command} was {course.last.answered}")
        return probe.judge(course)

    def _ready(self, probe: Probe) -> Session:
        """A session in the state that the probe needs. Raises NotReady, GaveUp."""
        session = self._session
        if session is None or not session.suits(probe) or self._is_misgreeted(probe, session):
            self.leave()
            session = self._open(probe.name)
        refuses = session.greeted.code // 100 != 2
        if probe.state is not State.GREETED and refuses is not (probe.state is State.REFUSED):
            raise NotReady(f"the greeting was {session.greeted.answered}")
        if probe.state is State.READY:
            self._hello(probe, session)
        return session

    def _is_misgreeted(self, probe: Probe, session: Session) -> bool:
        """Whether a session that must be READY was opened in another way than it will be; it may allow one only."""
        return probe.state is State.READY and bool(session.hello) and session.hello not in self._greets_with

    def _hello(self, probe: Probe, session: Session) -> None:
        """Say EHLO, or HELO where that is not taken; end a transaction that is open."""
        if self._unready:
            raise NotReady(self._unready)
        if session.hello not in self._greets_with:
            answer = self._prelude(probe, session, "EHLO {helo}", "EHLO")
            if answer.code // 100 == 5:
                answer = self._prelude(probe, session, "HELO {helo}", "HELO")
                self._greets_with = ("EHLO", "HELO")
            if answer.code // 100 != 2:
                why = f"{answer.command} was not accepted: {answer.answered}"
                self._unready = why if answer.code else ""
                raise NotReady(why)
        if session.in_transaction:
            self._must(probe, session, "RSET")

    def _must(self, probe: Probe, session: Session, command: str) -> None:
        answer = self._prelude(probe, session, command, command)
        if answer.code // 100 != 2:
            session.over = True
            raise NotReady(f"{command} was not accepted: {answer.answered}")

    def _say(self, probe: str, session: Session, octets: bytes, command: str) -> Exchange:
        session.wire.write(octets)
        exchange = self._log(Exchange(probe, command, octets, session.wire.read()), session.wire)
        session.note(exchange)
        return exchange

    def _prelude(self, probe: Probe, session: Session, template: str, command: str) -> Exchange:
        exchange = self._say(probe.name, session, self.facts.fill(template + "\r\n"), command)
        if session.used and _is_end(exchange):
            raise Ended
        return exchange

    # --- steps

    def _perform(self, probe: Probe, session: Session, step: Step) -> list[Exchange]:
        taken = self._read_unasked(probe.name, session)
        if session.over:
            return taken
        pieces = [self._filled(probe, piece) for piece in step.pieces]
        said = 0
        if step.halting and not self.facts.offers("PIPELINING"):
            said = 1
            session.wire.write(pieces[0])
            if session.wire.has_spoken(min(_MOMENT, self._target.timeout)):
                return [*taken, self._early(probe, session, step, pieces[0])]
        session.wire.write(b"".join(pieces[said:]))
        outcomes = self._drain(session) if step.to_the_end else self._replies(session, len(step.commands))
        replies = sum(isinstance(outcome, Answer) for outcome in outcomes)
        for number, outcome in enumerate(outcomes):
            asked = number < len(step.commands) and replies <= len(step.commands)
            command = step.commands[number] if asked else NOBODY
            sent = b"".join(pieces[number : None if outcome is outcomes[-1] else number + 1])
            exchange = Exchange(probe.name, command, sent, outcome, piped=number > 0)
            taken.append(self._log(exchange, session.wire))
            session.note(exchange)
        if taken[-1].outcome == Lost(Loss.SILENT) and not step.to_the_end:
            self._wake(probe, session)
        return taken

    def _early(self, probe: Probe, session: Session, step: Step, sent: bytes) -> Exchange:
        exchange = Exchange(probe.name, step.commands[0], sent, session.wire.read(), early=True)
        session.note(exchange)
        return self._log(exchange, session.wire)

    def _filled(self, probe: Probe, template: str) -> bytes:
        facts = replace(self.facts, fields={**self.facts.fields, "headers": _headers(self.facts, probe.name)})
        return facts.fill(template)

    def _replies(self, session: Session, count: int) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while len(outcomes) < count and not (outcomes and _ends(outcomes[-1])):
            outcomes.append(session.wire.read())
        return outcomes

    def _drain(self, session: Session) -> list[Outcome]:
        end = monotonic() + 2 * self._target.timeout
        outcomes = [session.wire.read()]
        while isinstance(last := outcomes[-1], Answer) and len(outcomes) < _DRAINED and monotonic() < end:
            if last.code == 221 and self._lingers:
                outcomes.append(Lost(Loss.SILENT))
                break
            outcomes.append(session.wire.read())
        self._lingers = self._lingers or outcomes[-1] == Lost(Loss.SILENT)
        session.over = True
        return outcomes

    def _wake(self, probe: Probe, session: Session) -> None:
        """No reply came. Does a further command bring two, or only its own? Then the first was swallowed.

        Nothing is concluded from a server that takes its time: what comes late may be the reply to the first.
        """
        start = monotonic()
        session.wire.write(b"NOOP\r\n")
        first = self._log(Exchange(probe.name, NOBODY, b"NOOP\r\n", session.wire.read()), session.wire)
        if first.code not in (0, 421) and monotonic() - start < _PROMPT * self._target.timeout:
            second = Exchange(probe.name, "NOOP", b"", session.wire.read())
            if not _closed(second):
                self._log(second, session.wire)

    def _read_unasked(self, probe: str, session: Session) -> list[Exchange]:
        """A reply that nobody asked for must not be taken for that to the next command."""
        found: list[Exchange] = []
        while session.wire.has_spoken() and not session.over and len(found) < _DRAINED:
            exchange = self._log(Exchange(probe, NOBODY, b"", session.wire.read()), session.wire)
            session.note(exchange)
            found.append(exchange)
        return found

    def _log(self, exchange: Exchange, wire: Wire) -> Exchange:
        outcome = exchange.outcome
        if exchange.code == 421:
            exchange = replace(exchange, closes=wire.ends())
        if exchange.command == "EHLO" and exchange.code == 250 and isinstance(outcome, Answer):
            self._learn_keywords(outcome)
        self.log.append(exchange)
        return exchange


def _ends(outcome: Outcome) -> bool:
    return isinstance(outcome, Lost) or outcome.code == 421


def _closed(exchange: Exchange) -> bool:
    return isinstance(exchange.outcome, Lost) and exchange.outcome.loss is Loss.CLOSED


def _is_end(exchange: Exchange) -> bool:
    return exchange.code == 421 or _closed(exchange)


def _premise(step: Step, tail: Sequence[Exchange]) -> str | None:
    """What is wrong with the replies that a step must have had."""
    for exchange in tail:
        if step.premise and exchange.command != NOBODY and exchange.code // 100 != step.premise:
            return f"needs a {step.premise}yz to {exchange.command}, which was {exchange.answered}"
    return None


# --- what the templates are filled in from


def _fields(target: Target) -> dict[str, str]:
    mailbox = target.mailbox or ""
    return {
        "helo": target.helo or "",
        "sender": target.sender,
        "mailbox": mailbox,
        "mailbox_domain": mailbox.rpartition("@")[2],
        "server": "",
        "literal": "",
        "mechanism": "",
    }


def _headers(facts: Facts, name: str) -> str:
    """A header section that says what the message is."""
    author = facts.fields["sender"] or f"postmaster@{facts.fields['helo']}"
    return (
        f"From: <{author}>\r\nTo: <{facts.fields['mailbox']}>\r\n"
        f"Subject: [pillarbox conform] {name}\r\nDate: {formatdate(localtime=True)}\r\n"
        "Auto-Submitted: auto-generated\r\n"
    )


def _own_name(ours: str) -> str:
    """RFC 5321 section 4.1.4: our name where it is a full one, else our address."""
    name = socket.gethostname()
    try:
        return str(Domain.parse(name)) if "." in name else _literal(ours)
    except AddressError:
        return _literal(ours)


def _literal(address: str) -> str:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return f"[IPv6:{ip}]" if ip.version == 6 else f"[{ip}]"


def _keywords(answer: Answer) -> Mapping[str, str]:
    words = (text.rstrip(" ").partition(" ") for text in answer.texts[1:])
    return {keyword.upper(): parameters for keyword, _, parameters in words}
