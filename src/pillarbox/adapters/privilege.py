"""Users of the operating system: to find one, to act as one for a while, to become one for good; and to seal a process.

Knows no configuration. Invariants: after `become` nothing of who we were can be had back, which is tried, not believed;
a failure on the way there is an error, never a process that is half of one and half of the other. Everything here
holds for the whole process, so it is called before there are threads that must not notice. setresuid(2),
capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = 0
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES = ("CapPrm", "CapEff", "CapAmb")  # proc_pid_status(5)


class PrivilegeError(Exception):
    """Who the process runs as can't be what it should be; the text says why, and the mend."""


@dataclass(frozen=True, slots=True)
class SystemUser:
    """A user of this system. `gid` is the primary group; the others are looked up when they are needed."""

    name: str
    uid: int
    gid: int

    def __str__(self) -> str:
        return self.name

    def groups(self) -> list[int]:
        return os.getgrouplist(self.name, self.gid)


def find_user(name: str) -> SystemUser | None:
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: a NUL in the name
        return None
    return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def user_names() -> list[str]:
    """Of all users of this system."""
    return [entry.pw_name for entry in pwd.getpwall()]


def owner_of(path: Path) -> SystemUser:
    """The user that a file belongs to; one without a name is named by its number. Raises OSError."""
    status = path.stat()
    return _user(status.st_uid, status.st_gid)


def current_user() -> SystemUser:
    return _user(os.geteuid(), os.getegid())


def _user(uid: int, gid: int) -> SystemUser:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return SystemUser(str(uid), uid, gid)
    return SystemUser(entry.pw_name, uid, entry.pw_gid)


def is_root() -> bool:
    return os.geteuid() == ROOT


# --- to be somebody else


@contextmanager
def acting_as(user: SystemUser) -> Iterator[None]:
    """Meet the file system as that user, and be root again behind the block. Raises PrivilegeError."""
    groups, gid = os.getgroups(), os.getegid()
    try:
        os.setgroups(user.groups())
        os.setegid(user.gid)
        os.seteuid(user.uid)  # last: whoever is not root may not change groups
    except OSError as error:
        raise _cant_become(user, error) from error
    try:
        yield
    finally:
        os.seteuid(ROOT)
        os.setegid(gid)
        os.setgroups(groups)


def become(user: SystemUser) -> None:
    """Be that user for good, with its groups, and with no capability left. Raises PrivilegeError."""
    groups = user.groups()
    try:
        os.setgroups(groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        raise _cant_become(user, error) from error
    if user.uid != ROOT:
        _check_dropped(user, groups)


def _check_dropped(user: SystemUser, groups: list[int]) -> None:
    wrong = (
        os.getresuid() != (user.uid,) * 3
        or os.getresgid() != (user.gid,) * 3
        or set(os.getgroups()) != set(groups)
        or _may_be_root()
        or bool(_capabilities())
    )
    if wrong:
        raise PrivilegeError(
            f"root could not be given up for {user}: something keeps its rights alive (see securebits in "
            "capabilities(7)); start without that"
        )


def _may_be_root() -> bool:
    for attempt in (os.setuid, os.seteuid):
        try:
            attempt(ROOT)
        except PermissionError:
            continue
        return True
    return False


def _capabilities() -> int:
    """Those that this process has or may take, as bits; 0 where the system does not tell."""
    try:
        lines = Path("/proc/thread-self/status").read_text("ascii").splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    found = 0
    for name in _CAPABILITIES:
        found |= int(fields.get(name, "0"), 16)
    return found


def _cant_become(user: SystemUser, error: OSError) -> PrivilegeError:
    return PrivilegeError(
        f"can't become the user {user}: {error.strerror}; root needs CAP_SETUID and CAP_SETGID for that, which a "
        "container may have taken away: leave them, or start as that user"
    )


# --- to have less


def seal() -> None:
    """Neither this process nor a child can gain privileges from now on, and its memory, where secrets are, goes to no
    core file and to no debugger of the same user. Raises PrivilegeError.

    The C library is called by ctypes: Python has no prctl, and a dependency for two calls would be one more to trust.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value, what in ((_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs"), (_PR_SET_DUMPABLE, 0, "not dumpable")):
        if libc.prctl(*(ctypes.c_ulong(number) for number in (option, value, 0, 0, 0))) != 0:
            raise PrivilegeError(f"the system does not let the process be {what}: {os.strerror(ctypes.get_errno())}")
