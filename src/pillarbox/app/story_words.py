"""The sentence for each kind of record, and for what happens next to a recipient. Pure: data in, words out.

A table by kind; one that does not stand in it is told by its `text`. No sentence explains a code: that is done once, at
the end of the story.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pillarbox.app.texts import clock_time, path, plural, span, visible

Data = Mapping[str, Any]
DNS = re.compile(r"(MX|addresses) of ")
_REPLY = re.compile(r"[2-5]\d\d( |$)")
_ORDINALS = {1: "1st", 2: "2nd", 3: "3rd"}
_MOST_NAMES = 4


def names(recipients: Sequence[int], addresses: Mapping[int, str]) -> str:
    """Whom it is about; nothing where that is plain."""
    if not recipients or len(addresses) == 1:
        return ""
    if len(recipients) == len(addresses) > 2:
        return f"All {len(addresses)} recipients: "
    return f"{listed([addresses.get(number, f'#{number}') for number in recipients])}: "


def listed(addresses: Sequence[str]) -> str:
    """Some of them by name, and how many there are beyond."""
    more = f" and {len(addresses) - _MOST_NAMES} more" if len(addresses) > _MOST_NAMES else ""
    return f"{', '.join(map(visible, addresses[:_MOST_NAMES]))}{more}"


def sentence(kind: str, detail: Data, at: float) -> str:
    """What one record says."""
    tell = _SENTENCES.get(kind)
    return visible(_generic(kind, detail, at) if tell is None else tell(detail, at))


def _stop(text: str) -> str:
    """A sentence ends with a full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _generic(kind: str, detail: Data, at: float) -> str:
    rest = [f"{name} {value}" for name, value in detail.items() if name not in ("text", "who", "due", "status")]
    text = str(detail.get("text", ""))
    return _stop(f"{_upper(kind)}: {'; '.join([*([text] if text else []), *rest])}{_by(detail)}")


def _by(detail: Data) -> str:
    return f", by {detail['who']}" if detail.get("who") else ""


def _is_reply(detail: Data) -> bool:
    return _REPLY.match(str(detail.get("text", ""))) is not None


def _delivered(detail: Data, at: float) -> str:
    next_hop, text = str(detail.get("next_hop", "")), str(detail.get("text", ""))
    if next_hop == "maildir":
        return f"Delivered into the mailbox here, as the file {text}."
    if next_hop == "discard":
        return "Discarded, as its route says."
    if next_hop == "pipe":
        return _stop(f"Delivered to a program: {text}")
    tls = f" over {detail['tls']}" if detail.get("tls") else ""
    return f"Delivered to {next_hop}{tls}. It answered: {_stop(text)}"


def _next(detail: Data, at: float) -> str:
    due = detail.get("due")
    if due is None:
        return ""
    return f" To be tried again at {clock_time(due, at)}, {span(due - at)} later." if due > at else ""


def _deferred(detail: Data, at: float) -> str:
    text, next_hop = str(detail["text"]), str(detail.get("next_hop", ""))
    if _is_reply(detail):
        return f"Put off by {next_hop}, which answered: {_stop(text)}{_next(detail, at)}"
    why = "DNS gave no answer: " if DNS.match(text) else ""
    return f"Not delivered yet: {why}{_stop(text)}{_next(detail, at)}"


def _ambiguous(detail: Data, at: float) -> str:
    text = str(detail["text"]).removeprefix("maybe delivered: ")
    told = f"Maybe delivered to {detail.get('next_hop', 'the next hop')}: {_stop(text)}"
    if detail.get("due") is None:
        return f"{told} It is held, so that no second copy is made unless somebody wants it."
    return f"{told} If it was, the next attempt makes a second copy.{_next(detail, at)}"


def _failed(detail: Data, at: float) -> str:
    text, next_hop = str(detail["text"]), str(detail.get("next_hop", ""))
    if _is_reply(detail):
        return f"Refused for good by {next_hop}, which answered: {_stop(text)}"
    return f"Failed for good: {_stop(text)}"


def _expired(detail: Data, at: float) -> str:
    return f"Given up: its time is over. The last attempt: {_stop(str(detail['text']))}"


def _held(detail: Data, at: float) -> str:
    due = detail.get("due")
    if due is None:
        return _stop(_upper(str(detail["text"])))
    return f"Held back until {clock_time(due, at)}, for {span(due - at)}, as its sender asked (FUTURERELEASE)."


def _bounced_back(detail: Data, at: float) -> str:
    remote = f" from {detail['remote']}" if detail.get("remote") else ""
    listed = " The address is on the suppression list now." if detail.get("suppressed") else ""
    klass = f" It counts as {detail['class']}." if detail.get("class") else ""
    return f"A bounce came back{remote}: {_stop(str(detail['text']))}{klass}{listed}"


def _answered(detail: Data, at: float) -> str:
    nature = str(detail.get("nature", "an answer")).replace("-", " ").replace("_", " ")
    return _stop(f"Something came back, {nature}: {detail['text']}")


def _repeated(detail: Data, at: float) -> str:
    text = str(detail["text"])
    refused = text.removeprefix("refused: ")
    told = "Submitted again" if refused == text else "Refused: another message came"
    queued = ", and not queued a second time" if refused == text else ""
    return f"{told} with the same Idempotency-Key, from {detail.get('from', 'somebody')}{queued}."


def _kept(detail: Data, at: float) -> str:
    return f"Kept for its owner, who has to come for it (TURN, ATRN or ETRN): {_stop(str(detail['text']))}"


