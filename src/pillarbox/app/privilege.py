"""Who the server runs as, by the configuration: whether root is given up, for whom, and what that user must reach.

A server that is started as root binds its ports, becomes `user`, and is never root again; so all that it reads again
later must be readable by that user, and it is said here what is not. Data at rest is worked on as its owner, or files
of root's would stand in the server's way. Knows no operation on mail. Everything raises PrivilegeError.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import dns

import pillarbox
from pillarbox.adapters.privilege import PrivilegeError, SystemUser, acting_as, become, current_user, is_root, owner_of
from pillarbox.app.config import Config
from pillarbox.app.ownership import is_new, make_for, trouble

AS_ROOT = (
    "RUNNING AS ROOT: whoever finds a way into this server has the whole machine; make a user for it "
    '(useradd --system pillarbox), set user = "pillarbox", and give it the data: chown -R pillarbox: %s'
)


@dataclass(frozen=True, slots=True)
class Problem:
    """`fatal`: a server does not start."""

    what: str
    mend: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.mend}"


def new_user(config: Config) -> SystemUser | None:
    """Whom root becomes; None where nobody else is wanted."""
    wanted = config.user
    if wanted is None or is_root():
        return wanted
    current = current_user()
    if wanted.uid != current.uid:
        raise PrivilegeError(
            f'user = "{wanted}", but this runs as {current}, who can\'t become somebody else: run it as root or as '
            f"{wanted} (sudo -u {wanted} …), or leave the key out"
        )
    return None


def as_user(user: SystemUser | None) -> AbstractContextManager[None]:
    """Inside the block files are met as that user; None: as whoever we are."""
    return nullcontext() if user is None or not is_root() else acting_as(user)


def gives_away(config: Config) -> bool:
    """Whether the data directory is an empty one that root will give to `user`."""
    return config.user is not None and is_root() and config.data.is_dir() and is_new(config.data)


def become_for_data(config: Config) -> None:
    """For work on data with no server: as `user`, or as who owns the data; so that root leaves no file of its own."""
    user = new_user(config)
    if user is not None:
        make_for(config.data, user)
    elif is_root() and config.data.exists():
        user = owner_of(config.data)
    if user is None or not is_root() or user == current_user():
        return
    check_reach(user)
    become(user)


# --- what that user must reach


def check_reach(user: SystemUser) -> None:
    """Python's own files, some of which are read only when they are needed."""
    for problem in _unreadable_program(user):
        raise PrivilegeError(str(problem))


def problems(config: Config) -> Iterator[Problem]:
    """What stands in the way of running as `user`, for whoever may look into everything."""
    user = new_user(config)
    if user is None:
        return
    yield from _unreadable_program(user)
    if config.data.exists() and not gives_away(config) and (found := trouble(config.data, user)) is not None:
        yield Problem(*found, fatal=True)
    if config.source is not None and (why := _why_unreadable(config.source, user)):
        yield Problem(f"{user} can't read {config.source}, so a reload will fail", why, fatal=False)


def _unreadable_program(user: SystemUser) -> Iterator[Problem]:
    """The standard library, the libraries, and this."""
    for path in (os.__file__, dns.__file__, pillarbox.__file__):
        if why := _why_unreadable(Path(path), user):
            mend = f"{why}, or install where everybody may read"
            yield Problem(f"{user} can't read the program's own files", mend, fatal=True)
            return


def _why_unreadable(path: Path, user: SystemUser) -> str:
    """What to do so that the user can read the file; "" where it can."""
    with as_user(user):
        for folder in reversed(path.resolve().parents):
            if not os.access(folder, os.X_OK, effective_ids=True):
                return f"chmod o+x {folder}"
        return "" if os.access(path, os.R_OK, effective_ids=True) else f"chgrp {user} {path} && chmod g+r {path}"
