"""`pillarbox domain`, `user` and `alias`: who is here."""

from __future__ import annotations

from argparse import Namespace

from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_family, add_verb
from pillarbox.app.cli.output import as_json, table


def register(verbs: Group) -> None:
    domain = add_family(verbs, "domain", "the domains whose mail is delivered here")
    add_verb(domain, "add", _domain_add, "take mail for a domain").add_argument("domain", metavar="DOMAIN")
    add_verb(domain, "remove", _domain_remove, "no longer take mail for a domain").add_argument(
        "domain", metavar="DOMAIN"
    )
    add_verb(domain, "list", _domain_list, "show the domains")

    user = add_family(verbs, "user", "those who have a mailbox here")
    parser = add_verb(user, "add", _user_add, "make a mailbox")
    parser.add_argument("address", metavar="ADDRESS")
    parser.add_argument("--name", default="", metavar="NAME", help='full name, such as "Alice Liddell"')
    add_verb(user, "remove", _user_remove, "forget a user; the mailbox itself stays on the disk").add_argument(
        "address", metavar="ADDRESS"
    )
    add_verb(user, "list", _user_list, "show the users")

    alias = add_family(verbs, "alias", "addresses that lead to others, silently")
    parser = add_verb(alias, "add", _alias_add, "make an alias")
    parser.add_argument("address", metavar="ADDRESS", help="local@domain, or @domain for all that is not known there")
    parser.add_argument("targets", metavar="TARGET", nargs="+", help="where its mail goes")
    add_verb(alias, "remove", _alias_remove, "forget an alias").add_argument("address", metavar="ADDRESS")
    add_verb(alias, "list", _alias_list, "show the aliases")


def _domain_add(options: Namespace) -> int:
    return _changed(options, "domain_add", {"domain": options.domain}, f"added {options.domain}")


def _domain_remove(options: Namespace) -> int:
    return _changed(options, "domain_remove", {"domain": options.domain}, f"removed {options.domain}")


def _domain_list(options: Namespace) -> int:
    return _listed(options, "domain_list", ("domain",))


def _user_add(options: Namespace) -> int:
    args = {"address": options.address, "name": options.name}
    return _changed(options, "user_add", args, f"added {options.address}")


def _user_remove(options: Namespace) -> int:
    return _changed(options, "user_remove", {"address": options.address}, f"removed {options.address}")


def _user_list(options: Namespace) -> int:
    return _listed(options, "user_list", ("address", "name"))


def _alias_add(options: Namespace) -> int:
    args = {"address": options.address, "targets": options.targets}
    return _changed(options, "alias_add", args, f"added {options.address}")


def _alias_remove(options: Namespace) -> int:
    return _changed(options, "alias_remove", {"address": options.address}, f"removed {options.address}")


def _alias_list(options: Namespace) -> int:
    return _listed(options, "alias_list", ("address", "targets"))


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
