"""Which rule a reply meets, and what it does: replies as the field has them, by the rules that the program has."""

from __future__ import annotations

import pytest

from pillarbox.app.config_shaping import built_in
from pillarbox.core.reply import EnhancedCode
from pillarbox.engine.mail import Ambiguous, Deferred, Delivered, Failed, Kept, Outcome, Stopped
from pillarbox.engine.shaping import Rules
from pillarbox.engine.shaping_rules import (
    MAX_TEXT,
    Action,
    Fault,
    Heard,
    Rule,
    check_code,
    check_status,
    compiled,
    first_match,
    heard,
    reply_heard,
)

HOP = "mx.far.example [192.0.2.1]"
LOWER, RATE, NONE = Action.LOWER_CONNECTIONS, Action.RATE, Action.NONE

REPLIES = [
    # greylisting slows nothing
    ("450 4.2.0 <bob@far.example>: Recipient address rejected: Greylisted, see http://postgrey.example", NONE),
    ("451 4.7.1 Greylisting in action, please come back later", NONE),
    ("450 4.7.1 <bob@far.example>: Recipient address rejected: Greylisting in effect, please come back later", NONE),
    ("451 4.7.1 Please try again later (TRIPLET)", NONE),
    ("451 Graylisted, please try again in 300 seconds", NONE),
    ("450 4.3.2 Greylisted, too many first contacts, try later", NONE),
    ("421 4.7.0 greylisting: too many connections is not what this is about", NONE),
    ("451 4.3.0 <bob@far.example> is not yet authorized to deliver mail from <a@b.example>", NONE),
    ("450 4.7.1 Deferred for unknown sender, retry in 600 seconds", NONE),
    ("451 4.7.1 Try again later", NONE),
    ("450 4.7.1 Please try again in 5 minutes", NONE),
    ("450 4.2.0 Later", NONE),
    ("451 First-time sender, try again", NONE),
    # too many at a time
    ("421 4.7.0 mx.far.example Error: too many connections from 192.0.2.7", LOWER),
    ("421 Too many concurrent SMTP connections; please try again later.", LOWER),
    (
        "421 4.3.2 The maximum number of concurrent connections has exceeded a limit, closing transmission channel",
        LOWER,
    ),
    ("421 4.4.5 Too many simultaneous connections", LOWER),
    ("452 4.3.2 Connection rate limit: too many open connections", LOWER),
    ("421 Too many connections from your host", LOWER),
    ("421 4.7.0 Maximum number of connections from 192.0.2.7 reached", LOWER),
    ("450 too many sessions (3) for this host", LOWER),
    ("554 Transaction failed, too many connections", LOWER),
    ("421 4.2.1 Connections from 192.0.2.7 exceed the limit", LOWER),
    ("554 5.7.1 Too many connections from your IP", LOWER),
    ("421 concurrency limit exceeded", LOWER),
    # too much in a time
    (
        "421 4.7.0 Our system has detected an unusual rate of unsolicited mail originating from your IP address. To "
        "protect our users from spam, mail sent from your IP address has been temporarily rate limited. - gsmtp",
        RATE,
    ),
    ("421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your SPF domain", RATE),
    ("421 4.7.26 Your email has been rate limited because it is unauthenticated. Gmail requires SPF or DKIM.", RATE),
    ("421 4.7.32 Your email has been rate limited because the From: header isn't aligned", RATE),
    (
        "421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred due to unexpected volume or user complaints - "
        "4.16.55.1; see https://postmaster.example/error-codes",
        RATE,
    ),
    ("421 4.7.1 [TS03] All messages from 192.0.2.7 will be permanently deferred; Retrying will NOT succeed.", RATE),
    ("421 RP-001 The mail server IP connecting to the server has exceeded the rate limit allowed.", RATE),
    ("421 RP-002 The mail server has exceeded the connection limit allowed on this connection.", LOWER),
    ("451 4.7.650 The mail server [192.0.2.7] has been temporarily rate limited due to IP reputation. (S775)", RATE),
    ("451 4.7.500 Server busy. Please try again later from [192.0.2.7]. (AS77712)", RATE),
    ("432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded", RATE),
    ("421 4.7.0 [CS01] Message rejected due to local policy", RATE),
    ("421 4.1.0 192.0.2.7 Throttled - try again later. Please see https://postmaster.example/#RL000001", RATE),
    ("421 E1234 AUP#In-1310 sending limit", RATE),
    ("450 4.7.1 Error: too much mail from 192.0.2.7", RATE),
    ("450 4.7.1 <client[192.0.2.7]>: Client host rejected: rate limit exceeded", RATE),
    ("421 4.7.0 You are sending too fast, slow down", RATE),
    ("451 4.7.0 Message rate limit exceeded, try again later", RATE),
    ("452 4.7.1 Hourly limit of messages exceeded: 500 messages per hour", RATE),
    ("421 Service throttled", RATE),
    ("450 4.7.0 Too many messages from your network, try later", RATE),
    ("550 5.7.1 Daily sending quota exceeded", RATE),
    # the server has too much to do
    ("451 Resources temporarily unavailable. Please try again later [#4.16.5].", RATE),
    ("452 4.3.1 Insufficient system storage", RATE),
    ("421 4.3.1 Insufficient system resources (UsedDiskSpace)", RATE),
    ("421 4.3.2 System load is too high: load average 42", RATE),
    ("421 4.4.5 Server busy, try again later.", RATE),
    ("451 4.3.2 Mail server is temporarily busy; overloaded", RATE),
    ("421 4.3.2 Service not available, closing transmission channel", LOWER),
    ("421 4.3.2 All server ports are busy", RATE),
    ("421 mx.far.example Service shutting down", LOWER),
    ("451 4.3.0 Temporary lookup failure", LOWER),
    ("451 4.3.5 Server configuration problem: internal error", LOWER),
    ("451 4.7.1 Service unavailable - rspamd timeout, scanner not there", LOWER),
    ("451 4.3.0 Temporary system problem. Try again later", LOWER),
    ("421 4.7.0 Try again later, closing connection.", RATE),
    ("421 4.7.0 try later", LOWER),
    ("421 Goodbye", LOWER),
    ("450 4.3.0 Not now", LOWER),
    ("450 4.4.1 No route", LOWER),
    # reputation at most lowers the connections
    ("554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org", LOWER),
    ("550 5.7.1 Blocked - see https://www.spamcop.net/bl.shtml?192.0.2.7", LOWER),
    ("550 5.7.606 Access denied, banned sending IP [192.0.2.7]", LOWER),
    (
        "550 5.7.1 Unfortunately, messages from [192.0.2.7] weren't sent. Part of their network is on our block list",
        LOWER,
    ),
    ("451 4.7.550 Access denied, please try again later", LOWER),
    ("421 4.7.0 Messages from 192.0.2.7 temporarily deferred", LOWER),
    ("554 5.7.1 Your IP has a poor reputation: see senderscore", LOWER),
    ("450 4.7.1 Client host blocked using dnsbl.far.example", LOWER),
    ("421 4.7.1 Your host is temporarily blocked", LOWER),
    # one recipient's matter, or one message's
    ("450 4.2.1 The user you are trying to contact is receiving mail too quickly.", NONE),
    (
        "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages",
        NONE,
    ),
    ("452 4.2.2 The email account that you tried to reach is over quota", NONE),
    ("452 4.2.2 Mailbox full", NONE),
    ("552 5.2.2 Mailbox quota exceeded", NONE),
    ("450 4.2.2 Quota exceeded (mailbox for user is full)", NONE),
    ("450 4.2.0 Mailbox is busy", NONE),
    ("452 4.5.3 Error: too many recipients", NONE),
    (
        "452 4.5.3 Domain policy size per transaction exceeded, please try this recipient in a separate transaction.",
        NONE,
    ),
    (
        "450 4.1.1 <bob@far.example>: Recipient address rejected: unverified address: Address verification in progress",
        NONE,
    ),
    ("450 4.1.8 <a@b.example>: Sender address rejected: Domain not found", NONE),
    ("450 4.7.25 Client host rejected: cannot find your hostname, reverse lookup failed", NONE),
    ("550 5.1.1 <throttle@far.example>: Recipient address rejected: User unknown", NONE),
    ("550 <spamhaus@far.example> no such user", NONE),
    ("550 5.1.1 No such user", NONE),
    ("550 5.4.1 Recipient address rejected: Access denied", NONE),
    ("554 5.7.1 This message has been detected as spam", NONE),
    ("550 5.7.26 Unauthenticated email from b.example is not accepted due to the domain's DMARC policy", NONE),
    ("421 4.7.0 Too many messages in this session", NONE),
    ("535 5.7.8 Authentication credentials invalid", NONE),
    ("450 Hm", NONE),
    ("599 5.0.0 Never", NONE),
]


