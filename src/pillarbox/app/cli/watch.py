"""`pillarbox watch`: be a terminal that SEND, SOML and SAML reach.

A text is acknowledged when it is written and flushed, not before: the sender's 250 rests on it.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.cli.output import as_json
from pillarbox.app.config_load import load
from pillarbox.app.control import ControlClient, NotRunning, Refused, socket_in


def register(verbs: Group) -> None:
    watch = add_verb(verbs, "watch", _watch, "show what SEND, SOML and SAML bring for a user, until Ctrl-C")
    watch.add_argument("user", metavar="USER", help="an address, or a local part")


def _watch(options: Namespace) -> int:
    client = ControlClient(socket_in(load(options.config).data))
    try:
        with client.converse("watch", {"user": options.user}) as dialog:
            user = dialog.data["user"]
            hint = f"watching {user}; SEND, SOML and SAML show here (Ctrl-C ends)"
            print(hint, file=sys.stderr, flush=True)
            while True:
                line = dialog.receive()
                text = line["text"]
                _show(as_json({"user": user, "text": text}) if options.json else text)
                dialog.send({"shown": line["show"]})
    except NotRunning as error:
        raise Refused("no server runs on this data: start one with `pillarbox serve`") from error


def _show(text: str) -> None:
    """What the encoding of standard output lacks becomes a question mark."""
    encoding = sys.stdout.encoding
    print(text.removesuffix("\n").encode(encoding, "replace").decode(encoding), flush=True)
