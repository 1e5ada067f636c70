"""`pillarbox user`: those who have a mailbox here.

A password comes from standard input or from the terminal, never from the command line, where all on the machine could
read it.
"""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_family, add_verb
from pillarbox.app.cli.output import as_json, octets, table, visible
from pillarbox.app.control import Refused


def register(verbs: Group) -> None:
    user = add_family(verbs, "user", "those who have a mailbox here")
    parser = _address(add_verb(user, "add", _add, "make a mailbox"))
    parser.add_argument("--name", default="", metavar="NAME", help='full name, such as "Alice Liddell"')
    _password_option(parser, "take the password from standard input; without one nobody can log in")
    parser.add_argument("--quota", default="", metavar="SIZE", help="more mail than this is refused: 500M")
    parser.add_argument("--soft-quota", default="", metavar="SIZE", help="from this on mail is put off: 450M")
    parser.add_argument("--operator", action="store_true", help="may ask the server for its live status")
    parser.add_argument(
        "--owns",
        action="append",
        default=[],
        metavar="DOMAIN",
        help="a relay domain whose mail waits for the user to fetch it; may repeat",
    )
    _address(add_verb(user, "remove", _remove, "forget a user; the mailbox itself stays on the disk"))
    add_verb(user, "list", _list, "show the users")
    _address(add_verb(user, "show", _show, "show all about a user"))
    _address(add_verb(user, "disable", _disable, "take no mail for a user, and let nobody log in"))
    _address(add_verb(user, "enable", _enable, "take mail for a disabled user again"))
    parser = _address(add_verb(user, "passwd", _passwd, "set the password of a user"))
    _password_option(parser, "take it from standard input instead of asking on the terminal")


def _address(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("address", metavar="ADDRESS")
    return parser


def _password_option(parser: ArgumentParser, help: str) -> None:
    parser.add_argument("--password-stdin", action="store_true", help=f"{help}; its first line")


def _add(options: Namespace) -> int:
    args = {
        "address": options.address,
        "name": options.name,
        "quota": options.quota,
        "soft_quota": options.soft_quota,
        "operator": options.operator,
        "owns": options.owns,
    }
    password = _from_stdin() if options.password_stdin else b""
    return _done(options, ask(options.config, "user_add", args, password), f"added {options.address}")


def _remove(options: Namespace) -> int:
    data = ask(options.config, "user_remove", {"address": options.address})
    done = f"removed {options.address}"
    if left := data.get("targets_of"):
        done += "".join(f"\nnote: {name} still names it" for name in left)
    return _done(options, data, done)


def _list(options: Namespace) -> int:
    data = ask(options.config, "user_list", {})
    if options.json:
        print(as_json(data))
    elif data:
        print(table((row["address"], row["name"], "" if row.get("enabled", True) else "disabled") for row in data))
    return 0


def _show(options: Namespace) -> int:
    data = ask(options.config, "user_show", {"address": options.address})
    return _done(options, data, "\n".join(_about(data)))


def _about(data: Mapping[str, Any]) -> list[str]:
    def bound(name: str) -> str:
        return "none" if data[name] is None else octets(data[name])

    return [
        f"address: {data['address']}",
        f"name: {visible(data['name'])}".rstrip(),
        f"password: {data['password']}",
        f"quota: {bound('quota')}",
        f"soft quota: {bound('soft_quota')}",
        f"enabled: {_yes(data['enabled'])}",
        f"operator: {_yes(data['operator'])}",
        f"owns: {' '.join(data['owns']) or 'nothing'}",
    ]


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _disable(options: Namespace) -> int:
    data = ask(options.config, "user_disable", {"address": options.address})
    return _done(options, data, f"disabled {options.address}")


def _enable(options: Namespace) -> int:
    data = ask(options.config, "user_enable", {"address": options.address})
    return _done(options, data, f"enabled {options.address}")


def _passwd(options: Namespace) -> int:
    password = _from_stdin() if options.password_stdin else _from_terminal(options.address)
    data = ask(options.config, "user_passwd", {"address": options.address}, password)
    return _done(options, data, f"changed the password of {options.address}")


def _done(options: Namespace, data: object, text: str) -> int:
    print(as_json(data) if options.json else text)
    return 0


# --- passwords


def _from_stdin() -> bytes:
    return _not_empty(sys.stdin.buffer.readline().rstrip(b"\r\n"))


def _from_terminal(address: str) -> bytes:
    if not sys.stdin.isatty():
        raise Refused("there is no terminal to ask on: give the password with --password-stdin", usage=True)
    password = getpass.getpass(f"Password for {address}: ")
    if password != getpass.getpass("Once more: "):
        raise Refused("the two passwords differ; nothing was changed")
    return _not_empty(password.encode())


def _not_empty(password: bytes) -> bytes:
    if not password:
        raise Refused("the password is empty; nothing was changed", usage=True)
    return password
