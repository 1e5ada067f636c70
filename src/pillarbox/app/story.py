"""The life of a message, or of a session that was refused, as a story: the data of `Admin.why` → lines.

Pure: asks nobody, prints nothing, knows no clock; so the command line, the console and the API tell the same. In order,
in plain words, and it ends with what happens next and when. Each kind of record has its sentence in `story_words.py`; a
kind that is not known here is told by its `text`. What repeats itself is told once, with how often and until when. Each
code is explained once, at the end. Whatever a peer may have written has its control characters made visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from pillarbox.app.story_words import DNS, listed, names, outlook, sentence
from pillarbox.app.texts import clock_time, moment, octets, path, plural, span, visible
from pillarbox.core.status_codes import codes_in, meaning

WIDTH = 108
_AT = 36  # where the words begin: behind the time and what has passed
_AT_HOME = ("", "maildir", "discard")  # lanes that nobody has to be told of
_MOST_RECIPIENTS = 20  # named at the top
_MOST_CANDIDATES_TO = 3  # recipients named in a line
Data = Mapping[str, Any]


@dataclass(slots=True)
class _Event:
    """Records of one kind that say the same at one moment."""

    at: float
    kind: str
    detail: Data
    recipients: list[int] = field(default_factory=list)  # none: about all of them

    @property
    def said(self) -> tuple[object, ...]:
        """What makes it the same as another: all but when."""
        detail = tuple((name, value) for name, value in self.detail.items() if name != "due")
        return (self.kind, detail, tuple(self.recipients))


def story(data: Data) -> list[str]:
    """The lines, whatever was found."""
    return _TELL[data["kind"]](data)


def codes_of(texts: Iterable[str]) -> dict[str, str]:
    """The codes that stand in these texts, each once, with what they mean."""
    found = dict.fromkeys(code for text in texts for code in codes_in(text))
    return {code: told for code in found if (told := meaning(code)) is not None}


# --- a message


def _message(data: Data) -> list[str]:
    message, recipients = data["message"], data["recipients"]
    addresses = {row["number"]: row["address"] for row in recipients}
    subject = f' "{visible(message["subject"])}"' if message["subject"] else ""
    lines = [f"Message {message['id']}{subject}", f"from {path(message['sender'])}"]
    lines += [f"to   {_recipient(row)}" for row in recipients[:_MOST_RECIPIENTS]]
    if len(recipients) > _MOST_RECIPIENTS:
        lines.append(f"and {len(recipients) - _MOST_RECIPIENTS} more recipients")
    lines += ["", *_line(message["received_at"], None, [_received(message)])]
    start, shown = message["received_at"], set[str]()
    for episode, times, last in _runs(_episodes(data["records"])):
        lines += _told(episode, addresses, start, shown)
        if times > 1:
            until = last[-1].at
            lines += _line(until, until - start, [f"The same, {plural(times - 1, 'more time')} until now."])
    lines += ["", *_now(data)]
    return [*lines, *_codes(data["codes"])]


def _recipient(row: Data) -> str:
    behind = f" (it was sent to {path(row['original'])})" if row["original"] != row["address"] else ""
    lane = "" if row["lane"] in _AT_HOME else f", by the lane {visible(row['lane'])}"
    return f"{path(row['address'])}{behind}{lane}"


def _received(message: Data) -> str:
    how = f"{octets(message['size'])}, by {message['protocol']}"
    if message["listener"] == "notice":
        return f"Made here: it is a notice of this server ({octets(message['size'])})."
    if not message["peer"]:
        return f"Received on this machine, from the listener {message['listener']} ({how})."
    client = f"{visible(message['helo'])} [{message['peer']}]"
    return f"Received from {client} by the listener {message['listener']} ({how})."


def _episodes(records: Sequence[Data]) -> list[list[_Event]]:
    """The records of each moment together: what was looked up and tried, what came of it, what was said."""
    episodes: list[list[_Event]] = []
    for record in records:
        number = record["recipient"]
        event = _Event(record["at"], record["kind"], record["detail"], [] if number is None else [number])
        if not episodes or episodes[-1][0].at != event.at:
            episodes.append([event])
        elif (alike := _alike(episodes[-1], event)) is not None:
            alike.recipients.append(record["recipient"])
        else:
            episodes[-1].append(event)
    for episode in episodes:
        episode.sort(key=lambda event: "transcript" in event.detail)
    return episodes


def _alike(episode: list[_Event], event: _Event) -> _Event | None:
    if not event.recipients:
        return None
    same = (each for each in episode if each.recipients and (each.kind, each.detail) == (event.kind, event.detail))
    return next(same, None)


def _runs(episodes: list[list[_Event]]) -> list[tuple[list[_Event], int, list[_Event]]]:
    """Episodes that say the same, three or more behind each other, are one: the first, how many, and the last."""
    runs: list[list[list[_Event]]] = []
    for episode in episodes:
        if runs and [event.said for event in runs[-1][0]] == [event.said for event in episode]:
            runs[-1].append(episode)
        else:
            runs.append([episode])
    told = []
    for run in runs:
        if len(run) > 2:
            told.append((run[0], len(run), run[-1]))
        else:
            told += [(episode, 1, episode) for episode in run]
    return told


def _told(episode: list[_Event], addresses: Mapping[int, str], start: float, shown: set[str]) -> list[str]:
    """`shown`: what was said and told before."""
    lines: list[str] = []
    tried = ""
    for event in episode:
        at = event.at if not lines else None
        if "transcript" in event.detail:
            said = str(event.detail["transcript"])
            if said not in shown:
                shown.add(said)
                lines += _line(at, event.at - start, ["What was said (> by us):"])
                lines += [f"{' ' * _AT}  {visible(line)}" for line in said.split("\n")]
            continue
        whom, detail, text = names(event.recipients, addresses), event.detail, str(event.detail.get("text", ""))
        if event.kind == "attempt":
            tried = text
        elif tried and text.endswith(again := f", the last one {tried}"):
            detail = {**detail, "text": text.removesuffix(again)}  # which has just been told
        lines += _line(at, event.at - start, [f"{whom}{sentence(event.kind, detail, event.at)}"])
    return lines


def _line(at: float | None, after: float | None, texts: Iterable[str]) -> list[str]:
    """When, how long after the beginning, and what; a line that is too long goes on below its words."""
    when = moment(at) if at is not None else ""
    passed = f"+{span(after)}" if at is not None and after is not None and after >= 1 else ""
    words = [piece for text in texts for piece in wrap(text, WIDTH - _AT, **_WHOLE) or [""]]
    head = f"{when:<25} {passed:>8}"
    return [f"{head if number == 0 else '':<{_AT}}{piece}".rstrip() for number, piece in enumerate(words)]


def _now(data: Data) -> list[str]:
    """What happens next, for each recipient, or for those together of whom the same is to be said."""
    together: dict[tuple[str, ...], list[str]] = {}
    for row in data["recipients"]:
        together.setdefault(tuple(outlook(row, data)), []).append(row["address"])
    lines = ["What happens next" if any(row["settled_at"] is None for row in data["recipients"]) else "How it ended"]
    for told, addresses in together.items():
        who = listed(addresses)
        first, *more = told
        lines += wrap(f"{who}: {first}", WIDTH - 2, initial_indent="  ", subsequent_indent="    ", **_WHOLE)
        for text in more:
            lines += wrap(text, WIDTH - 4, initial_indent="    ", subsequent_indent="    ", **_WHOLE)
    return lines


_WHOLE: Mapping[str, Any] = {"break_on_hyphens": False, "break_long_words": False}  # a word may be meant to be copied


def _codes(codes: Mapping[str, str]) -> list[str]:
    if not codes:
        return []
    width = max(map(len, codes))
    return ["", "What the codes mean", *(f"  {code:<{width}}  {told}" for code, told in codes.items())]


# --- a session that was refused


def _session(data: Data) -> list[str]:
    session, refusals = data["session"], data["refusals"]
    who = f"{visible(session['helo'])} [{session['peer']}]" if session["helo"] else f"[{session['peer']}]"
    facts = [
        f"came to the listener {session['listener']}",
        "with TLS" if session["tls"] else "without TLS",
        f"logged in as {session['user']}" if session["user"] else "not logged in",
    ]
    lines = [f"Session {session['id']}: {who}", f"  {', '.join(facts)}", ""]
    start = refusals[0]["at"]
    before: tuple[object, ...] = ()
    explained: set[str] = set()
    for refusal in refusals:
        same = (refusal["at"], refusal["command"])
        if same != before:
            lines += _line(refusal["at"], refusal["at"] - start, _refused(refusal, explained))
        before = same
    ends = str(refusals[-1]["reply"]).startswith("4")
    lines += ["", "What happens next", f"  {_AGAIN if ends else _NEVER}"]
    return [*lines, *_codes(data["codes"])]


_AGAIN = "Nothing here. A code that begins with 4 asks the client to try again later: it keeps the message."
_NEVER = "Nothing here. The client was refused for good; its sender is told by whoever sent it, not by this server."


def _refused(refusal: Data, explained: set[str]) -> list[str]:
    sender = refusal["sender"]
    about = "" if sender is None or refusal["command"].startswith("MAIL") else f" (from {path(sender)})"
    to = f", for {plural(refusal['recipients'], 'recipient')}" if refusal.get("recipients") else ""
    whom = f", for {path(refusal['recipient'])}" if refusal["command"] == "the message" and not to else ""
    what = "Refused to take the connection" if refusal["command"] == "connect" else f"Refused {refusal['command']}"
    lines = [f"{visible(what)}{about}{to}{whom}: {visible(refusal['reply'])}"]
    if refusal["hook"]:
        lines.append(f"The hook {visible(refusal['hook'])} decided so: {visible(refusal['reason'])}.")
    elif refusal["because"] and refusal["rule"] not in explained:
        explained.add(refusal["rule"])
        lines.append(f"Because {visible(refusal['because'])}.")
    return lines


# --- more than one thing


def _candidates(data: Data) -> list[str]:
    found = data["candidates"]
    more = f", the newest {len(found)}" if data["more"] else ""
    lines = [f"{plural(len(found), 'thing')} found for {visible(data['asked'])}{more}:", ""]
    for each in found:
        to = [visible(address) for address in each["to"][:_MOST_CANDIDATES_TO]]
        beyond = len(each["to"]) - len(to)
        whom = ", ".join(to) + (f" and {beyond} more" if beyond > 0 else "")
        subject = f'  "{visible(each["subject"])}"' if each["subject"] else ""
        line = f"{moment(each['at'])}  {each['id']:<14}  {each['state']:<9}  {path(each['sender'])} to {whom}{subject}"
        lines.append(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…")
    return [*lines, "", f"Ask for one of them: pillarbox why {found[0]['id']}"]


_TELL = {"message": _message, "session": _session, "candidates": _candidates}
__all__ = ["DNS", "clock_time", "codes_of", "story"]
