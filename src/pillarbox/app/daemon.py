"""The program as a server: start, signals, stop; and the data at rest for verbs that find no server.

The composition root is `house.py`; here it gets its life. Exit status 0 after an orderly stop, 1 when it can't start.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import uvloop

from pillarbox.adapters import systemd
from pillarbox.adapters.certificates import CertificateError
from pillarbox.adapters.directory_sqlite import DirectoryError
from pillarbox.adapters.privilege import PrivilegeError, become, is_root, seal
from pillarbox.adapters.spool_reader import SqliteSpoolReader
from pillarbox.adapters.spool_schema import SpoolVersion
from pillarbox.app import log as logs
from pillarbox.app import privilege
from pillarbox.app.admin import Admin
from pillarbox.app.config import Config
from pillarbox.app.config_load import ConfigError, load
from pillarbox.app.control import ControlServer
from pillarbox.app.data import Data
from pillarbox.app.datadir import DataDir, DataDirError, DataLock
from pillarbox.app.house import House
from pillarbox.app.ownership import make_for
from pillarbox.app.queue_control import DataControl
from pillarbox.app.secrets import SecretError
from pillarbox.app.sockets import ListenerKey, PortInUse, bind_all, release
from pillarbox.app.verbs import perform

log = logging.getLogger(__name__)

LOCK_PATIENCE = 5.0  # seconds that a start waits for a verb of the command line that works on the data
SWITCH_INTERVAL = 0.0005  # seconds; with the default of 5 ms the writer thread waits too long for the interpreter
YOUNG_OBJECTS = 50_000  # allocations between collections: sessions and messages are many, cycles among them rare
CANT_START = (
    ConfigError,
    CertificateError,
    SecretError,
    DataDirError,
    DirectoryError,
    SpoolVersion,
    PortInUse,
    PrivilegeError,
    apsw.Error,
    OSError,
)


def serve(config_path: Path | None) -> int:
    """Run the server until SIGTERM or SIGINT."""
    os.umask(0o077)
    try:
        config = load(config_path)
        logs.setup(config.log.format)
        with ExitStack() as held:
            folder, sockets = _prepared(config, held)
            _tune()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_Daemon(config_path, config, folder).run(sockets))
    except CANT_START as error:
        print(f"pillarbox: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _prepared(config: Config, held: ExitStack) -> tuple[DataDir, dict[ListenerKey, socket.socket]]:
    """The locked data directory and the bound sockets; and root is given up before anything else is read or written."""
    user = privilege.new_user(config)
    if user is not None:
        make_for(config.data, user)
        privilege.check_reach(user)
        for problem in privilege.problems(config):
            log.warning("%s", problem)
    with privilege.as_user(user):
        folder = DataDir.prepare(config.data)
        held.enter_context(DataLock(folder.root, patience=LOCK_PATIENCE))
    sockets = bind_all(config.listeners, set(), files_as=partial(privilege.as_user, user))
    if user is not None:
        become(user)
    if is_root():
        log.warning(privilege.AS_ROOT, folder.root)
    seal()  # last: to change users would make the memory readable again
    return folder, sockets


def _unraisable(fault: Any) -> None:
    """An exception that Python can't raise, such as one in a callback of OpenSSL's: a line, not a screen."""
    log.error("%s: %s: %r", fault.err_msg or "ignored", fault.object, fault.exc_value)


def _tune() -> None:
    sys.unraisablehook = _unraisable
    sys.setswitchinterval(SWITCH_INTERVAL)
    apsw.shutdown()  # the next line is only possible before SQLite is in use
    apsw.config(
        apsw.SQLITE_CONFIG_MEMSTATUS, False
    )  # nobody asks for the statistics, and each allocation pays for them
    apsw.initialize()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 100)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Daemon:
    """One run of the server."""

    def __init__(self, config_path: Path | None, config: Config, folder: DataDir) -> None:
        self._config_path = config_path
        self._config = config
        self._folder = folder
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self, sockets: dict[ListenerKey, socket.socket]) -> None:
        """Raises what CANT_START names."""
        data = Data(self._config, self._folder)
        house = House(data)
        control = self._control(house)
        await control.start()
        self._watch_signals()
        for line in await house.open(sockets):
            _say(line)
        systemd.notify(systemd.READY)
        self._hint(data)
        try:
            await self._work(house)
        finally:
            systemd.notify(systemd.STOPPING)
            log.info("draining")
            await control.close()
            await house.close()
            await data.close()

    async def _work(self, house: House) -> None:
        """Until it is to stop: reload when told."""
        stopping = asyncio.create_task(self._stop.wait())
        while not stopping.done():
            reloading = asyncio.create_task(self._reload.wait())
            await asyncio.wait((stopping, reloading), return_when=asyncio.FIRST_COMPLETED)
            reloading.cancel()
            if self._reload.is_set() and not stopping.done():
                self._reload.clear()
                systemd.notify(systemd.reloading())
                await self._reload_now(house)
                systemd.notify(systemd.READY)

    async def _reload_now(self, house: House) -> None:
        """The new configuration, or the old one when anything is wrong with the new."""
        sockets: dict[ListenerKey, socket.socket] = {}
        try:
            config = load(self._config_path)
            if config.data != self._config.data:
                raise DataDirError(f"data can't be changed in a running server (from {self._config.data})")
            if config.user != self._config.user:
                raise PrivilegeError(
                    f"user can't be changed in a running server (from {self._config.user}): restart it"
                )
            sockets = bind_all(config.listeners, set(house.listeners))
            lines = await house.reload(config, sockets)
        except CANT_START as error:
            release(sockets)  # else their addresses could not be had at the next reload
            log.error("reload: the old configuration stays: %s", error)
            return
        self._config = config
        for line in lines:
            _say(line)
        log.info("reload: done")

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    def _control(self, house: House) -> ControlServer:
        async def handle(verb: str, args: Mapping[str, Any], body: bytes) -> object:
            control = DataControl(house.data, house.queue, house.once)
            admin = _admin(house.data, control, house)  # by the present configuration
            return await perform(admin, verb, args, body)

        return ControlServer(self._folder.socket, handle, max_body=2 * self._config.limits.message_size)

    def _hint(self, data: Data) -> None:
        """How to send it a first message, where nobody has told it who lives here."""
        if self._config.source is None and (users := data.store.users()):
            user = users[0].mailbox
            log.info("a first message: echo Hello | .venv/bin/pillarbox send --from %s --to %s", user, user)
            log.info("it comes to %s/%s/%s/new/", self._folder.mail, user.domain, user.local)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _admin(data: Data, control: DataControl, house: House | None = None) -> Admin:
    return Admin(
        data.config,
        store=data.store,
        directory=data.directory,
        reader=SqliteSpoolReader(data.spool),
        queue=control,
        live=house,
        suppressions=data.suppressions,
    )


@asynccontextmanager
async def offline_admin(config: Config) -> AsyncIterator[Admin]:
    """The operations on the data at rest, under its lock. Raises what CANT_START names."""
    os.umask(0o077)
    folder = DataDir.prepare(config.data)
    with DataLock(folder.root):
        data = Data(config, folder)
        try:
            yield _admin(data, DataControl(data))
        finally:
            await data.close()
