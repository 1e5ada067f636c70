"""For every test: a reply that the reply table does not know for its command is a defect, wherever it comes up."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("no clock", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("no clock")


class _Defects(logging.Handler):
    """Keeps what is logged of replies outside the table."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "reply table does not know" in (text := record.getMessage()):
            self.found.append(text)


@pytest.fixture(autouse=True)
def permissions_of_files() -> Iterator[None]:
    """A server that runs in the process of a test makes its files private; those of the next test are as ever."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def replies_outside_the_table() -> Iterator[list[str]]:
    """Those of this test; one that provokes some empties the list."""
    handler = _Defects()
    logger = logging.getLogger("pillarbox")
    logger.addHandler(handler)
    yield handler.found
    logger.removeHandler(handler)
    assert not handler.found