def said(text: str) -> Outcome:
    status = EnhancedCode(int(text[0]), 0, 0)
    kind = Failed if text[0] == "5" else Deferred
    return kind(text, HOP, status, remote=True)


def met(text: str) -> Rule:
    (what,) = heard(said(text))
    rule = first_match(built_in_rules(), what)
    assert rule is not None
    return rule


RULES: list[Rule] = []


def built_in_rules() -> list[Rule]:
    RULES[:] = RULES or built_in()
    return RULES


def test_there_are_replies_enough() -> None:
    assert len(REPLIES) >= 60


@pytest.mark.parametrize(("text", "action"), REPLIES, ids=lambda each: str(each)[:40])
def test_what_a_reply_does(text: str, action: Action) -> None:
    rule = met(text)
    assert rule.action is action, rule.name


@pytest.mark.parametrize(("text", "action"), [each for each in REPLIES if each[0].startswith("5")])
def test_a_refusal_for_good_never_stops_a_lane(text: str, action: Action) -> None:
    assert met(text).action is not Action.PAUSE


def test_every_built_in_rule_has_its_own_name_and_says_what_it_does() -> None:
    rules = built_in_rules()
    assert len({rule.name for rule in rules}) == len(rules)
    assert all(rule.effect and rule.matched for rule in rules)


