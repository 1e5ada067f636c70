"""The log on standard error: lines for people on a terminal, one JSON object a line elsewhere.

`setup` is called once, by the program; modules get their logger from `logging` and pass what a machine may want to
search by as `extra={"fields": {…}}`. Knows no module's messages.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from pillarbox.app.config import LogFormat


def setup(format: LogFormat, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send all logging to standard error, or the stream, in that format; replaces what was set up before."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    human = format is LogFormat.HUMAN or (format is LogFormat.AUTO and stream.isatty())
    handler.setFormatter(_Human() if human else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", {})
    return fields if isinstance(fields, Mapping) else {}


class _Human(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{time} {record.levelname.lower():7} {record.name.removeprefix('pillarbox.')}: {record.getMessage()}"
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return line.replace("\n", "\\n").replace("\r", "\\r") + fields + trace


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)
