"""Users of the system and the sealing of a process, where no root is needed or root is imagined."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from pillarbox.adapters import privilege as adapter
from pillarbox.adapters.privilege import (
    PrivilegeError,
    SystemUser,
    acting_as,
    become,
    current_user,
    find_user,
    owner_of,
)
from pillarbox.app import privilege
from pillarbox.app.config import Config

STRANGER = SystemUser("stranger", os.geteuid() + 4242, os.getegid() + 4242)


def forbidden(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_users_are_found_by_name() -> None:
    entry = pwd.getpwuid(0)
    assert find_user(entry.pw_name) == SystemUser(entry.pw_name, 0, entry.pw_gid)
    assert find_user("no-such-user") is None
    assert find_user("no\0user") is None


def test_files_have_owners(tmp_path: Path) -> None:
    assert owner_of(tmp_path) == current_user()


def test_an_owner_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(_: int) -> object:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert owner_of(tmp_path) == SystemUser(str(os.geteuid()), os.geteuid(), tmp_path.stat().st_gid)


@pytest.mark.parametrize("call", ["setgroups", "setresgid", "setresuid"])
def test_a_user_that_can_not_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, forbidden if name == call else lambda *_: None)
    with pytest.raises(PrivilegeError, match=r"^can't become the user stranger: Operation not permitted; .*CAP_SETUID"):
        become(STRANGER)


def test_acting_needs_root_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "setgroups", forbidden)
    with pytest.raises(PrivilegeError, match="can't become the user stranger"), acting_as(STRANGER):
        pytest.fail("acted")


@pytest.mark.parametrize(
    ("kept", "value"),
    [
        ("getresuid", (STRANGER.uid, STRANGER.uid, 0)),
        ("getresgid", (0, STRANGER.gid, STRANGER.gid)),
        ("getgroups", [STRANGER.gid, 0]),
        ("setuid", None),
        ("seteuid", None),
        ("capabilities", 1 << 10),
    ],
)
def test_what_is_kept_of_root_is_an_error(monkeypatch: pytest.MonkeyPatch, kept: str, value: object) -> None:
    """Each thing that may be left, alone; and with none left it is well."""
    given: dict[str, object] = {
        "getresuid": (STRANGER.uid,) * 3,
        "getresgid": (STRANGER.gid,) * 3,
        "getgroups": [STRANGER.gid],
    }
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *_: None)
    for name in ("setuid", "seteuid"):
        monkeypatch.setattr(os, name, forbidden)
    for name, found in given.items():
        monkeypatch.setattr(os, name, lambda found=found: found)
    monkeypatch.setattr(adapter, "_capabilities", lambda: 0)
    become(STRANGER)
    if kept == "capabilities":
        monkeypatch.setattr(adapter, "_capabilities", lambda: value)
    else:
        monkeypatch.setattr(os, kept, lambda *_: value)
    with pytest.raises(PrivilegeError, match="root could not be given up for stranger"):
        become(STRANGER)


def test_who_is_not_root_can_be_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "is_root", lambda: False)
    with pytest.raises(PrivilegeError, match=r'^user = "stranger", but this runs as .*sudo -u stranger'):
        privilege.new_user(Config(user=STRANGER))
    assert privilege.new_user(Config(user=current_user())) is None
    assert privilege.new_user(Config()) is None


def test_root_becomes_whom_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "is_root", lambda: True)
    assert privilege.new_user(Config(user=STRANGER)) == STRANGER
    assert privilege.new_user(Config()) is None


def test_a_sealed_process_and_its_children_gain_nothing() -> None:
    code = """
import resource, subprocess
from pillarbox.adapters.privilege import seal
seal()
print(resource.getrlimit(resource.RLIMIT_CORE))
print(subprocess.run(["grep", "NoNewPrivs", "/proc/self/status"], capture_output=True, text=True).stdout.split()[1])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split("\n")[:2] == ["(0, 0)", "1"]
