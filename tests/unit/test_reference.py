"""The committed reference pages are what the code says now; `make docs` renews them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillarbox.app.reference import pages

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", ["configuration.md", "cli.md"])
def test_pages_are_up_to_date(name: str) -> None:
    assert (REFERENCE / name).read_text(encoding="utf-8") == pages()[name]
