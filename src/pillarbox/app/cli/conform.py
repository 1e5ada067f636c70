"""`pillarbox conform`: ask any SMTP server everything that the table has, and tell how it answers.

Needs no configuration and no server of ours. Exit status 1 when a MUST is broken, and when the server can't be asked.
What asks and draws is imported when it is needed, so that other verbs need not wait for it.
"""

from __future__ import annotations

import argparse
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.cli.output import as_json
from pillarbox.app.control import Refused
from pillarbox.core.address import AddressError, Mailbox, parse_host

if TYPE_CHECKING:
    from pillarbox.app.conform.run import Report

_TARGET = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:\[\]]+)):(?P<port>\d{1,5})", re.ASCII)
_WIDTH = 110  # characters, where there is no terminal to ask


def register(verbs: Group) -> None:
    parser = add_verb(verbs, "conform", _conform, "walk the command and reply table against any SMTP server")
    parser.add_argument("target", type=_target, metavar="HOST:PORT", help="the server, such as mx.example.org:25")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report for people into a file, too")
    parser.add_argument(
        "--mailbox",
        type=_mailbox,
        metavar="ADDRESS",
        help="a mailbox there that may get a few test messages (default: none is sent)",
    )
    parser.add_argument(
        "--from",
        dest="sender",
        type=_sender,
        default="",
        metavar="ADDRESS",
        help="the sender to give (default: '<>', the null reverse-path)",
    )
    parser.add_argument(
        "--helo",
        type=_helo,
        metavar="NAME",
        help="the name to say in EHLO (default: this machine's where it is a full one, else its address)",
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="to wait for each reply (default 10)"
    )


def _conform(options: Namespace) -> int:
    from rich.console import Console

    from pillarbox.app.conform.probe import Target
    from pillarbox.app.conform.report_html import render
    from pillarbox.app.conform.report_terminal import progress
    from pillarbox.app.conform.run import conform

    host, port = options.target
    if options.html is not None:
        _check_writable(options.html)
    target = Target(
        host, port, timeout=options.timeout, helo=options.helo, sender=options.sender, mailbox=options.mailbox
    )
    try:
        with progress(Console(stderr=True)) as show:
            report = conform(target, show)
    except OSError as error:
        raise Refused(f"{target}: can't connect: {error.strerror or error}") from error
    _print(report, json=options.json)
    if options.html is not None:
        options.html.write_text(render(report), encoding="utf-8")
    if report.cut:
        print(f"pillarbox: {target}: not everything was asked: {report.cut}", file=sys.stderr)
    return 1 if report.failed else 0


def _print(report: Report, *, json: bool) -> None:
    from rich.console import Console

    from pillarbox.app.conform.report import as_data
    from pillarbox.app.conform.report_terminal import summary

    if json:
        print(as_json(as_data(report)))
        return
    width = None if sys.stdout.isatty() else _WIDTH
    Console(highlight=False, soft_wrap=True, width=width).print(summary(report))


def _check_writable(file: Path) -> None:
    """Before minutes are spent on what could not be written."""
    existed = file.exists()
    try:
        file.open("a").close()
    except OSError as error:
        raise Refused(f"{file}: can't be written: {error.strerror}") from error
    if not existed:
        file.unlink()


# --- the values of the options


def _target(text: str) -> tuple[str, int]:
    match = _TARGET.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as mx.example.org:25 or [::1]:25")
    return match["six"] or match["name"], int(match["port"])


def _mailbox(text: str) -> str:
    try:
        mailbox = str(Mailbox.parse(text))
    except AddressError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    if not mailbox.isascii():
        raise argparse.ArgumentTypeError(f"{text!r}: local part is not ASCII")
    return mailbox


def _sender(text: str) -> str:
    return "" if text in ("", "<>") else _mailbox(text)


def _helo(text: str) -> str:
    try:
        return str(parse_host(text))
    except AddressError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, and at most 3600")
    return seconds
