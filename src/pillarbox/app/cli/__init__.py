"""The command line: `pillarbox VERB`. Exit status 0 done, 1 refused or failed, 2 wrong usage.

Only here are errors turned into a line on standard error and an exit status; a bug shows its traceback. Each family of
verbs has a module that adds itself to the parser; what is printed is made in `output`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pillarbox import __version__
from pillarbox.app.cli import (
    conform,
    directory,
    fetch,
    forecast,
    mail,
    queue,
    replies,
    sendmail,
    server,
    shaping,
    suppression,
    watch,
    why,
)
from pillarbox.app.cli.options import config_option
from pillarbox.app.config_load import ConfigError
from pillarbox.app.control import Refused

__all__ = ["main", "parser"]

# in the order in which --help lists their verbs
_FAMILIES = (
    *(server, directory, mail, sendmail, queue, why, forecast, suppression),
    *(fetch, replies, shaping, conform, watch),
)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="pillarbox", description="A mail transfer agent that can say why.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"pillarbox {__version__}")
    config_option(top, default=None)
    verbs = top.add_subparsers(metavar="VERB", required=True, title="verbs")
    for family in _FAMILIES:
        family.register(verbs)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    program = Path(sys.argv[0]).name if argv is None else ""
    if (ended := sendmail.status_of_call(program, sys.argv[1:] if argv is None else argv)) is not None:
        return ended
    options = _parsed(argv)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except Refused as error:
        return _complain(str(error), 2 if error.usage else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush fails, too
        return 1
    except (ConfigError, OSError) as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return 130
    return status


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """As parse_args, but terms of a WHERE may stand behind an option, too: argparse leaves those over."""
    top = parser()
    options, rest = top.parse_known_args(argv)
    if rest and (not hasattr(options, "where") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.where = [*options.where, *rest]
    return options


def _complain(text: str, status: int) -> int:
    for line in text.splitlines():
        print(f"pillarbox: {line}", file=sys.stderr)
    return status
