"""Who the server is on the machine: root is given up for good, for the data's owner, and what it leaves is private."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pillarbox
from tests.live.support import BOB, HOST, PILLARBOX, Client, Server, arrived, needs_root, until
from tests.live.users import as_user, low_port, nobody, open_place, readable, status, tree

MESSAGE = b"Subject: hello\r\n\r\nhello\r\n"


@pytest.fixture
def place() -> Iterator[Path]:
    needs_root()
    with open_place() as place:
        yield place


def server(place: Path, user: str | None = "nobody", **settings: Any) -> Server:
    if user is not None:
        settings["user"] = user
    made = Server(place, settings=settings)
    made.prefix = readable(place)
    return made


def refused(made: Server, *words: str) -> str:
    """Standard error of a verb that can't do its work."""
    return made.cli(*(words or ("serve",)), status=1)


def mx(port: int, name: str = "mx") -> dict[str, str]:
    return {"name": name, "address": f"{HOST}:{port}"}


def reload(running: Server, says: str) -> None:
    before = running.log.count(says)
    running.signal(signal.SIGHUP)
    until(lambda: running.log.count(says) > before, what=f"{says}: {running.log}")


# --- root is given up


def test_low_ports_are_bound_and_then_root_is_given_up(place: Path) -> None:
    user = nobody()
    with server(place, listener=[mx(low_port()), mx(0, "high")]) as running:
        assert running.port < 1024
        seen = status(running.pid)
        assert seen["Uid"] == [str(user.uid)] * 4
        assert seen["Gid"] == [str(user.gid)] * 4
        assert {int(group) for group in seen["Groups"]} == set(os.getgrouplist(user.name, user.gid))
        assert [int(seen[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
        threads = [int(task.name) for task in Path(f"/proc/{running.pid}/task").iterdir()]
        assert len(threads) > 1 and all(status(thread)["Uid"] == seen["Uid"] for thread in threads)
        assert "ROOT" not in running.log
        running.local(BOB)
        with Client(running.port) as client:
            assert client.send(MESSAGE).startswith("250")
        arrived(running)
    assert {path.lstat().st_uid for path in tree(running.data)} == {user.uid}


def test_the_user_has_its_own_groups_and_none_of_roots(place: Path) -> None:
    """Of a user with a supplementary group of its own, made for this in the group file that a namespace sees."""
    groups = place / "group"
    groups.write_text(Path("/etc/group").read_text() + "certificates:x:64999:nobody\n")
    made = server(place)
    mount = 'mount --bind "$0" /etc/group && exec "$@"'
    made.prefix = ("unshare", "--mount", "setpriv", "--groups=0,64998", "sh", "-c", mount, str(groups), *made.prefix)
    with made as running:
        found = {int(group) for group in status(running.pid)["Groups"]}
    assert found == {64999, nobody().gid}


def test_after_that_a_reload_works_but_for_low_ports(place: Path) -> None:
    first, low = mx(0), low_port()
    with server(place, listener=[first]) as running:
        running.configure(listener=[first, mx(0, "second")])
        reload(running, "reload: done")
        until(lambda: "second" in running.printed_ports(), what="the second listener")
        running.configure(listener=[first, mx(low, "third")])
        reload(running, "the old configuration stays")
        assert f"listener third: can't listen on {HOST}:{low}: Permission denied" in running.log
        assert "CAP_NET_BIND_SERVICE" in running.log and "restart" in running.log
        for port in running.printed_ports().values():
            Client(port).socket.close()
        running.configure(user="daemon")
        reload(running, "the old configuration stays")
        assert "user can't be changed in a running server (from nobody)" in running.log


def test_without_a_user_root_stays_and_the_log_says_so(place: Path) -> None:
    with server(place, user=None) as running:
        assert status(running.pid)["Uid"] == ["0"] * 4
        assert "RUNNING AS ROOT" in running.log and f"chown -R pillarbox: {running.data}" in running.log


def test_root_as_the_user_is_root_and_the_log_says_so(place: Path) -> None:
    with server(place, user="root") as running:
        assert status(running.pid)["Uid"] == ["0"] * 4
        assert "RUNNING AS ROOT" in running.log


def test_where_the_capability_is_kept_low_ports_come_with_a_reload(place: Path) -> None:
    """As a service manager does it: never root, with CAP_NET_BIND_SERVICE."""
    made, low = server(place, user=None), low_port()
    made.data.mkdir(mode=0o700)
    os.chown(made.data, nobody().uid, nobody().gid)
    keeps = ("--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service")
    made.prefix = (*made.prefix, *as_user(nobody()), *keeps)
    with made as running:
        running.configure(listener=[mx(0), mx(low, "low")])
        reload(running, "reload: done")
        Client(low).socket.close()


@pytest.mark.parametrize(("user", "status_"), [("nobody", 0), ("daemon", 1)])
def test_who_is_not_root_can_be_nobody_else(place: Path, user: str, status_: int) -> None:
    made = server(place, user=user)
    made.data.mkdir(mode=0o700)
    os.chown(made.data, nobody().uid, nobody().gid)
    made.prefix = (*made.prefix, *as_user(nobody()))
    if status_ == 0:
        with made as running:
            assert status(running.pid)["Uid"] == [str(nobody().uid)] * 4
            assert status(running.pid)["NoNewPrivs"] == ["1"]
    else:
        for words in (("serve",), ("domain", "add", "example.test")):
            said = refused(made, *words)
            assert 'user = "daemon", but this runs as nobody' in said and "sudo -u daemon" in said
        assert list(made.data.iterdir()) == []


# --- nothing can be gained, and nothing leaks


@pytest.mark.parametrize("user", ["nobody", None])
def test_no_privilege_can_be_gained_and_no_memory_is_shown(place: Path, user: str | None) -> None:
    with server(place, user=user) as running:
        assert status(running.pid)["NoNewPrivs"] == ["1"]
        limits = Path(f"/proc/{running.pid}/limits").read_text()
        (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]
        assert Path(f"/proc/{running.pid}/environ").stat().st_uid == 0  # that of an undumpable process: proc(5)
        if user is not None:
            command = [*as_user(nobody()), "cat", f"/proc/{running.pid}/environ"]
            assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("user", ["nobody", None])
def test_what_is_written_is_for_its_owner_only(place: Path, user: str | None) -> None:
    before = os.umask(0)
    try:
        with server(place, user=user, listener=[{**mx(0), "tls": "starttls"}]) as running:
            running.local(BOB)
            with Client(running.port) as client:
                assert client.send(MESSAGE).startswith("250")
                assert client.send(MESSAGE + b"x" * 70 + b"\r\n").startswith("250")
            arrived(running, 2)
            modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in tree(running.data)}
        names = {path.name for path in modes}
        assert {"lock", "control.sock", "directory.db", "spool-0.db", "self-signed.key", "new"} <= names
        assert [path for path, mode in modes.items() if mode & 0o077] == []
    finally:
        os.umask(before)


# --- whose the data are


def test_verbs_of_root_leave_no_file_of_roots(place: Path) -> None:
    """With no server running, in data that are not there yet; then without the key, in data that are somebody's."""
    made = server(place, data=str(place / "deep" / "data"))
    made.data = place / "deep" / "data"
    made.cli("domain", "add", "example.test")
    made.cli("user", "add", BOB)
    assert {path.lstat().st_uid for path in tree(made.data)} == {nobody().uid}
    assert (stat.S_IMODE(made.data.parent.stat().st_mode), made.data.parent.stat().st_uid) == (0o755, 0)
    del made.settings["user"]
    made.configure()
    made.cli("send", "--from", BOB, "--to", BOB, text=b"hello\n")
    assert made.ask("queue", "count") == {"count": 1}
    assert {path.lstat().st_uid for path in tree(made.data)} == {nobody().uid}
    made.configure(user="nobody")
    with made as running:
        arrived(running)


def test_an_empty_directory_of_roots_is_given_away(place: Path) -> None:
    made = server(place)
    made.data.mkdir(mode=0o755)
    with made:
        assert (made.data.stat().st_uid, stat.S_IMODE(made.data.stat().st_mode)) == (nobody().uid, 0o700)


def test_a_directory_with_something_in_it_is_never_given_away(place: Path) -> None:
    made = server(place)
    made.data.mkdir()
    kept = made.data / "kept"
    kept.write_text("root's")
    said = refused(made)
    assert f"{made.data} does not belong to nobody: chown -R nobody: {made.data}" in said
    assert {path.stat().st_uid for path in (made.data, kept)} == {0}


def test_no_symbolic_link_is_followed_to_be_given_away(place: Path) -> None:
    made, elsewhere = server(place), place / "elsewhere"
    elsewhere.mkdir()
    made.data.symlink_to(elsewhere)
    assert "does not belong to nobody" in refused(made)
    assert elsewhere.stat().st_uid == 0
    os.chown(elsewhere, nobody().uid, nobody().gid)  # but an operator may put the data elsewhere
    with made:
        assert (elsewhere / "lock").stat().st_uid == nobody().uid


def test_files_of_roots_in_the_data_are_named(place: Path) -> None:
    made = server(place)
    with made:
        pass
    os.chown(made.data / "directory.db", 0, 0)
    said = refused(made)
    assert f"{made.data}/directory.db does not belong to nobody" in said and f"chown -R nobody: {made.data}" in said
    assert (f"user: {made.data}/directory.db does not belong to nobody, as the data directory does", "fail") in check(
        made
    )


def test_a_way_that_is_closed_is_named(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    made = server(place, data=str(closed / "data"))
    assert f"for {closed} lets nobody else through: chmod o+x {closed}" in refused(made)


# --- what is read again must be readable


@pytest.fixture
def secret(place: Path) -> Path:
    file = place / "relay.secret"
    file.write_text("user\nhush-hush\n")
    file.chmod(0o600)
    return file


def test_secrets_must_be_readable_by_the_user(place: Path, secret: Path) -> None:
    route = {"match": "*", "next_hop": f"smtp://{HOST}:1", "credentials": str(secret)}
    made = server(place, route=[route])
    assert f"{secret}: can't be read: give the user that the server runs as the right to" in refused(made)
    os.chown(secret, 0, nobody().gid)
    secret.chmod(0o640)
    with made as running:
        reload(running, "reload: done")


def test_check_says_so_before(place: Path, secret: Path) -> None:
    route = {"match": "*", "next_hop": f"smtp://{HOST}:1", "credentials": str(secret)}
    made = server(place, route=[route])
    made.config.chmod(0o600)
    found = check(made)
    assert (
        f"credentials: {secret}: can't be read: give the user that the server runs as the right to",
        "fail",
    ) in found
    assert (f"user: nobody can't read {made.config}, so a reload will fail", "warn") in found
    for file in (secret, made.config):
        os.chown(file, 0, nobody().gid)
        file.chmod(0o640)
    made.data.mkdir(mode=0o700)
    assert {("user: nobody", "ok"), (f"credentials: {secret}", "ok")} <= check(made)
    (made.data / "directory.db").touch()
    assert (f"user: the data directory {made.data} does not belong to nobody", "fail") in check(made)


def check(made: Server) -> set[tuple[str, str]]:
    command = [*made.prefix, str(PILLARBOX), "check", "--json", "--config", str(made.config)]
    run = subprocess.run(command, capture_output=True, check=False, timeout=60)
    return {(finding["what"], finding["level"]) for finding in json.loads(run.stdout)}


def test_a_program_that_the_user_can_not_read_is_named(place: Path) -> None:
    """With its libraries in a closed directory."""
    made = server(place)
    libraries = place / "libraries"
    libraries.mkdir(mode=0o700)
    shutil.copytree(Path(pillarbox.__file__).parent, libraries / "pillarbox")
    made.prefix = (*made.prefix, "env", f"PYTHONPATH={libraries}")
    said = refused(made)
    assert f"nobody can't read the program's own files: chmod o+x {libraries}" in said
