"""The verbs of the control protocol: a name and JSON arguments become a call of Admin.

The one list of them; both the running server and a verb that works on the data at rest come through `perform`.
Arguments are checked for their types, and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from pillarbox.app.admin import Admin
from pillarbox.app.control import Refused

_Verb = Callable[[Admin, "_Args", bytes], Awaitable[object]]


class _Args:
    """The arguments of one call, by name and type."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        self._args = args

    def text(self, name: str) -> str:
        value = self._args.get(name)
        if not isinstance(value, str):
            self._bad(name, "a text")
        return value

    def texts(self, name: str) -> list[str]:
        value = self._args.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._bad(name, "a list of texts")
        return list(value)

    def number(self, name: str) -> int:
        value = self._args.get(name)
        if not isinstance(value, int):
            self._bad(name, "a number")
        return value

    def _bad(self, name: str, wanted: str) -> NoReturn:
        raise Refused(f"argument {name} must be {wanted}", usage=True)


VERBS: dict[str, _Verb] = {
    "domain_add": lambda admin, args, _: admin.domain_add(args.text("domain")),
    "domain_remove": lambda admin, args, _: admin.domain_remove(args.text("domain")),
    "domain_list": lambda admin, args, _: admin.domain_list(),
    "user_add": lambda admin, args, _: admin.user_add(args.text("address"), args.text("name")),
    "user_remove": lambda admin, args, _: admin.user_remove(args.text("address")),
    "user_list": lambda admin, args, _: admin.user_list(),
    "alias_add": lambda admin, args, _: admin.alias_add(args.text("address"), args.texts("targets")),
    "alias_remove": lambda admin, args, _: admin.alias_remove(args.text("address")),
    "alias_list": lambda admin, args, _: admin.alias_list(),
    "send": lambda admin, args, body: admin.send(args.text("sender"), args.texts("recipients"), body),
    "queue_list": lambda admin, args, _: admin.queue_list(args.text("where"), args.number("limit")),
    "queue_count": lambda admin, args, _: admin.queue_count(args.text("where")),
    "queue_retry": lambda admin, args, _: admin.queue_retry(args.text("where")),
    "why": lambda admin, args, _: admin.why(args.text("message")),
    "show": lambda admin, args, _: admin.show(args.text("message")),
    "backup": lambda admin, args, _: admin.backup(args.text("file")),
}


async def perform(admin: Admin, verb: str, args: Mapping[str, Any], body: bytes) -> object:
    """Do what was asked. Raises Refused."""
    if verb not in VERBS:
        raise Refused(f"unknown verb {verb!r}; the server may be of another version", usage=True)
    return await VERBS[verb](admin, _Args(args), body)
