"""How a key of the configuration is declared: its kind, its default and its documentation, on a field of a dataclass.

The text on a field is the reference: `reference.py` prints it, `config_load.py` reads files by it, and neither repeats
it. Defaults stand as they would in the file. Knows no key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from pillarbox.app.config_values import Kind

T = TypeVar("T")
DOCUMENTED = "documented"  # the key in a field's metadata


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one key. `default` is written as in the file; REQUIRED where there is none."""

    key: str
    kind: Kind[Any]
    doc: str
    default: object
    many: bool = False
    least: int = 0  # elements, where there are many


@dataclass(frozen=True, slots=True)
class Section:
    """What is known of one table, or array of tables (`many`)."""

    key: str
    table: type[Any]
    doc: str
    many: bool = False


REQUIRED = object()


def documented(table: type[Any]) -> Iterator[tuple[str, Setting | Section]]:
    """The fields of a table that are keys of the file: the field's name and what is known of the key."""
    for item in fields(table):
        if known := item.metadata.get(DOCUMENTED):
            yield item.name, known


def one(key: str, kind: Kind[T], default: object, doc: str) -> T:
    known = {DOCUMENTED: Setting(key, kind, doc, default)}
    if default is REQUIRED:
        return field(metadata=known)  # type: ignore[no-any-return]
    if default is None:
        return field(default=None, metadata=known)  # type: ignore[return-value]
    return field(default=kind.read(default), metadata=known)


def list(key: str, kind: Kind[T], default: tuple[object, ...], doc: str, *, least: int = 0) -> tuple[T, ...]:
    known = {DOCUMENTED: Setting(key, kind, doc, default, many=True, least=least)}
    return field(default=tuple(kind.read(item) for item in default), metadata=known)


def table(key: str, table: type[T], doc: str) -> T:
    return field(default_factory=table, metadata={DOCUMENTED: Section(key, table, doc)})


def tables(key: str, table: type[T], default: tuple[T, ...], doc: str) -> tuple[T, ...]:
    return field(default=default, metadata={DOCUMENTED: Section(key, table, doc, many=True)})
