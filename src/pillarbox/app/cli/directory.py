"""`pillarbox domain`, `user`, `alias`, `forward` and `list`: who is here, and where addresses lead."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pillarbox.app.cli import users
from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_family, add_verb
from pillarbox.app.cli.output import as_json, table
from pillarbox.app.words import ANNOUNCE, MAY_POST, MAY_SEE, MOVED


def register(verbs: Group) -> None:
    _register_domain(verbs)
    users.register(verbs)
    _register_alias(verbs)
    _register_forward(verbs)
    _register_list(verbs)


def _register_domain(verbs: Group) -> None:
    domain = add_family(verbs, "domain", "the domains whose mail is taken here")
    parser = add_verb(domain, "add", _domain_add, "take mail for a domain")
    parser.add_argument("domain", metavar="DOMAIN")
    parser.add_argument(
        "--relay", action="store_true", help="nobody is in it here: its mail is taken from anyone and passed on"
    )
    add_verb(domain, "remove", _domain_remove, "no longer take mail for a domain").add_argument(
        "domain", metavar="DOMAIN"
    )
    add_verb(domain, "list", _domain_list, "show the domains")


def _register_alias(verbs: Group) -> None:
    alias = add_family(verbs, "alias", "addresses that lead to others, silently")
    parser = add_verb(alias, "add", _alias_add, "make an alias")
    parser.add_argument("address", metavar="ADDRESS", help="local@domain, or @domain for all that is not known there")
    parser.add_argument("targets", metavar="TARGET", nargs="+", help="where its mail goes")
    _address(add_verb(alias, "remove", _alias_remove, "forget an alias"))
    add_verb(alias, "list", _alias_list, "show the aliases")


def _register_forward(verbs: Group) -> None:
    forward = add_family(verbs, "forward", "addresses of which clients are told where their mail goes")
    parser = _address(add_verb(forward, "add", _forward_add, "tell clients where the mail of an address goes"))
    parser.add_argument("targets", metavar="TARGET", nargs="+", help="where its mail goes; one, with --moved")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--announce",
        dest="how",
        action="store_const",
        const=ANNOUNCE,
        help="its mail is forwarded, and the client told so with 251; this or --moved is required",
    )
    how.add_argument(
        "--moved",
        dest="how",
        action="store_const",
        const=MOVED,
        help="its mail is refused with 551, which tells the client the new address",
    )
    _address(add_verb(forward, "remove", _forward_remove, "forget a forward"))
    add_verb(forward, "list", _forward_list, "show the forwards")


def _register_list(verbs: Group) -> None:
    mailing_list = add_family(verbs, "list", "mailing lists")
    parser = _members(add_verb(mailing_list, "add", _list_add, "make a mailing list"), "who gets its mail")
    parser.add_argument(
        "--expn",
        choices=MAY_SEE,
        default="members",
        metavar="WHO",
        help=f"who may see the members: {', '.join(MAY_SEE)} (default members)",
    )
    parser.add_argument(
        "--post",
        choices=MAY_POST,
        default="anyone",
        metavar="WHO",
        help=f"who may write to them: {', '.join(MAY_POST)} (default anyone)",
    )
    _address(add_verb(mailing_list, "remove", _list_remove, "forget a mailing list"))
    add_verb(mailing_list, "list", _list_list, "show the mailing lists")
    _address(add_verb(mailing_list, "show", _list_show, "show all about a mailing list"))
    _members(add_verb(mailing_list, "join", _list_join, "put members into a mailing list"), "who joins")
    _members(add_verb(mailing_list, "leave", _list_leave, "take members out of a mailing list"), "who leaves")


def _address(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("address", metavar="ADDRESS")
    return parser


def _members(parser: ArgumentParser, help: str) -> ArgumentParser:
    _address(parser).add_argument("members", metavar="MEMBER", nargs="+", help=help)
    return parser


# --- domains


def _domain_add(options: Namespace) -> int:
    args = {"domain": options.domain, "relay": options.relay}
    return _changed(options, "domain_add", args, f"added {options.domain}")


def _domain_remove(options: Namespace) -> int:
    return _changed(options, "domain_remove", {"domain": options.domain}, f"removed {options.domain}")


def _domain_list(options: Namespace) -> int:
    data = ask(options.config, "domain_list", {})
    if options.json:
        print(as_json(data))
    elif data:
        print(table((row["domain"], *_relay_words(row)) for row in data))
    return 0


def _relay_words(row: dict[str, object]) -> tuple[str, str]:
    if not row.get("relay"):
        return "", ""
    return "relay", f"owned by {row['owner']}" if "owner" in row else ""


# --- aliases and forwards


def _alias_add(options: Namespace) -> int:
    args = {"address": options.address, "targets": options.targets}
    return _changed(options, "alias_add", args, f"added {options.address}")


def _alias_remove(options: Namespace) -> int:
    return _changed(options, "alias_remove", {"address": options.address}, f"removed {options.address}")


def _alias_list(options: Namespace) -> int:
    return _listed(options, "alias_list", ("address", "targets"))


def _forward_add(options: Namespace) -> int:
    args = {"address": options.address, "targets": options.targets, "how": options.how}
    return _changed(options, "forward_add", args, f"added {options.address}")


def _forward_remove(options: Namespace) -> int:
    return _changed(options, "forward_remove", {"address": options.address}, f"removed {options.address}")


def _forward_list(options: Namespace) -> int:
    return _listed(options, "forward_list", ("address", "how", "targets"))


# --- lists


def _list_add(options: Namespace) -> int:
    args = {"address": options.address, "members": options.members, "expn": options.expn, "post": options.post}
    return _changed(options, "list_add", args, f"added {options.address}")


def _list_remove(options: Namespace) -> int:
    return _changed(options, "list_remove", {"address": options.address}, f"removed {options.address}")


def _list_list(options: Namespace) -> int:
    return _listed(options, "list_list", ("address", "expn", "post", "members"))


def _list_show(options: Namespace) -> int:
    data = ask(options.config, "list_show", {"address": options.address})
    if options.json:
        print(as_json(data))
    else:
        print(f"address: {data['address']}\nexpn: {data['expn']}\npost: {data['post']}\nmembers:")
        print("\n".join(f"  {member}" for member in data["members"]))
    return 0


def _list_join(options: Namespace) -> int:
    return _membership(options, "list_join", "joined")


def _list_leave(options: Namespace) -> int:
    return _membership(options, "list_leave", "left")


def _membership(options: Namespace, verb: str, done: str) -> int:
    args = {"address": options.address, "members": options.members}
    return _changed(options, verb, args, f"{', '.join(options.members)} {done} {options.address}")


# --- what they share


def _changed(options: Namespace, verb: str, args: dict[str, object], done: str) -> int:
    data = ask(options.config, verb, args)
    print(as_json(data) if options.json else done)
    return 0


def _listed(options: Namespace, verb: str, columns: tuple[str, ...]) -> int:
    data = ask(options.config, verb, {})
    if options.json:
        print(as_json(data))
    elif data:
        print(table([_cell(row[column]) for column in columns] for row in data))
    return 0


def _cell(value: object) -> object:
    return " ".join(value) if isinstance(value, list) else value
