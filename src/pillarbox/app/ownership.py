"""Whose the data directory is: made for the user that the server is to run as, or refused with the mend.

Root works here in places that somebody else may change meanwhile, so it gives away only what it made itself and a
directory that is empty, never follows a symbolic link on the last step, and never goes down a tree: `data = "/etc"` by
a slip must not cost the machine. Raises PrivilegeError.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from pillarbox.adapters.privilege import ROOT, PrivilegeError, SystemUser, acting_as
from pillarbox.adapters.system import sync_directory
from pillarbox.app.datadir import DataDir


def make_for(root: Path, user: SystemUser) -> None:
    """Make the directory where it is missing; that user's afterwards, and reachable by it. Only root may call it."""
    try:
        _make(root)
        if user.uid != ROOT and is_new(root):
            _give(root, user)
    except OSError as error:
        raise PrivilegeError(f"can't make the data directory {root} for {user}: {error.strerror}") from error
    if (found := trouble(root, user)) is not None:
        raise PrivilegeError(": ".join(found))


def _make(root: Path) -> None:
    """What is missing above it everybody may go through."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    before = os.umask(0o022)
    try:
        for folder in reversed(missing):
            folder.mkdir(mode=0o700 if folder == root else 0o755)
            sync_directory(folder.parent)
    finally:
        os.umask(before)


def _give(root: Path, user: SystemUser) -> None:
    """Give away a directory of root's that is empty: one just made, or a fresh mount."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == ROOT and not os.listdir(descriptor):
            os.fchown(descriptor, user.uid, user.gid)
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def is_new(root: Path) -> bool:
    """Whether it is one to be given away, by its look."""
    return not root.is_symlink() and root.stat().st_uid == ROOT and not any(root.iterdir())


def trouble(root: Path, user: SystemUser) -> tuple[str, str] | None:
    """Why that user can't work in it, and the mend."""
    mend = f"chown -R {user}: {shlex.quote(str(root))}"  # which goes through no symbolic link
    if _foreign(root, user):
        return f"the data directory {root} does not belong to {user}", mend
    for path in _contents(DataDir(root, created=False)):
        if _foreign(path, user):
            return f"{path} does not belong to {user}, as the data directory does", mend
    with acting_as(user):
        for folder in reversed(root.resolve().parents):
            if not os.access(folder, os.X_OK, effective_ids=True):
                what = f"{user} can't come to the data directory {root}, for {folder} lets nobody else through"
                return what, f"chmod o+x {shlex.quote(str(folder))}, or set `data`"
    return None


def _contents(data: DataDir) -> list[Path]:
    """What the server itself keeps there; other things may lie there, too."""
    databases = [path.with_name(path.name + end) for path in (data.directory_db, data.spool_db) for end in ("", "-wal")]
    return [data.root / "lock", *databases, data.bodies, data.mail]


def _foreign(path: Path, user: SystemUser) -> bool:
    try:
        return path.stat().st_uid != user.uid
    except FileNotFoundError:
        return False
