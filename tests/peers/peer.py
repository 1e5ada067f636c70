"""What all foreign servers have in common, for whoever starts one and speaks with it.

A peer takes mail for DOMAIN from anybody and has one mailbox, MAILBOX, with `postmaster` leading there, too. With
`relay_to` a client on the loopback may also send mail for anybody else, and that is passed on to that port; without it
mail for others is refused. All else is as the server comes: what differs from its defaults is said in `configured`.
"""

from __future__ import annotations

import mailbox
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.peers.process import Program, free_port, wait_port

DOMAIN = "peer.test"
USER = "bob"
MAILBOX = f"{USER}@{DOMAIN}"
HOSTNAME = f"mx.{DOMAIN}"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer lives: an empty folder of its own, and the one that packages stay unpacked in."""

    place: Path
    cache: Path
    relay_to: int | None = None


class Peer(ABC):
    """One server. Runs for the length of a `with` block."""

    name: str
    configured: str  # what differs from its defaults, in a sentence

    def __init__(self, site: Site) -> None:
        """Raises CannotRun, as entering the block does."""
        self.site = site
        self.port = free_port()
        self._program: Program | None = None

    def __enter__(self) -> Peer:
        self._program = Program(self.name.lower(), self.command(), place=self.site.place, environ=self.environ())
        try:
            wait_port(self.port, self._program)
        except BaseException:
            self._program.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._program is not None:
            self._program.stop()

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """What starts it in the foreground, with everything written that it needs."""

    def environ(self) -> dict[str, str]:
        return {}

    @property
    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def letters(self) -> list[bytes]:
        """The messages in the mailbox, as they are stored there."""


def files(folder: Path) -> list[bytes]:
    """The messages of a Maildir's new/, or of any folder with a file for each."""
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.exists() else []


def in_mbox(file: Path) -> list[bytes]:
    if not file.exists():
        return []
    with closing(mailbox.mbox(file)) as box:
        return [box.get_bytes(key) for key in box.iterkeys()]
