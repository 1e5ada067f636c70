"""`pillarbox sendmail`, and the program under the names sendmail, mailq and newaliases: sendmail(8) for programs.

Ends with an exit status of sysexits.h, as those who call it expect. A message goes the way of `pillarbox send`: to the
running server, else into the data itself. Under a name of its own the program is called from anywhere, so it takes a
`pillarbox.toml` of the current directory only from its own user.
"""

from __future__ import annotations

import os
import pwd
import sys
from argparse import Namespace
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import BinaryIO

from pillarbox.app.cli.connect import ask
from pillarbox.app.cli.options import Group, add_verb
from pillarbox.app.cli.output import queue as queue_table
from pillarbox.app.config import FILE_NAME
from pillarbox.app.config_load import ConfigError, load
from pillarbox.app.control import ControlClient, Dialog, Fault, NotRunning, Refused, socket_in
from pillarbox.app.sendmail_text import BadAddress, TooLarge, addresses_in, read_message, recipients_in
from pillarbox.app.sendmail_words import Mode, UsageFault, Wanted, parse
from pillarbox.app.submission import MAX_NAME
from pillarbox.core import reply as r
from pillarbox.core.address import LocalPart

VERB = "sendmail"
NAMES: Mapping[str, Wanted] = {
    "sendmail": Wanted(),
    "mailq": Wanted(mode=Mode.LIST),
    "newaliases": Wanted(mode=Mode.NOTHING),
}
ENVIRONMENT = "PILLARBOX_CONFIG"
SYSTEM_CONFIG = Path("/etc/pillarbox/pillarbox.toml")
LISTED = 1_000_000  # recipients
_PIECE = 64 * 1024
_STATUS = {
    Fault.DATA: os.EX_DATAERR,
    Fault.NO_USER: os.EX_NOUSER,
    Fault.LATER: os.EX_TEMPFAIL,
    Fault.DENIED: os.EX_NOPERM,
    Fault.BUG: os.EX_SOFTWARE,
}


class _NoConfig(Exception):
    """Nobody said which server is meant."""


def register(verbs: Group) -> None:
    """For the help alone: what the words mean is settled before, in `status_of_call`."""
    add_verb(
        verbs,
        VERB,
        _unreachable,
        "submit a message as sendmail(8) does; also when called as sendmail, mailq or newaliases. Takes its options "
        "(-t -i -f -F -bs -bp -bv -C -N -R -V and, ignored, all others), ends with a status of sysexits.h",
        prints_data=False,
    )


def _unreachable(options: Namespace) -> int:
    raise NotImplementedError


def status_of_call(program: str, words: Sequence[str]) -> int | None:
    """Do what is wanted where sendmail is; the exit status, or None where it is not."""
    if program in NAMES:
        return _status(NAMES[program], words, _config_of_program)
    config, rest = _configured(words)
    if not rest or rest[0] != VERB or "--help" in rest[:2]:
        return None
    behind, rest = _configured(rest[1:])
    return _status(NAMES[VERB], rest, lambda: behind or config)


