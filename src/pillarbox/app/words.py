"""Words of the directory that the command line and the operations share; light, so that a verb starts at once."""

from __future__ import annotations

from pillarbox.engine.ports import Audience

ANNOUNCE, MOVED = "announce", "moved"  # how a forward is made
MAY_SEE = tuple(audience.value for audience in Audience)
MAY_POST = tuple(audience.value for audience in Audience if audience is not Audience.NOBODY)
