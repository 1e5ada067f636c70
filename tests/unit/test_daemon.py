"""The parts put together, without a process of their own: sockets, bounds, the operator's hand, what a backup holds."""

from __future__ import annotations

import asyncio
import socket
import tarfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pillarbox.adapters.directory_sqlite import DirectoryStore
from pillarbox.adapters.spool_reader import SqliteSpoolReader
from pillarbox.adapters.spool_sqlite import SqliteSpool
from pillarbox.app import queue_control
from pillarbox.app.admin import QueueControl
from pillarbox.app.config import Config
from pillarbox.app.config_delivery import RouteConfig
from pillarbox.app.config_limits import LimitsConfig
from pillarbox.app.config_listener import ListenerConfig
from pillarbox.app.config_values import Endpoint
from pillarbox.app.data import Data
from pillarbox.app.datadir import DataDir
from pillarbox.app.house import House
from pillarbox.app.queue_control import DataControl
from pillarbox.app.sockets import PortInUse, bind, bind_all, key
from pillarbox.app.submission import UnfitText
from pillarbox.core.address import Domain, Mailbox
from pillarbox.core.envelope import MessageId
from pillarbox.engine.inspection import RecipientRow
from pillarbox.engine.mail import State
from pillarbox.engine.ports import SpoolBroken, SpoolError, User
from pillarbox.engine.predicate import STATES
from pillarbox.engine.routing import Discard

TEXT = b"Subject: x\r\n\r\nbody\r\n"
LARGE = b"Subject: x\r\n\r\n" + b"x" * 300_000 + b"\r\n"
ALICE = Mailbox.parse("alice@example.test")
FAR = Mailbox.parse("bob@far.example")


def listener(name: str, address: str = "127.0.0.1:0") -> ListenerConfig:
    host, _, port = address.rpartition(":")
    return ListenerConfig(name=name, address=Endpoint(ip_address(host.strip("[]")), int(port)))


def config(root: Path, *, limits: LimitsConfig | None = None) -> Config:
    return replace(
        Config(),
        hostname=Domain.parse("mx.example.test"),
        data=root,
        source=root / "pillarbox.toml",
        routes=(RouteConfig(match="*", next_hop=Discard()),),
        limits=limits or LimitsConfig(),
    )


def at_work(root: Path, main: Callable[[Data], Coroutine[Any, Any, None]], *, given: Config | None = None) -> None:
    """With the data of a directory open."""

    async def opened() -> None:
        async with asyncio.timeout(30):
            data = Data(given or config(root), DataDir.prepare(root))
            try:
                await main(data)
            finally:
                await data.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(opened())


# --- sockets


def test_a_bound_socket_says_where_it_is() -> None:
    with bind(listener("mx")) as bound:
        host, port = bound.getsockname()
        assert host == "127.0.0.1" and port > 0 and not bound.getblocking()
        with socket.create_connection((host, port)):
            pass  # it listens already


def test_an_address_in_use_is_named() -> None:
    with bind(listener("first")) as bound:
        taken = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(PortInUse, match=rf"^listener second: can't listen on {taken}: Address already in use$"):
            bind(listener("second", taken))


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(PortInUse, match=r"^listener mx: can't listen on 192\.0\.2\.1:0: Cannot assign"):
        bind(listener("mx", "192.0.2.1:0"))


def test_an_ipv6_listener_leaves_ipv4_alone() -> None:
    with bind(listener("six", "[::1]:0")) as six:
        assert six.family is socket.AF_INET6
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_all_sockets_are_bound_or_none() -> None:
    with bind(listener("first")) as bound:
        taken = f"127.0.0.1:{bound.getsockname()[1]}"
        free = bind(listener("free"))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        with pytest.raises(PortInUse):
            bind_all((listener("a", address), listener("b", taken)), set())
        bind(listener("again", address)).close()  # what was bound before the fault was given back


def test_a_listener_that_is_open_is_not_bound_again() -> None:
    kept, new = listener("kept"), listener("new")
    sockets = bind_all((kept, new), {key(kept)})
    assert list(sockets) == [key(new)]
    for bound in sockets.values():
        bound.close()


# --- bounds


async def greeting(line: str) -> tuple[int, asyncio.StreamWriter]:
    host, _, port = line.split()[-1].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    return int((await reader.readline())[:3]), writer


def test_connections_are_counted_over_all_listeners(tmp_path: Path) -> None:
    given = replace(
        config(tmp_path, limits=LimitsConfig(connections=1, drain=0.0)), listeners=(listener("one"), listener("two"))
    )

    async def main(data: Data) -> None:
        house = House(data)
        first, second = await house.open(bind_all(given.listeners, set()))
        code, one = await greeting(first)
        assert code == 220
        code, two = await greeting(second)
        for writer in (one, two):
            writer.close()
        await house.close()
        assert code == 421

    at_work(tmp_path, main, given=given)


# --- the operator's hand


async def rows(spool: SqliteSpool) -> list[RecipientRow]:
    return await SqliteSpoolReader(spool).recipients(STATES["any"], 100, 0.0)


