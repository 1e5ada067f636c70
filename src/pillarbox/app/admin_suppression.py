"""What an operator may do with the suppression list. A part of `admin.Admin`; gives plain data, raises Refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pillarbox.adapters.suppression_sqlite import SuppressionList
from pillarbox.app.admin_directory import parsed_mailbox, refusals
from pillarbox.app.config_values import duration
from pillarbox.app.control import Refused
from pillarbox.core.address import Mailbox
from pillarbox.engine.suppression import BY_HAND, Suppression

Data = dict[str, Any]
NEVER = "never"
_MAX_REASON = 300  # characters


class SuppressionAdmin:
    """The operations. Every argument is text as the operator gave it."""

    def __init__(self, suppressions: SuppressionList, *, enabled: bool, now: Callable[[], float] = time.time) -> None:
        self._list = suppressions
        self._enabled = enabled
        self._now = now

    async def suppression_list(self, pattern: str) -> list[Data]:
        """Those whose address fits: `*` stands for anything, in whatever case; "" for all."""
        return [_data(each) for each in self._fitting(pattern or "*")]

    async def suppression_show(self, address: str) -> Data:
        return _data(self._known(address))

    async def suppression_add(self, address: str, *, until: str, reason: str, who: str) -> Data:
        """In place of what there is of that address."""
        with refusals():
            mailbox = parsed_mailbox(address)
            if len(reason) > _MAX_REASON or not reason.isprintable():
                raise Refused(f"the reason must be one line of at most {_MAX_REASON} characters", usage=True)
            added = Suppression(mailbox, self._now(), self._until(until), BY_HAND, reason, "", who)
            await self._list.put(added)
        return {**_data(added), "enabled": self._enabled}

    async def suppression_remove(self, pattern: str) -> Data:
        """Those whose address fits; an address alone must be there."""
        with refusals():
            found = self._fitting(pattern) if "*" in pattern else [self._known(pattern)]
            await self._list.remove(each.address for each in found)
        return {"removed": [str(each.address) for each in found]}

    def _known(self, address: str) -> Suppression:
        with refusals():
            mailbox = parsed_mailbox(address)
        if (found := self._list.find(mailbox)) is None:
            raise Refused(f"{mailbox} is not on the suppression list")
        return found

    def _fitting(self, pattern: str) -> list[Suppression]:
        fits = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.IGNORECASE).fullmatch
        return [each for each in self._list.all() if fits(str(each.address))]

    def _until(self, text: str) -> float | None:
        """From `never`, a duration from now, or a moment as ISO 8601 has it; "" is as long as what is learned."""
        now = self._now()
        if text in ("", NEVER):
            return None if text else now + self._list.keep
        try:
            return now + duration().read(text)
        except ValueError:
            pass
        try:
            until = datetime.fromisoformat(text).astimezone().timestamp()
        except ValueError:
            raise Refused(
                f"until {text!r}: give {NEVER}, a duration such as 30d, or a day: 2027-01-31", usage=True
            ) from None
        if until <= now:
            raise Refused(f"until {text}: that is past", usage=True)
        return until


def refusal_of(found: Suppression, mailbox: Mailbox) -> str:
    """To who submits on this machine."""
    why = f"{found.klass}: {found.text}" if found.text else found.klass
    return f"{mailbox}: is on the suppression list ({why}): pillarbox suppression remove {mailbox}"


def _data(found: Suppression) -> Data:
    return {
        "address": str(found.address),
        "since": found.since,
        "until": found.until,
        "class": found.klass,
        "text": found.text,
        "message": found.message,
        "who": found.who,
    }
