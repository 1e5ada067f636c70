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
    send.add_argument(
        "--idempotency-key",
        metavar="KEY",
        help="the same message with the same KEY is sent once, however often it is submitted (within "
        "limits.idempotency); in place of an Idempotency-Key field of the message",
    )
    send.add_argument("file", nargs="?", metavar="FILE", help="the message (default, and -: standard input)")


def _send(options: Namespace) -> int:
    args = {"sender": options.sender, "recipients": options.recipients}
    if options.idempotency_key is not None:
        if not options.idempotency_key:
            raise Refused("--idempotency-key is empty", usage=True)
        args["idempotency_key"] = options.idempotency_key
    data = ask(options.config, "send", args, _text(options.file))
    before = " before, with the same key" if data.get("repeated") else ""
    print(as_json(data) if options.json else f"queued as {data['id']}{before}")
    return 0


def _text(file: str | None) -> bytes:
    if file is None or file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from error