def _attempt(detail: Data, at: float) -> str:
    text = str(detail.get("text", ""))
    return _stop(f"DNS: {text}" if DNS.match(text) else f"Tried {text}")


def _notice(detail: Data, at: float) -> str:
    text, action = str(detail["text"]), str(detail.get("action", ""))
    if text.startswith("none: "):
        return _stop(f"Nobody is told: {text.removeprefix('none: ')}")
    number, to, sender = text.partition(" to ")
    if not to:
        return _stop(f"A notice: {text}")
    return f"The sender {sender} is told that {_NEWS.get(action, action)}, by the notice {number}."


_NEWS = {
    "failed": "it could not be delivered",
    "delayed": "it takes longer, and is still being tried",
    "delivered": "it has arrived",
    "relayed": "it was passed on to a server that tells no more of it",
    "expanded": "it was passed on to a list",
}


def _hook(detail: Data, at: float) -> str:
    figures = f" for {path(str(detail['to']))}" if detail.get("to") else ""
    return _stop(f"The hook {detail.get('hook')} noted at {detail.get('stage')}{figures}: {detail.get('reason')}")


def _changed(detail: Data, at: float) -> str:
    return f"Changed by hand{_by(detail)}: {_stop(str(detail.get('text', '')))}"


def _throttled(detail: Data, at: float) -> str:
    what, cause = str(detail.get("text", "")), str(detail.get("cause", ""))
    lane = f" {detail['lane']}" if detail.get("lane") else ""
    since = f" since {clock_time(detail['since'], at)}" if _is_time(detail.get("since")) else ""
    until = f" until {clock_time(detail['until'], at)}" if _is_time(detail.get("until")) else ""
    told = f"It had to wait: the lane{lane} was slowed down{since}{until}."
    told += f" {_stop(what[:1].upper() + what[1:])}" if what else ""
    return f"{told} The cause: {_stop(cause)}" if " " in cause else told  # one word is a limit of our own


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and value > 0


def _routed(detail: Data, at: float) -> str:
    rule = f", by the route {detail['rule']}" if detail.get("rule") else ""
    return f"Goes by the lane {detail.get('lane', detail.get('text', ''))}{rule}."


_SENTENCES: Mapping[str, Callable[[Data, float], str]] = {
    "delivered": _delivered,
    "deferred": _deferred,
    "ambiguous": _ambiguous,
    "failed": _failed,
    "expired": _expired,
    "held": _held,
    "kept": _kept,
    "repeated": _repeated,
    "bounced_back": _bounced_back,
    "answered": _answered,
    "attempt": _attempt,
    "notice": _notice,
    "hook": _hook,
    "changed": _changed,
    "throttled": _throttled,
    "routed": _routed,
}

# --- what happens next


def outlook(row: Data, data: Data) -> list[str]:
    """Where a recipient stands, and what happens next and when."""
    if row["settled_at"] is not None:
        return [_end(row, data["message"]["received_at"])]
    if row["state"] == "held":
        return ["on hold. Nothing is tried until somebody releases it:", f"pillarbox queue release id={row['id']}"]
    lines = [_in_memory(row, data) if row["state"] == "active" else _waits(row, data["now"])]
    lines += _lane(row, data)
    end = data["gives_up_at"]
    if end is not None and end > data["now"]:
        lines.append(f"It is tried until {clock_time(end, data['now'])}; then the sender is told that it failed.")
    return lines


def _end(row: Data, start: float) -> str:
    took = span(row["settled_at"] - start)
    when = f"after {took}" if row["settled_at"] - start >= 1 else "at once"
    tries = f", at the {_ordinal(row['attempts'])} attempt" if row["attempts"] > 1 else ""
    if row["state"] == "delivered":
        return f"delivered {when}{tries}. Nothing more is to be done."
    attempts = plural(row["attempts"], "attempt") if row["attempts"] else "no attempt"
    word = "given up" if row["state"] == "expired" else "failed for good"
    return f"{word} {when}, after {attempts}. Nothing more is tried."


def _ordinal(number: int) -> str:
    return f"{number}th" if 10 <= number % 100 <= 20 else f"{number}{_ORDINALS.get(number % 10, '1th')[1:]}"


def _waits(row: Data, now: float) -> str:
    wait = row["due"] - now
    which = _ordinal(row["attempts"] + 1)
    if wait <= 0:
        return f"waiting. The {which} attempt is due now."
    return f"waiting. The {which} attempt is at {clock_time(row['due'], now)}, in {span(wait)}."


def _in_memory(row: Data, data: Data) -> str:
    if not data["running"]:
        return "to be tried as soon as a server runs on this data: pillarbox serve"
    load = data["lanes"].get(row["lane"])
    if not row["lane"]:
        return "waits for its turn, or is in flight: pillarbox queue top shows what slows its lane down."
    if load is None or not load["ready"]:
        return "in flight: it is being delivered now."
    return (
        f"waits for its turn, or is in flight: lane {row['lane']} has {plural(load['ready'], 'job')} waiting and"
        f" {load['in_flight']} in flight."
    )


def _lane(row: Data, data: Data) -> list[str]:
    """What holds its lane back, as far as a running server says so."""
    load = data["lanes"].get(row["lane"])
    slowed = None if load is None else load["slowed"]
    if slowed is None:
        return []
    until = f" until {clock_time(slowed['until'], data['now'])}" if _is_time(slowed.get("until")) else ""
    return [f"The lane {row['lane']} is slowed down{until}. The cause: {_stop(str(slowed['cause']))}"]
