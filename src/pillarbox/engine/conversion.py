"""The text of a message made fit for where it goes, from whatever gives it in pieces: two readings, bounded memory.

What is converted, and how, is in `core/mime.py`. Knows neither next hops nor disks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from pillarbox.core.mime import Converter, Plan, Survey, Target
from pillarbox.engine.mail import Message

Body = Callable[[Message], AsyncIterator[bytes]]  # the whole text in chunks; raises SpoolError


async def survey(body: Body, message: Message, target: Target) -> Plan:
    """The first reading. Raises Unconvertible, SpoolError."""
    reader = Survey(target)
    async for chunk in body(message):
        reader.feed(chunk)
    return reader.finish()


async def converted(body: Body, message: Message, plan: Plan) -> AsyncIterator[bytes]:
    """The second reading: the text as it goes. Raises SpoolError."""
    converter = Converter(plan)
    async for chunk in body(message):
        yield converter.feed(chunk)
    yield converter.finish()
