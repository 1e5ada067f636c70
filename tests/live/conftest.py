"""For tests on live servers: what each of the many processes would else do for itself is done once."""

from __future__ import annotations

import compileall
import sys
from pathlib import Path

import pytest

import pillarbox


@pytest.fixture(scope="session", autouse=True)
def compiled_sources() -> None:
    """Where Python keeps no bytecode (PYTHONDONTWRITEBYTECODE) a server takes twice as long to start."""
    if sys.dont_write_bytecode:
        compileall.compile_dir(Path(pillarbox.__file__).parent, quiet=2)