UNREACHABLE = EnhancedCode(4, 4, 1)
LOST = EnhancedCode(4, 4, 2)
REACHED = "no host for far.example could be reached, the last one mx.far.example [192.0.2.1]: "

OUTCOMES: list[tuple[Outcome, list[Fault | int]]] = [
    (Deferred(f"{REACHED}[Errno 111] Connect call failed ('192.0.2.1', 25)", HOP, UNREACHABLE), [Fault.CONNECTION]),
    (Deferred(f"{REACHED}no connection in time", HOP, UNREACHABLE), [Fault.TIMEOUT]),
    (Deferred(f"{REACHED}TimeoutError", HOP, UNREACHABLE), [Fault.TIMEOUT]),
    (Deferred(f"{REACHED}421 4.7.0 Too many connections", HOP, UNREACHABLE), [421, Fault.REFUSED]),
    (Deferred(f"{REACHED}554 No", HOP, UNREACHABLE), [554, Fault.REFUSED]),
    (Deferred(f"{REACHED}TLS is required here: 454 4.7.0 Not now", HOP, UNREACHABLE), [454, Fault.REFUSED]),
    (Deferred(f"{REACHED}TLS is required here, and the server does not offer it", HOP, UNREACHABLE), [Fault.TLS]),
    (Deferred("no host for far.example has an address", HOP, UNREACHABLE), [Fault.DNS]),
    (Deferred("MX of far.example: SERVFAIL", HOP, EnhancedCode(4, 4, 3)), [Fault.DNS]),
    (Deferred("no answer in time", HOP, LOST), [Fault.TIMEOUT]),
    (Deferred("connection closed by the server", HOP, LOST), [Fault.LOST]),
    (Ambiguous("maybe delivered: connection closed by the server", HOP, LOST), [Fault.LOST]),
    (Deferred("450 4.2.0 Later", HOP, EnhancedCode(4, 2, 0), remote=True), [450]),
    (Failed("550 5.1.1 No", HOP, EnhancedCode(5, 1, 1), remote=True), [550]),
    (Failed("domain far.example does not exist", HOP, EnhancedCode(5, 1, 2)), []),
    (Failed("far.example accepts no mail (null MX)", HOP, EnhancedCode(5, 1, 10)), []),
    (Deferred("internal error", HOP, EnhancedCode(4, 3, 0)), []),
    (Delivered("250 2.0.0 Ok", HOP), []),
    (Kept("kept", HOP, UNREACHABLE), []),
    (Stopped("stopped", HOP, LOST), []),
]


@pytest.mark.parametrize(("outcome", "expected"), OUTCOMES, ids=lambda each: str(each)[:60])
def test_what_is_heard_of_an_outcome(outcome: Outcome, expected: list[Fault | int]) -> None:
    assert [each.fault or each.code for each in heard(outcome)] == expected