def seed(data: Data) -> None:
    data.store.add_domain(Domain.parse("example.test"))
    data.store.add_user(User(ALICE))
    data.store.add_alias(Mailbox.parse("team@example.test"), (ALICE, FAR))
    data.directory.reload()


def test_a_message_submitted_at_rest_is_found_by_the_next_start(tmp_path: Path) -> None:
    async def main(data: Data) -> None:
        seed(data)
        control: QueueControl = DataControl(data)
        wanted = [Mailbox.parse("team@example.test"), ALICE, FAR]
        number, _ = await control.submit(Mailbox.parse("carol@else.example"), wanted, TEXT)
        found = await rows(data.spool)
        assert [(row.address, row.original) for row in found] == [
            ("alice@example.test", "team@example.test"),
            ("bob@far.example", "team@example.test"),
        ]
        assert {row.message for row in found} == {number}
        text = await SqliteSpoolReader(data.spool).body(number)
        assert text is not None and text.startswith(b"Received: from mx.example.test") and text.endswith(TEXT)

    async def later(data: Data) -> None:
        assert data.spool.last_id > 0
        house = House(data)
        await house.open({})
        while {row.state for row in await rows(data.spool)} != {State.DELIVERED}:
            pass
        await house.close()

    at_work(tmp_path, main)
    at_work(tmp_path, later)


def test_a_message_submitted_to_a_running_server_is_delivered(tmp_path: Path) -> None:
    async def main(data: Data) -> None:
        house = House(data)
        await house.open({})
        control = DataControl(data, house.queue)
        for text in (TEXT, LARGE):
            await control.submit(None, [FAR], text)
        while {row.state for row in await rows(data.spool)} != {State.DELIVERED}:
            pass
        await house.close()

    at_work(tmp_path, main)
    assert list((tmp_path / "bodies-0").iterdir()) == []


def test_what_can_be_no_message_is_refused(tmp_path: Path) -> None:
    async def main(data: Data) -> None:
        with pytest.raises(UnfitText, match="552 5.3.4"):
            await DataControl(data).submit(None, [FAR], TEXT)
        assert await rows(data.spool) == []

    at_work(tmp_path, main, given=config(tmp_path, limits=LimitsConfig(message_size=len(TEXT) - 1)))


def test_a_fault_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(data: Data) -> None:
        def write(unit: object, done: Callable[[SpoolError | None], None]) -> None:
            done(SpoolBroken("no disk"))

        monkeypatch.setattr(data.spool, "write", write)
        with pytest.raises(SpoolBroken, match="no disk"):
            await DataControl(data).submit(None, [FAR], TEXT)

    at_work(tmp_path, main)


# --- a backup


def submitted(tmp_path: Path, target: Path) -> tuple[dict[str, Any], list[MessageId]]:
    """Make a backup of a small and a large message; what it said, and the messages."""
    told: dict[str, Any] = {}
    numbers: list[MessageId] = []

    async def main(data: Data) -> None:
        seed(data)
        control = DataControl(data)
        for text in (TEXT, LARGE):
            numbers.append((await control.submit(ALICE, [FAR], text)).id)
        told.update(await control.backup(target))

    at_work(tmp_path / "data", main)
    return told, numbers


def test_a_backup_holds_directory_queue_and_bodies_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "backup.tar"
    told, (_, large) = submitted(tmp_path, target)
    assert told == {"file": str(target), "octets": target.stat().st_size, "large_bodies": 1}
    assert target.stat().st_mode & 0o077 == 0
    with tarfile.open(target) as archive:
        assert sorted(archive.getnames()) == ["bodies-0", f"bodies-0/{large}", "directory.db", "spool-0.db"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["backup.tar", "data"]
    assert not [entry for entry in (tmp_path / "data").iterdir() if entry.name.startswith("backup-")]


def test_a_backup_can_be_put_back(tmp_path: Path) -> None:
    _, numbers = submitted(tmp_path, tmp_path / "backup.tar")
    restored = tmp_path / "restored"
    with tarfile.open(tmp_path / "backup.tar") as archive:
        archive.extractall(restored, filter="data")

    async def main(data: Data) -> None:
        assert [row.message for row in await rows(data.spool)] == numbers
        assert data.store.users() == (User(ALICE),)
        for number, text in zip(numbers, (TEXT, LARGE), strict=True):
            body = await SqliteSpoolReader(data.spool).body(number)
            assert body is not None and body.endswith(text)

    at_work(restored, main)
    store = DirectoryStore(restored / "directory.db")
    assert store.domains() == (Domain.parse("example.test"),)
    store.close()


def test_a_backup_that_fails_leaves_no_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path, target: Path) -> int:
        raise OSError(28, "No space left on device")

    target = tmp_path / "backup.tar"

    async def main(data: Data) -> None:
        monkeypatch.setattr(queue_control, "_archive", broken)
        with pytest.raises(OSError, match="No space"):
            await DataControl(data).backup(target)
        assert not [entry for entry in data.folder.root.iterdir() if entry.name.startswith("backup-")]

    at_work(tmp_path / "data", main)
    assert not target.exists()
