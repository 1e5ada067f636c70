"""`pillarbox turn`, `atrn`, `etrn`: fetch what another host holds for us."""

from __future__ import annotations

import sys
from argparse import Namespace

from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.cli.output import as_json, visible

_VERBS = {
    "turn": "fetch the mail that a host holds for all our domains there (TURN)",
    "atrn": "fetch the mail that a host holds for our domains, or for those named (ATRN)",
    "etrn": "ask a host to start the delivery of the mail for these domains (ETRN)",
}


def register(verbs: Group) -> None:
    for verb, help in _VERBS.items():
        parser = add_verb(verbs, verb, _fetch, f"{help}; done by the running server")
        parser.add_argument("host", metavar="HOST:PORT", help="the host; without a port, that of the protocol")
        parser.add_argument("--user", metavar="USER", help="who logs in there")
        parser.add_argument("--password-stdin", action="store_true", help="the password is the first line of the input")
        if verb != "turn":
            nargs = "+" if verb == "etrn" else "*"
            parser.add_argument("domains", metavar="DOMAIN", nargs=nargs, help="the domains that are meant")
        parser.set_defaults(fetch_verb=verb, domains=[])


def _fetch(options: Namespace) -> int:
    password = sys.stdin.readline().rstrip("\r\n") if options.password_stdin else None
    args = {
        "verb": options.fetch_verb,
        "host": options.host,
        "domains": list(options.domains),
        "user": options.user,
        "password": password,
    }
    data = ask(options.config, "fetch", args)
    if options.json:
        print(as_json(data))
        return 0
    for line in data["reply"].splitlines():
        print(f"{data['host']}: {visible(line)}")
    if options.fetch_verb != "etrn":
        print(f"{data['messages']} messages came in")
    return 0
