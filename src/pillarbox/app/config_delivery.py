"""What `[[route]]` and `[retry]` say: where mail goes, and when it is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from pillarbox.app import config_keys as keys
from pillarbox.app import config_values as kinds
from pillarbox.engine.patterns import HeaderPattern
from pillarbox.engine.retry import Ambiguity, RetrySchedule
from pillarbox.engine.routing import AWAY, LineEnd, NextHop, Pipe, Route, TlsPolicy


@dataclass(frozen=True, kw_only=True)
class RouteConfig:
    """Where some mail goes. The first route of which all that it asks for holds wins; with none, mail for local domains
    goes to `maildir`, all else to `mx`."""

    match: str | None = keys.one(
        "match",
        kinds.recipient_pattern(),
        None,
        "The recipients it is for: a domain, a pattern of domains, or one address. It may be left out where `sender` "
        "or `header` is given; then it is for all whose mail would go to `mx` without any route, and so for no mailbox "
        "here.",
    )
    sender: str | None = keys.one(
        "sender",
        kinds.sender_pattern(),
        None,
        "The messages it is for, by the address that MAIL gave; behind a list, that of its owner. Where several of "
        "`match`, `sender` and `header` are given, all must hold.",
    )
    header: HeaderPattern | None = keys.one(
        "header",
        kinds.header_pattern(),
        None,
        "The messages it is for, by a header field as it stands there, unfolded and without regard to case; of one "
        "that stands there twice, the first. It is kept when a message is accepted, so a route that asks for another "
        "field than before is for mail that comes after that.",
    )
    next_hop: NextHop = keys.one(
        "next_hop",
        kinds.next_hop(),
        keys.REQUIRED,
        "`mx`: the mail exchangers that DNS names. `smtp://HOST:PORT`: that host, whatever DNS says. "
        "`lmtp://HOST:PORT` and `lmtp:unix:PATH`: a server that speaks LMTP; without a port it is 24. "
        "`maildir`: a mailbox below `data`. `pipe`: the program that `command` names. `discard`: taken and thrown "
        "away, with a record. `turn`: kept until who owns the domain comes for it, by TURN or ATRN; the default of a "
        "relay domain that a user owns. `hold`: not tried before an operator releases it by `pillarbox queue release`; "
        "then it goes by the first other route that matches.",
    )
    tls: TlsPolicy = keys.one(
        "tls",
        kinds.choice(TlsPolicy),
        "opportunistic",
        "How the connection to the next hop is protected. `opportunistic`: by TLS where it is offered, whatever the "
        "certificate. `required`: by TLS, whatever the certificate, or not at all. `verified`: the certificate must be "
        "good for the host, too. `off`: never.",
    )
    credentials: kinds.SecretSource | None = keys.one(
        "credentials",
        kinds.secret(),
        None,
        "A file, or with `env:NAME` a variable of the environment, that holds the user and, on the second line, the "
        "password for AUTH at the next hop. They are sent under TLS and to this machine only.",
    )

    pool: str | None = keys.one(
        "pool",
        kinds.label(),
        None,
        "The [[pool]] from whose addresses the next hop is reached. Default: as the system chooses.",
    )
    traffic: str | None = keys.one(
        "class",
        kinds.label(),
        None,
        "A word of your own for this mail, such as `bulk`: mail of another class, or of none, to the same next hop has "
        "connections and limits of its own, so that neither waits for the other.",
    )
    command: tuple[str, ...] = keys.list(
        "command",
        kinds.command_word(),
        (),
        'What `next_hop = "pipe"` runs, once for each recipient: the program with its full path, and its arguments. No '
        "shell sees it. A word that an address would turn into an option is an error of that recipient, unless the "
        "word `--` stands before it.",
    )
    timeout: float = keys.one(
        "timeout",
        kinds.duration(),
        "60s",
        'How long a run of `next_hop = "pipe"` may take. Then it is killed, with all that it started, and tried again '
        "later.",
    )
    line_end: LineEnd = keys.one(
        "line_end",
        kinds.choice(LineEnd),
        "lf",
        'How the lines of the message end for `next_hop = "pipe"`.',
    )

    def route(self) -> Route:
        credentials = None if self.credentials is None else str(self.credentials)
        next_hop = self.next_hop
        if isinstance(next_hop, Pipe):
            next_hop = Pipe(self.command, self.timeout, self.line_end)
        return Route(
            match=AWAY if self.match is None else self.match,
            next_hop=next_hop,
            tls=self.tls,
            credentials=credentials,
            sender=self.sender,
            header=self.header,
            pool=self.pool,
            traffic=self.traffic,
        )


@dataclass(frozen=True)
class RetryConfig:
    """When a message that could not be delivered is tried again, and for how long."""

    schedule: tuple[float, ...] = keys.list(
        "schedule",
        kinds.duration(),
        ("5m", "15m", "30m", "1h", "2h", "4h"),
        "The pause after each failed attempt; the last one repeats.",
        least=1,
    )
    give_up: float = keys.one(
        "give_up",
        kinds.duration(),
        "5d",
        "How long after it was accepted a message is given up; its sender gets a notice.",
    )
    warn: float = keys.one(
        "warn",
        kinds.duration(least=0),
        "4h",
        "How long after it was accepted the sender of a message is told, once, that it is still not delivered. With "
        '"0s" nobody is.',
    )

    ambiguous: Ambiguity = keys.one(
        "ambiguous",
        kinds.choice(Ambiguity),
        "retry",
        "What is done with a message that was maybe delivered: sent to its end, and then the connection was lost "
        "before the reply to it came. `retry`: it is sent once more by the schedule, so that it may arrive twice. "
        "`hold`: it is held until an operator releases, drops or bounces it. `ask`: its sender gets a notice that it "
        "may have arrived, and it is sent once more after `ask_for`; for a sender who must not be told, it is as with "
        "`retry`.",
    )
    ask_for: float = keys.one(
        "ask_for",
        kinds.duration(),
        "4h",
        'How long a message that was maybe delivered waits before it is sent once more, with `ambiguous = "ask"`: the '
        "time in which its sender can tell the operator that it has arrived.",
    )

    def policy(self) -> RetrySchedule:
        return RetrySchedule(
            intervals=self.schedule,
            give_up=self.give_up,
            warn=self.warn or None,
            ambiguous=self.ambiguous,
            ask_for=self.ask_for,
        )
