"""The data directory: made for its owner only, worked on by one at a time, seeded when it is brand-new."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pillarbox.adapters.directory_sqlite import DirectoryStore
from pillarbox.app.config import Config
from pillarbox.app.datadir import DataDir, DataDirError, DataLock, DataLocked, lock_holder, seed_defaults, wants_seed
from pillarbox.core.address import Domain, Mailbox
from pillarbox.engine.ports import Accepted


def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    data = DataDir.prepare(tmp_path / "deep" / "data")
    assert data.created and stat.S_IMODE(data.root.stat().st_mode) == 0o700


def test_it_is_new_until_it_has_a_directory(tmp_path: Path) -> None:
    data = DataDir.prepare(tmp_path)
    assert data.created
    DirectoryStore(data.directory_db).close()
    assert not DataDir.prepare(tmp_path).created


def test_paths(tmp_path: Path) -> None:
    data = DataDir(tmp_path, created=True)
    paths = (data.directory_db, data.spool_db, data.bodies, data.mail, data.socket)
    assert [path.name for path in paths] == ["directory.db", "spool-0.db", "bodies-0", "mail", "control.sock"]
    assert all(path.parent == tmp_path for path in paths)


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataDirError, match="can't make the data directory .*data: File exists"):
        DataDir.prepare(tmp_path / "data")


def test_the_lock_keeps_others_out_and_says_who_holds_it(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    with DataLock(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()
        with pytest.raises(DataLocked) as caught, DataLock(tmp_path):
            pass
        assert str(caught.value) == f"another pillarbox (pid {os.getpid()}) works on {tmp_path}"
    assert lock_holder(tmp_path) is None
    with DataLock(tmp_path):
        pass


def test_the_lock_waits_where_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = DataLock(tmp_path)
    first.__enter__()
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        first.__exit__(None, None, None)

    monkeypatch.setattr("time.sleep", nap)
    with DataLock(tmp_path, patience=60):
        assert lock_holder(tmp_path) == os.getpid()
    assert len(naps) == 1


def test_a_lock_without_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="can't lock"), DataLock(tmp_path / "none"):
        pass


@pytest.mark.parametrize(
    ("login", "local"),
    [("alice", "alice"), ("CORP\\alice b", "CORP-alice-b"), ("\u00e4", "postmaster"), (None, "postmaster")],
)
def test_the_seed_gives_every_first_message_a_home(
    login: str | None, local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getuser() -> str:
        if login is None:
            raise KeyError("no such uid")
        return login

    monkeypatch.setattr("getpass.getuser", getuser)
    monkeypatch.setattr("socket.gethostname", lambda: "Box")
    monkeypatch.setattr("socket.getfqdn", lambda: "box.example.test")
    store = DirectoryStore(tmp_path / "directory.db")
    seed_defaults(store)
    assert [str(domain) for domain in store.domains()] == ["localhost", "box", "box.example.test"]
    directory = store.snapshot(Domain("box.example.test"))
    for domain in store.domains():
        found = directory.resolve(Mailbox.parse(f"anybody@{domain}"))
        assert found == Accepted((Mailbox.parse(f"{local}@localhost"),))
    store.close()


def test_only_who_configured_nothing_gets_the_seed(tmp_path: Path) -> None:
    config = Config()
    assert wants_seed(config, DataDir(tmp_path, created=True))
    assert not wants_seed(config, DataDir(tmp_path, created=False))
    assert not wants_seed(replace(config, source=Path("pillarbox.toml")), DataDir(tmp_path, created=True))
