"""The words of sendmail(8) as programs say them, and those that nobody can obey."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillarbox.app.sendmail_words import Mode, UsageFault, Wanted, parse


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", Wanted()),
        ("-t -i", Wanted(from_header=True, dot_ends=False)),  # PHP
        ("-ti", Wanted(from_header=True, dot_ends=False)),
        (
            "-FCronDaemon -i -B8BITMIME -oem root",
            Wanted(recipients=("root",), full_name="CronDaemon", dot_ends=False),
        ),  # cron
        (
            "-i -f alice@a.test to@x to@y",
            Wanted(recipients=("to@x", "to@y"), sender="alice@a.test", dot_ends=False),
        ),  # git
        ("-oem -oi -f a@b -- to@x", Wanted(recipients=("to@x",), sender="a@b", dot_ends=False)),  # mutt
        (
            "-oi -oem -t -fa@b -N success,delay -R hdrs",
            Wanted(
                from_header=True,
                dot_ends=False,
                sender="a@b",
                notify=("success", "delay"),
                ret="hdrs",
            ),
        ),
        ("-itFName -ra@b", Wanted(from_header=True, dot_ends=False, full_name="Name", sender="a@b")),
        ("-f  to", Wanted(recipients=("to",), sender="")),
        ("-r <> -V id to", Wanted(recipients=("to",), sender="<>", envelope_id="id")),
        ("-O IgnoreDots=True -OQueueDirectory=/x to", Wanted(recipients=("to",), dot_ends=False)),
        ("-O IgnoreDots=false to", Wanted(recipients=("to",))),
        (
            "-Ac -Am -G -n -m -U -v -h 5 -L tag -X /log -p smtp -d0.1 -D/x -e m -odb -om to",
            Wanted(recipients=("to",), verbose=True),
        ),
        ("-C /etc/x.toml to", Wanted(recipients=("to",), config=Path("/etc/x.toml"))),
        (
            "-bm to -i",
            Wanted(
                recipients=(
                    "to",
                    "-i",
                )
            ),
        ),
        ("-- -odd-name", Wanted(recipients=("-odd-name",))),
        ("-", Wanted(recipients=("-",))),
        ("-bs", Wanted(mode=Mode.SMTP)),
        ("-bp", Wanted(mode=Mode.LIST)),
        ("-bv x", Wanted(recipients=("x",), mode=Mode.VERIFY)),
        ("-bi", Wanted(mode=Mode.NOTHING)),
        ("-I", Wanted(mode=Mode.NOTHING)),
        ("-q", Wanted(mode=Mode.NOTHING)),
        ("-q30m", Wanted(mode=Mode.NOTHING)),
        ("-bs -q", Wanted(mode=Mode.SMTP)),
    ],
)
def test_words(words: str, wanted: Wanted) -> None:
    assert parse(words.split(" ") if words else []) == wanted


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("-Z", "unknown option -Z"),
        ("-tZ", "unknown option -Z"),
        ("--long", "unknown option --long"),
        ("-f", "option -f needs a value"),
        ("-i -F", "option -F needs a value"),
        ("-bd", "-bd is for a server; that is `pillarbox serve`"),
        ("-bx", "unknown mode -bx"),
        ("-b", "option -b needs a value"),
        ("-t\u00fc", "unknown option -\u00fc"),
    ],
)
def test_words_that_say_nothing(words: str, complaint: str) -> None:
    with pytest.raises(UsageFault, match=complaint):
        parse(words.split())
