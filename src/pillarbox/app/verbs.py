"""The verbs of the control protocol: a name and JSON arguments become a call of Admin.

The one list of them; both the running server and a verb that works on the data at rest come through `perform`.
Arguments are checked for their types, and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from pillarbox.app.admin import Admin, Fetch
from pillarbox.app.admin_directory import NewUser
from pillarbox.app.control import Refused
from pillarbox.app.ordering import Wanted
from pillarbox.app.submission import Wishes

_Verb = Callable[[Admin, "_Args", bytes], Awaitable[object]]


class _Args:
    """The arguments of one call, by name and type."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        self._args = args

    def text(self, name: str, default: str | None = None) -> str:
        value = self._args.get(name, default)
        if not isinstance(value, str):
            self._bad(name, "a text")
        return value

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> list[str]:
        value = self._args.get(name, None if default is None else list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._bad(name, "a list of texts")
        return list(value)

    def text_or_none(self, name: str) -> str | None:
        return None if self._args.get(name) is None else self.text(name)

    def number(self, name: str) -> int:
        value = self._args.get(name)
        if not isinstance(value, int):
            self._bad(name, "a number")
        return value

    def seconds_or_none(self, name: str) -> float | None:
        value = self._args.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            self._bad(name, "a time in seconds")
        return None if value is None else float(value)

    def flag(self, name: str) -> bool:
        """False where it is not given."""
        value = self._args.get(name, False)
        if not isinstance(value, bool):
            self._bad(name, "true or false")
        return value

    def _bad(self, name: str, wanted: str) -> NoReturn:
        raise Refused(f"argument {name} must be {wanted}", usage=True)


def _new_user(args: _Args) -> NewUser:
    return NewUser(
        args.text("address"),
        args.text("name", ""),
        quota=args.text("quota", ""),
        soft_quota=args.text("soft_quota", ""),
        operator=args.flag("operator"),
        owns=tuple(args.texts("owns", ())),
    )


def _wishes(args: _Args) -> Wishes:
    return Wishes(
        full_name=args.text("full_name", ""),
        notify=args.texts("notify", ()),
        ret=args.text("ret", ""),
        envelope_id=args.text("envelope_id", ""),
        completes=args.flag("completes"),
        key=args.text("idempotency_key", ""),
    )


def _fetch(args: _Args) -> Fetch:
    return Fetch(
        args.text("verb"),
        args.text("host"),
        args.texts("domains"),
        args.text_or_none("user"),
        args.text_or_none("password"),
    )


def _wanted(args: _Args) -> Wanted:
    return Wanted(
        args.text("action"),
        args.text("where", ""),
        who=args.text("who", ""),
        status=args.text("status", ""),
        text=args.text("text", ""),
        next_hop=args.text("next_hop", ""),
    )


# A body is the text of a message, or a password: never logged.
VERBS: dict[str, _Verb] = {
    "domain_add": lambda admin, args, _: admin.domain_add(args.text("domain"), relay=args.flag("relay")),
    "domain_remove": lambda admin, args, _: admin.domain_remove(args.text("domain")),
    "domain_list": lambda admin, args, _: admin.domain_list(),
    "user_add": lambda admin, args, body: admin.user_add(_new_user(args), body),
    "user_remove": lambda admin, args, _: admin.user_remove(args.text("address")),
    "user_list": lambda admin, args, _: admin.user_list(),
    "user_show": lambda admin, args, _: admin.user_show(args.text("address")),
    "user_disable": lambda admin, args, _: admin.user_enable(args.text("address"), enabled=False),
    "user_enable": lambda admin, args, _: admin.user_enable(args.text("address"), enabled=True),
    "user_passwd": lambda admin, args, body: admin.user_passwd(args.text("address"), body),
    "alias_add": lambda admin, args, _: admin.alias_add(args.text("address"), args.texts("targets")),
    "alias_remove": lambda admin, args, _: admin.alias_remove(args.text("address")),
    "alias_list": lambda admin, args, _: admin.alias_list(),
    "forward_add": lambda admin, args, _: admin.forward_add(
        args.text("address"), args.texts("targets"), args.text("how")
    ),
    "forward_remove": lambda admin, args, _: admin.forward_remove(args.text("address")),
    "forward_list": lambda admin, args, _: admin.forward_list(),
    "list_add": lambda admin, args, _: admin.list_add(
        args.text("address"), args.texts("members"), args.text("expn", "members"), args.text("post", "anyone")
    ),
    "list_remove": lambda admin, args, _: admin.list_remove(args.text("address")),
    "list_list": lambda admin, args, _: admin.list_list(),
    "list_show": lambda admin, args, _: admin.list_show(args.text("address")),
    "list_join": lambda admin, args, _: admin.list_join(args.text("address"), args.texts("members")),
    "list_leave": lambda admin, args, _: admin.list_leave(args.text("address"), args.texts("members")),
    "send": lambda admin, args, body: admin.send(args.text("sender"), args.texts("recipients"), body, _wishes(args)),
    "reach": lambda admin, args, _: admin.reach(args.texts("recipients")),
    "smtp": lambda admin, args, _: admin.smtp(),
    "queue_list": lambda admin, args, _: admin.queue_list(args.text("where"), args.number("limit")),
    "queue_count": lambda admin, args, _: admin.queue_count(args.text("where")),
    "queue_top": lambda admin, args, _: admin.queue_top(args.text("where"), args.number("limit")),
    "queue_preview": lambda admin, args, _: admin.queue_preview(_wanted(args)),
    "queue_order": lambda admin, args, _: admin.queue_order(_wanted(args)),
    "suppression_list": lambda admin, args, _: admin.suppression.suppression_list(args.text("pattern", "")),
    "suppression_show": lambda admin, args, _: admin.suppression.suppression_show(args.text("address")),
    "suppression_add": lambda admin, args, _: admin.suppression.suppression_add(
        args.text("address"), until=args.text("until", ""), reason=args.text("reason", ""), who=args.text("who", "")
    ),
    "suppression_remove": lambda admin, args, _: admin.suppression.suppression_remove(args.text("pattern")),
    "why": lambda admin, args, _: admin.why(
        args.text("message"), since=args.seconds_or_none("since"), until=args.seconds_or_none("until")
    ),
    "show": lambda admin, args, _: admin.show(args.text("message")),
    "fetch": lambda admin, args, _: admin.fetch(_fetch(args)),
    "watch": lambda admin, args, _: admin.watch(args.text("user")),
    "backup": lambda admin, args, _: admin.backup(args.text("file")),
}


async def perform(admin: Admin, verb: str, args: Mapping[str, Any], body: bytes) -> object:
    """Do what was asked. Raises Refused."""
    if verb not in VERBS:
        raise Refused(f"unknown verb {verb!r}; the server may be of another version", usage=True)
    return await VERBS[verb](admin, _Args(args), body)
