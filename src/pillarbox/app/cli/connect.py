"""How a verb gets its answer: from the running server, or with none running from the data itself, under its lock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pillarbox.app.config import Config
from pillarbox.app.config_load import load
from pillarbox.app.control import ControlClient, NotRunning
from pillarbox.app.daemon import offline_admin
from pillarbox.app.datadir import DataLocked, control_socket
from pillarbox.app.verbs import perform

_PATIENCE = 5.0  # seconds for a server that starts or stops, or another verb, to let go of the data
_PAUSE = 0.1


def ask(config_file: Path | None, verb: str, args: Mapping[str, Any], body: bytes = b"") -> Any:
    """The data of the answer. Raises Refused, ConfigError, DataDirError."""
    config = load(config_file)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return ControlClient(control_socket(config.data)).call(verb, args, body)
        except NotRunning:
            pass
        try:
            return asyncio.run(_offline(config, verb, args, body))
        except DataLocked:
            if time.monotonic() >= end:
                raise
            time.sleep(_PAUSE)


async def _offline(config: Config, verb: str, args: Mapping[str, Any], body: bytes) -> object:
    async with offline_admin(config) as admin:
        return await perform(admin, verb, args, body)
