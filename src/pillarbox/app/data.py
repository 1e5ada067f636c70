"""What every verb needs, whether a server runs or not: directory and spool of one data directory."""

from __future__ import annotations

import asyncio

from pillarbox.adapters.directory_sqlite import DirectoryStore, LiveDirectory
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.adapters.suppression_sqlite import SuppressionList
from pillarbox.adapters.system import SystemClock
from pillarbox.app.config import Config
from pillarbox.app.config_bounces import VerpMode
from pillarbox.app.datadir import DataDir, seed_defaults, wants_seed
from pillarbox.core.verp import ReturnAddresses
from pillarbox.engine.ids import IdSource, id_at
from pillarbox.engine.ports import Clock


class Data:
    """Directory and spool of one data directory. The caller holds its lock."""

    def __init__(self, config: Config, folder: DataDir) -> None:
        """Raises DirectoryError, SpoolVersion, apsw.Error, OSError."""
        loop = asyncio.get_running_loop()
        self.folder = folder
        self.clock = SystemClock(loop)
        self.store = DirectoryStore(folder.directory_db)
        if wants_seed(config, folder):
            seed_defaults(self.store)
        self.directory = LiveDirectory(self.store, config.hostname)
        self.suppressions = SuppressionList(folder.directory_db, self.clock, keep=config.suppression.keep)
        self.spool = SqliteSpool(folder.spool_db, folder.bodies, loop, reserve=config.limits.disk_reserve)
        self.ids = IdSource(self.clock, self.spool.last_id)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Go on by another configuration."""
        self.config = config
        self.suppressions.keep = config.suppression.keep
        self.directory.returns = return_addresses(config, self.store, self.clock)

    @property
    def verp(self) -> ReturnAddresses | None:
        """Where bounces of what is sent now are to come back to."""
        return self.directory.returns if self.config.bounces.verp is VerpMode.ON else None

    async def close(self) -> None:
        await self.spool.close()
        await self.suppressions.close()
        self.store.close()


def return_addresses(config: Config, store: DirectoryStore, clock: Clock) -> ReturnAddresses | None:
    """They count as long as their message is known: until the history forgets one that was tried to the end."""
    domain = config.bounces.domain
    if domain is None:
        return None
    known = config.history.keep + config.retry.policy().give_up
    return ReturnAddresses(domain, store.secret("verp"), lambda: id_at(clock.now() - known))
