"""Unix sockets to listen on: their permissions, what a dead server left, and what is never removed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from pillarbox.net.unix import MAX_PATH, SocketFile, SocketTaken, bind_unix, identity


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_permissions(tmp_path: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        with bind_unix(tmp_path / "s", mode):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
    finally:
        os.umask(before)


def test_it_is_never_wider_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before `chmod` it is for nobody else, whatever the umask."""
    seen: list[int] = []
    chmod = os.chmod

    def watched(path: str, mode: int) -> None:
        seen.append(stat.S_IMODE(os.stat(path).st_mode))
        chmod(path, mode)

    monkeypatch.setattr(os, "chmod", watched)
    before = os.umask(0)
    try:
        bind_unix(tmp_path / "s", 0o666).close()
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_what_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    bind_unix(tmp_path / "s", 0o600).close()
    left = identity(tmp_path / "s")
    assert left is not None
    with bind_unix(tmp_path / "s", 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


def test_a_living_one_is_left_alone(tmp_path: Path) -> None:
    with bind_unix(tmp_path / "s", 0o600):
        left = identity(tmp_path / "s")
        with pytest.raises(SocketTaken, match="another process listens there"):
            bind_unix(tmp_path / "s", 0o600)
        assert identity(tmp_path / "s") == left


def test_one_whose_line_is_full_is_alive(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        bound.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "s"))
            with pytest.raises(SocketTaken, match="another process listens there"):
                bind_unix(tmp_path / "s", 0o600)
    assert (tmp_path / "s").exists()


def _file(path: Path) -> None:
    path.write_text("mine")


def _link_to_a_socket(path: Path) -> None:
    bind_unix(path.with_name("other"), 0o600).close()
    path.symlink_to("other")


@pytest.mark.parametrize("make", [_file, Path.mkdir, _link_to_a_socket])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "s")
    left = identity(tmp_path / "s")
    with pytest.raises(SocketTaken, match="is no socket"):
        bind_unix(tmp_path / "s", 0o600)
    assert identity(tmp_path / "s") == left


def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    with pytest.raises(SocketTaken, match=f"more than {MAX_PATH} octets"):
        bind_unix(tmp_path / ("x" * MAX_PATH), 0o600)
    with pytest.raises(FileNotFoundError):
        bind_unix(tmp_path / "none" / "s", 0o600)


def test_our_file_goes_and_no_other(tmp_path: Path) -> None:
    with bind_unix(tmp_path / "s", 0o600) as bound:
        file = SocketFile.of(bound)
        assert file is not None
        (tmp_path / "s").unlink()
        with bind_unix(tmp_path / "s", 0o600) as other:
            file.remove()
            assert (tmp_path / "s").exists()
            its = SocketFile.of(other)
            assert its is not None
            its.remove()
            assert not (tmp_path / "s").exists()
            its.remove()
    with socket.socket() as tcp:
        assert SocketFile.of(tcp) is None
