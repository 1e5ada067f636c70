"""A slow-down of a lane: what makes its mail wait, since when, and until when.

A value; knows neither queue nor clock. Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlowDown:
    """`cause`: what was seen, in a word or two; `what`: what is done about it, for people. `until`: None where its end
    is not known."""

    cause: str
    what: str
    since: float
    until: float | None
    lane: str