def test_a_refusal_is_heard_as_the_server_said_it() -> None:
    reply, fault = heard(Deferred(f"{REACHED}421 4.7.0 Too many: 450 is no code here", HOP, UNREACHABLE))
    assert reply == Heard("421 4.7.0 Too many: 450 is no code here", 421, EnhancedCode(4, 7, 0))
    assert fault.text == reply.text


@pytest.mark.parametrize(
    ("rule", "text", "matches"),
    [
        (Rule("r", NONE, codes=("421",)), "421 x", True),
        (Rule("r", NONE, codes=("421",)), "422 x", False),
        (Rule("r", NONE, codes=("45z", "421")), "459 x", True),
        (Rule("r", NONE, codes=("4yz",)), "499 x", True),
        (Rule("r", NONE, codes=("4yz",)), "500 x", False),
        (Rule("r", NONE, statuses=("4.7.*",)), "450 4.7.12 x", True),
        (Rule("r", NONE, statuses=("4.7.1",)), "450 4.7.12 x", False),
        (Rule("r", NONE, statuses=("4.7.1",)), "450 x", False),
        (Rule("r", NONE, statuses=("4.*.1",)), "450 4.3.1 x", True),
        (Rule("r", NONE, text=compiled("TOO many")), "450 Too Many", True),
        (Rule("r", NONE, codes=("421",), text=compiled("many")), "450 many", False),
        (Rule("r", NONE, text=compiled("end")), "450 " + "x" * MAX_TEXT + "end", False),
        (Rule("r", NONE, faults=(Fault.LOST,)), "450 lost", False),
    ],
)
def test_what_a_rule_matches(rule: Rule, text: str, *, matches: bool) -> None:
    assert rule.matches(reply_heard(text)) is matches


def test_a_rule_for_faults_may_read_their_text() -> None:
    rule = Rule("r", Action.PAUSE, faults=(Fault.CONNECTION,), text=compiled("refused"))
    assert rule.matches(Heard("connection refused", fault=Fault.CONNECTION))
    assert not rule.matches(Heard("no route", fault=Fault.CONNECTION))
    assert not rule.matches(Heard("connection refused", fault=Fault.LOST))


def test_rules_are_for_their_lanes() -> None:
    one = Rule("one", NONE, codes=("4yz",), lanes=("mx:*.far.example", "smtp:*"))
    rules = Rules([one, Rule("all", LOWER, codes=("4yz",))])
    assert [rule.name for rule in rules.for_lane("mx:a.far.example")] == ["one", "all"]
    assert [rule.name for rule in rules.for_lane("SMTP:[::1]:25")] == ["one", "all"]
    assert [rule.name for rule in rules.for_lane("mx:far.example.org")] == ["all"]


@pytest.mark.parametrize(
    "pattern", ["too many", r"a{2,3}b*", "(?:ab)+", r"[*+]+x", r"(?:a|b)?c", r"\(a+\)+", "(?P<n>x)"]
)
def test_a_sound_pattern(pattern: str) -> None:
    assert compiled(pattern).pattern == pattern


@pytest.mark.parametrize(
    "pattern",
    ["", "x" * 700, "(", "(a+)+", "((?:a*)b)*", "(a|a)*", "(?:a|b){2,}", "a.*b.*c.*d", "(a{1,9}){1,9}", "((a|b))+"],
)
def test_a_pattern_that_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError):
        compiled(pattern)


@pytest.mark.parametrize("text", ["421", "45z", "4yz", "5yz", "554"])
def test_a_code(text: str) -> None:
    assert check_code(text) == text


@pytest.mark.parametrize("text", ["", "250", "4", "42", "4xx", "4yy", "4zz", "600", "4210"])
def test_no_code(text: str) -> None:
    with pytest.raises(ValueError):
        check_code(text)


@pytest.mark.parametrize("text", ["4.7.0", "4.7.*", "4.*.*", "5.1.1"])
def test_a_status(text: str) -> None:
    assert check_status(text) == text


@pytest.mark.parametrize("text", ["", "4", "4.7", "2.0.0", "4.7.0.1", "4.*", "*.7.1", "4.1234.0"])
def test_no_status(text: str) -> None:
    with pytest.raises(ValueError):
        check_status(text)
