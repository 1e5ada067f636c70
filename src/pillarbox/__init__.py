"""Pillarbox: a mail transfer agent for people who own applications.

The floors, each importing only from those below it: `core` (values), `smtp` (the protocol without I/O), `engine`
(decisions), `adapters` and `sim` (the engine's ports, real and imagined), `net` (asyncio drivers), `app` (the program).
"""

__version__ = "0.1.0"
