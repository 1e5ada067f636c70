"""The committed pages that are made from the code say what it says now; `make docs` renews them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillarbox.app.reference import pages

DOCS = Path(__file__).parents[2] / "docs"


NAMES = ["reference/configuration.md", "reference/cli.md", "reference/replies.md", "explanation/states.md"]


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == pages()[name]


def test_no_page_is_forgotten() -> None:
    assert list(pages()) == NAMES
