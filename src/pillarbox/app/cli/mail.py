"""`pillarbox send`: submit a message from this machine."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.cli.output import as_json
from pillarbox.app.control import Refused


def register(verbs: Group) -> None:
    send = add_verb(verbs, "send", _send, "submit a message")
    send.add_argument(
        "--from", dest="sender", required=True, metavar="ADDRESS", help="the sender; '<>' for the null reverse-path"
    )
    send.add_argument(
        "--to", dest="recipients", action="append", required=True, metavar="ADDRESS", help="a recipient; may repeat"
    )
    send.add_argument("file", nargs="?", metavar="FILE", help="the message (default, and -: standard input)")


def _send(options: Namespace) -> int:
    args = {"sender": options.sender, "recipients": options.recipients}
    data = ask(options.config, "send", args, _text(options.file))
    print(as_json(data) if options.json else f"queued as {data['id']}")
    return 0


def _text(file: str | None) -> bytes:
    if file is None or file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from error
