"""What the verbs of the command line share: their options and how a verb is added to the parser."""

from __future__ import annotations

import argparse
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

Run = Callable[[argparse.Namespace], int]


class Group(Protocol):
    """What argparse gives for adding verbs to."""

    def add_parser(
        self, name: str, *, help: str, description: str, parents: list[argparse.ArgumentParser], allow_abbrev: bool
    ) -> argparse.ArgumentParser: ...


def config_option(parser: argparse.ArgumentParser, *, default: object = argparse.SUPPRESS) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=default,
        help="the configuration (default: pillarbox.toml here, then the built-in defaults)",
    )


def add_verb(group: Group, name: str, run: Run, help: str, *, prints_data: bool = True) -> argparse.ArgumentParser:
    """A verb with the options that all have."""
    common = argparse.ArgumentParser(add_help=False)
    config_option(common)
    if prints_data:
        common.add_argument("--json", action="store_true", help="print JSON")
    description = f"{help[0].upper()}{help[1:]}."
    parser = group.add_parser(name, help=help, description=description, parents=[common], allow_abbrev=False)
    parser.set_defaults(run=run)
    return parser


def add_family(group: Group, name: str, help: str) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """A verb that is followed by another one, such as `domain add`."""
    description = f"{help[0].upper()}{help[1:]}."
    parser = group.add_parser(name, help=help, description=description, parents=[], allow_abbrev=False)
    config_option(parser)
    return parser.add_subparsers(metavar="ACTION", required=True, title="actions")


def who_calls() -> str:
    """The user of the system who calls, before `sudo` if that was used."""
    if os.getuid() == 0 and (before := os.environ.get("SUDO_USER")):
        return before
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
