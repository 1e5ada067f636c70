"""The operator's questions to a queue of a million recipients: each is answered in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backlog import BEGIN, RECIPIENTS, WITHIN, ask, make, questions


@pytest.mark.matrix
@pytest.mark.timeout(300)
def test_a_million_recipients(tmp_path: Path) -> None:
    path = tmp_path / "spool-0.db"
    make(path)
    found = {where: ask(path, where, BEGIN + 0.1 * RECIPIENTS) for where in questions()}
    assert {where: times for where, times in found.items() if max(times[:2]) > WITHIN} == {}
    assert found[""][2] == RECIPIENTS and found["domain=d17.example.org"][2] == 50
    assert found["state=held"][2] == found["reply~nowhere"][2] == 0
