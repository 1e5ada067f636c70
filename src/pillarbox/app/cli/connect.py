"""How a verb gets its answer: from the running server, or with none running from the data itself, under its lock.

What works on the data is imported only when there is no server to ask, so that a verb answers at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pillarbox.app.config import Config
from pillarbox.app.config_load import load
from pillarbox.app.control import ControlClient, Fault, NotRunning, Refused, socket_in

_PATIENCE = 5.0  # seconds for a server that starts or stops, or another verb, to let go of the data
_PAUSE = 0.1


def ask(config_file: Path | None, verb: str, args: Mapping[str, Any], body: bytes = b"") -> Any:
    """The data of the answer. Raises Refused, ConfigError."""
    config = load(config_file)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return ControlClient(socket_in(config.data)).call(verb, args, body)
        except NotRunning:
            pass
        try:
            return _at_rest(config, verb, args, body)
        except _Locked as error:
            if time.monotonic() >= end:
                raise Refused(str(error), fault=Fault.LATER) from error
            time.sleep(_PAUSE)


class _Locked(Exception):
    """Somebody else works on the data at this moment."""


def _at_rest(config: Config, verb: str, args: Mapping[str, Any], body: bytes) -> object:
    """Raises Refused, _Locked."""
    from pillarbox.app.daemon import CANT_START, offline_admin
    from pillarbox.app.datadir import DataLocked
    from pillarbox.app.privilege import become_for_data
    from pillarbox.app.verbs import perform

    async def work() -> object:
        async with offline_admin(config) as admin:
            return await perform(admin, verb, args, body)

    try:
        become_for_data(config)
        return asyncio.run(work())
    except DataLocked as error:
        raise _Locked(str(error)) from error
    except CANT_START as error:
        raise Refused(str(error), fault=_fault(error)) from error


def _fault(error: BaseException) -> Fault | None:
    from pillarbox.app.datadir import DataDirForbidden

    if isinstance(error, DataDirForbidden | PermissionError):
        return Fault.DENIED
    return Fault.LATER if isinstance(error, OSError) else None