def _configured(words: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    """`--config FILE` in front, and the words behind it."""
    match list(words):
        case ["--config", file, *rest]:
            return Path(file), rest
        case [str(word), *rest] if word.startswith("--config="):
            return Path(word.partition("=")[2]), rest
    return None, words


def _config_of_program() -> Path:
    """Where no option names one."""
    if said := os.environ.get(ENVIRONMENT):
        return Path(said)
    here = Path(FILE_NAME)
    if here.exists() and here.stat().st_uid == os.geteuid():
        return here
    if SYSTEM_CONFIG.exists():
        return SYSTEM_CONFIG
    raise _NoConfig(f"which server? Make {SYSTEM_CONFIG}, set {ENVIRONMENT} to its configuration, or give -C FILE")


def _status(start: Wanted, words: Sequence[str], otherwise: Callable[[], Path | None]) -> int:
    try:
        wanted = parse(words, start)
        if wanted.mode is Mode.NOTHING:
            return os.EX_OK
        _WAYS[wanted.mode](wanted, wanted.config or otherwise())
        sys.stdout.flush()
    except UsageFault as error:
        return _complain(error, os.EX_USAGE)
    except (BadAddress, TooLarge) as error:
        return _complain(error, os.EX_DATAERR)
    except _NoConfig as error:
        return _complain(error, os.EX_CONFIG)
    except ConfigError as error:
        return _complain(error, os.EX_NOPERM if isinstance(error.__cause__, PermissionError) else os.EX_CONFIG)
    except Refused as error:
        otherwise_status = os.EX_USAGE if error.usage else os.EX_UNAVAILABLE
        return _complain(error, otherwise_status if error.fault is None else _STATUS[error.fault])
    except PermissionError as error:
        return _complain(error, os.EX_NOPERM)
    except OSError as error:
        return _complain(error, os.EX_IOERR)
    except KeyboardInterrupt:
        return 130
    return os.EX_OK


def _complain(error: Exception, status: int) -> int:
    for line in str(error).splitlines():
        print(f"{VERB}: {line}", file=sys.stderr)
    return status


# --- a message


def _send(wanted: Wanted, config: Path | None) -> None:
    sender, recipients = _sender(wanted), _recipients(wanted)
    if not recipients and not wanted.from_header:
        raise UsageFault("no recipients: name them, or give -t to take them from the header section")
    text = read_message(_input(), dot_ends=wanted.dot_ends, most=load(config).limits.message_size)
    if wanted.from_header:
        recipients += recipients_in(text)
    if not recipients:
        raise UsageFault("no recipients: neither To, Cc nor Bcc names one")
    args = {
        "sender": sender,
        "recipients": recipients,
        "full_name": _full_name(wanted),
        "notify": list(wanted.notify),
        "ret": wanted.ret,
        "envelope_id": wanted.envelope_id,
        "completes": True,
    }
    data = ask(config, "send", args, text)
    if wanted.verbose:
        print(f"queued as {data['id']}")


def _input() -> BinaryIO:
    if sys.stdin is None:
        raise UsageFault("standard input is closed: the message is read from it")
    return sys.stdin.buffer


def _recipients(wanted: Wanted) -> list[str]:
    """Those among the words; a word may be a list."""
    try:
        return [address for word in wanted.recipients for address in addresses_in(word)]
    except BadAddress as error:
        raise UsageFault(str(error)) from error


def _sender(wanted: Wanted) -> str:
    """The reverse-path; without one, who is logged in."""
    if wanted.sender is None:
        return str(LocalPart(_login()))
    if wanted.sender.strip() in ("", "<>"):
        return "<>"
    try:
        found = addresses_in(wanted.sender)
    except BadAddress as error:
        raise UsageFault(f"-f {error}") from error
    if len(found) != 1:
        raise UsageFault(f"-f {wanted.sender}: one address is needed")
    return found[0]


def _login() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # no such user on the system: common in containers
        return f"uid-{os.getuid()}"


def _full_name(wanted: Wanted) -> str:
    """That of the sender: as it is said, else by the environment, else that of who is logged in and sends."""
    if wanted.full_name:
        return wanted.full_name
    name = os.environ.get("NAME", "")
    if not name and wanted.sender is None:
        name = _gecos()
    return name if name.isprintable() and len(name) <= MAX_NAME else ""


def _gecos() -> str:
    """The full name in the password file; `&` stands for the login name."""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return ""
    return entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())


# --- the rest


def _verify(wanted: Wanted, config: Path | None) -> None:
    recipients = _recipients(wanted)
    if not recipients:
        raise UsageFault("no recipients: -bv needs some")
    for address in ask(config, "reach", {"recipients": recipients})["recipients"]:
        print(f"{address}... deliverable")


def _list(wanted: Wanted, config: Path | None) -> None:
    rows = ask(config, "queue_list", {"where": "", "limit": LISTED})
    print(queue_table(rows) if rows else "Mail queue is empty")


def _smtp(wanted: Wanted, config: Path | None) -> None:
    """Standard input and output are those of a client that speaks SMTP; a server must run for it."""
    client = ControlClient(socket_in(load(config).data))
    try:
        with client.converse("smtp", {}) as dialog:
            Thread(target=_feed, args=(dialog,), daemon=True).start()
            while "closed" not in (line := dialog.receive()):
                _write(b64decode(line["octets"]))
    except (NotRunning, Refused) as error:
        _write(r.CONNECT_CLOSING.wire)
        fault = error.fault if isinstance(error, Refused) else None
        raise Refused(str(error), fault=fault or Fault.LATER) from error


def _feed(dialog: Dialog) -> None:
    """All that comes on standard input, as it comes."""
    while octets := os.read(0, _PIECE):
        dialog.send({"octets": b64encode(octets).decode()})
    dialog.send({"eof": True})


def _write(octets: bytes) -> None:
    sys.stdout.buffer.write(octets)
    sys.stdout.buffer.flush()


_WAYS: Mapping[Mode, Callable[[Wanted, Path | None], None]] = {
    Mode.SEND: _send,
    Mode.VERIFY: _verify,
    Mode.LIST: _list,
    Mode.SMTP: _smtp,
}
