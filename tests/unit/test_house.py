"""The parts of a server put together: what the configuration decides, and each port met by the real thing."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from pillarbox.adapters.certificates import CertificateError
from pillarbox.adapters.passwords import hash_password
from pillarbox.adapters.tls_contexts import client_context
from pillarbox.app.admin import Fetch
from pillarbox.app.config import Config, RelayConfig, TlsConfig
from pillarbox.app.config_delivery import RouteConfig
from pillarbox.app.config_limits import LimitsConfig
from pillarbox.app.config_listener import CommandsConfig, Compat, ListenerConfig, Service
from pillarbox.app.config_timeouts import TimeoutsConfig
from pillarbox.app.config_values import Endpoint
from pillarbox.app.control import Refused
from pillarbox.app.data import Data
from pillarbox.app.datadir import DataDir
from pillarbox.app.house import House
from pillarbox.app.secrets import SecretError
from pillarbox.app.sockets import bind_all
from pillarbox.core.address import Domain
from pillarbox.engine.ports import User
from pillarbox.engine.routing import SmartHost
from pillarbox.engine.service import Access, AuthOffer, TlsMode
from pillarbox.net.tls import Secured, TlsLayer
from pillarbox.net.tls_exporting import ExportingLayer
from pillarbox.smtp.states import Verb
from tests.making import HOSTNAME, box
from tests.unit.test_daemon import at_work
from tests.unit.test_listener import Client

AWAY = Domain("away.example")
ANY_PORT = Endpoint(ip_address("127.0.0.1"), 0)
OPEN = CommandsConfig(send=Access.AUTH, soml=Access.AUTH, turn=Access.AUTH, atrn=Access.AUTH, etrn=Access.AUTH)
MX = ListenerConfig(name="mx", address=ANY_PORT, commands=OPEN)
ODMR = ListenerConfig(name="odmr", address=ANY_PORT, service=Service.ODMR)
PASSWORD = "correct horse"


def config(root: Path, *listeners: ListenerConfig, limits: LimitsConfig | None = None, **more: Any) -> Config:
    made = Config(data=root, source=root / "pillarbox.toml", hostname_configured=True)
    limits = limits or LimitsConfig(drain=1.0, disk_reserve=1)
    return replace(made, **{"hostname": HOSTNAME, "listeners": listeners or (MX,), "limits": limits, **more})


def seed(data: Data) -> None:
    store = data.store
    store.add_domain(Domain("example.test"))
    store.add_domain(AWAY, relay=True)
    hashed = hash_password(PASSWORD)
    store.add_user(User(box("alice@example.test"), "Alice Liddell", password=hashed, owns=(AWAY,)))
    store.add_user(User(box("op@example.test"), "Operator", password=hashed, operator=True))
    store.add_user(User(box("small@example.test"), quota=100))
    data.directory.reload()


class Running:
    """A house with its listeners open."""

    def __init__(self, house: House, lines: list[str]) -> None:
        self.house = house
        self.ports = {line.split()[1]: int(line.rpartition(":")[2]) for line in lines}
        self.clients: list[Client] = []

    async def connect(self, name: str = "mx", *, user: str = "") -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, "127.0.0.1", self.ports[name])
        self.clients.append(client)
        assert await client.codes() == [220]
        client.send(b"EHLO client.example\r\n")
        assert await client.codes() == [250]
        if user:
            client.send(b"AUTH PLAIN " + b64encode(f"\0{user}\0{PASSWORD}".encode()) + b"\r\n")
            assert await client.codes() == [235]
        return client

    async def until_waiting(self, count: int) -> None:
        while await self.house.queue.waiting([AWAY]) != count:
            pass


def run(root: Path, main: Callable[[Running], Coroutine[Any, Any, None]], given: Config | None = None) -> None:
    given = given or config(root)

    async def opened(data: Data) -> None:
        seed(data)
        house = House(data)
        here = Running(house, await house.open(bind_all(given.listeners, set())))
        try:
            await main(here)
        finally:
            for client in here.clients:
                client.transport.abort()
            await house.close()

    at_work(root, opened, given=given)


# --- what the configuration decides


def test_every_key_of_a_listener_reaches_its_sessions(tmp_path: Path) -> None:
    odd = ListenerConfig(
        name="odd",
        address=ANY_PORT,
        service=Service.ODMR,
        tls=TlsMode.IMPLICIT,
        auth=AuthOffer.CLEAR,
        accepts_mail=False,
        compat=Compat.CLASSIC,
        check_sender_domain=True,
        check_recipient_domain=True,
        forbid_unauth_pipelining=False,
        commands=replace(OPEN, help=Access.OFF),
    )
    limits = LimitsConfig(
        message_size=1, recipients=2, errors=3, transactions=4, probes=5, connections=6, connections_per_address=7,
        idle=8.0, session_time=9.0, terminal_messages=1,
    )  # fmt: skip
    given = config(tmp_path, odd, MX, limits=limits, relay=RelayConfig((ip_network("192.0.2.0/24"),)))

    async def main(data: Data) -> None:
        house = House(data)
        service = house.service(odd)
        assert (service.listener, service.hostname, service.hostname_configured) == (
            "odd",
            Domain("mx.example.test"),
            True,
        )
        assert (service.odmr, service.auth, service.accepts_mail, service.classic, service.checks_sender_domain) == (
            True,
            AuthOffer.CLEAR,
            False,
            True,
            True,
        )
        assert service.checks_recipient_domain
        assert service.tls is TlsMode.IMPLICIT
        assert (service.message_size, service.recipients, service.errors) == (1, 2, 3)
        assert (service.transactions, service.probes) == (4, 5)
        assert service.commands[Verb.SEND] is Access.AUTH and service.commands[Verb.HELP] is Access.OFF
        assert service.relay_networks == (ip_network("192.0.2.0/24"),)
        usual = house.service(MX)
        assert not usual.checks_recipient_domain
        assert usual.tls is TlsMode.OFF
        assert (usual.odmr, usual.auth, usual.accepts_mail, usual.classic, usual.checks_sender_domain) == (
            False,
            AuthOffer.TLS,
            True,
            False,
            False,
        )
        assert usual.terminal_rate is service.terminal_rate  # one sender, one limit
        assert [usual.terminal_rate.allows("alice", 0.0) for _ in range(2)] == [True, False]
        bounds = house.listener(usual).bounds
        assert (bounds.connections, bounds.idle, bounds.session_time) == (6, 8.0, 9.0)
        limits_in_front = ["connections_per_address", "connections_per_address"]  # it comes, it goes
        assert [hook.name for hook in service.hooks] == limits_in_front
        assert [hook.name for hook in usual.hooks] == ["unauth_pipelining"] * 6 + limits_in_front
        assert usual.hooks[6:] == service.hooks  # one client, one limit
        await house.close()

    at_work(tmp_path, main, given=given)


def test_other_servers_have_the_time_that_is_configured(tmp_path: Path) -> None:
    first, second = (TimeoutsConfig(data=seconds, end=seconds + 1) for seconds in (7.0, 9.0))

    async def main(here: Running) -> None:
        assert here.house.out.net.deadlines == first.deadlines()
        await here.house.reload(config(tmp_path, MX, timeouts=second), {})
        assert here.house.out.net.deadlines == second.deadlines()

    run(tmp_path, main, config(tmp_path, timeouts=first))


def test_a_reload_is_for_the_sessions_that_come(tmp_path: Path) -> None:
    async def main(here: Running) -> None:
        before = await here.connect()
        changed = replace(MX, compat=Compat.CLASSIC)
        limits = LimitsConfig(drain=1.0, disk_reserve=2**62, terminal_messages=1)
        await here.house.reload(config(tmp_path, changed, limits=limits), {})
        after = await here.connect()
        for client, code in ((before, 250), (after, 200)):
            client.send(b"NOOP\r\nMAIL FROM:<>\r\n")
            assert await client.codes(2) == [code, 452]  # the disk is one and the same

    run(tmp_path, main)


def test_a_connection_may_begin_tls_though_a_reload_took_it_away(tmp_path: Path) -> None:
    async def main(here: Running) -> None:
        before = await here.connect()
        assert list((tmp_path / "keys").iterdir())  # a certificate was made
        await here.house.reload(config(tmp_path, MX), {})
        before.send(b"STARTTLS\r\n")
        assert await before.codes() == [220]
        await shake(before)
        before.send(b"EHLO client.example\r\n")
        assert await before.codes() == [250]
        after = await here.connect()
        after.send(b"STARTTLS\r\n")
        assert await after.codes() == [502]

    run(tmp_path, main, config(tmp_path, replace(MX, tls=TlsMode.STARTTLS)))


def test_a_reload_changes_who_is_asked_for_a_certificate(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "clients.pem")
    plain = replace(MX, tls=TlsMode.STARTTLS)
    asking = replace(plain, client_certificates=tmp_path / "clients.pem")

    async def main(here: Running) -> None:
        (listener,) = here.house.listeners.values()
        for changed, kind in ((asking, ExportingLayer), (plain, TlsLayer)):
            await here.house.reload(config(tmp_path, changed), {})
            client = await here.connect()
            client.send(b"STARTTLS\r\n")
            assert await client.codes() == [220]
            await shake(client)
            transports = [each._transport for each in listener.connections]
            assert kind in [type(each.layer) for each in transports if isinstance(each, Secured)]

    run(tmp_path, main, config(tmp_path, plain))


async def shake(client: Client) -> None:
    context = client_context(verify=False)
    transport = await asyncio.get_running_loop().start_tls(client.transport, client, context)
    client.transport = cast(asyncio.Transport, transport)


def test_a_reload_that_names_bad_files_changes_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "relay.secret"
    secret.write_text("user\n")
    route = RouteConfig(match="*", next_hop=SmartHost("relay.test"), credentials=secret)
    bad: list[tuple[Config, type[Exception], str]] = [
        (config(tmp_path, routes=(route,)), SecretError, "relay.secret: must hold a user"),
        (
            config(tmp_path, replace(MX, tls=TlsMode.STARTTLS), tls=(TlsConfig(secret, secret),)),
            CertificateError,
            "relay.secret holds no certificate",
        ),
    ]

    async def main(here: Running) -> None:
        before = here.house.config
        for given, kind, said in bad:
            with pytest.raises(kind, match=said):
                await here.house.reload(given, {})
            assert here.house.config is before
        client = await here.connect()
        client.send(b"STARTTLS\r\n")
        assert await client.codes() == [502]

    run(tmp_path, main)


# --- each port is met


def test_passwords_are_checked(tmp_path: Path) -> None:
    async def main(here: Running) -> None:
        client = await here.connect()
        for name, password in (("alice", "wrong"), ("nobody", PASSWORD), ("small", PASSWORD)):
            client.send(b"AUTH PLAIN " + b64encode(f"\0{name}\0{password}".encode()) + b"\r\n")
            assert await client.codes() == [535]
        for name in ("alice", "alice@example.test"):
            await here.connect(user=name)

    run(tmp_path, main)


def test_the_directory_answers_and_changes_take_effect_at_once(tmp_path: Path) -> None:
    async def main(here: Running) -> None:
        client = await here.connect(user="alice")
        client.send(b"VRFY liddell\r\nVRFY bob\r\n")
        assert await client.replies(2) == [
            "250 2.1.5 Alice Liddell <alice@example.test>",
            "550 5.1.1 No such user here",
        ]
        here.house.data.store.add_user(User(box("bob@example.test")))
        here.house.data.directory.reload()
        client.send(b"VRFY bob\r\n")
        assert await client.replies() == ["250 2.1.5 <bob@example.test>"]

    run(tmp_path, main)


def test_an_operator_sees_the_status(tmp_path: Path) -> None:
    async def main(here: Running) -> None:
        other = await here.connect()
        other.send(b"MAIL FROM:<>\r\nRCPT TO:<x@away.example>\r\nDATA\r\n.\r\n")
        assert await other.codes(4) == [250, 250, 354, 250]
        await here.until_waiting(1)
        client = await here.connect(user="op")
        client.send(b"HELP\r\n")
        lines = [await client.line() for _ in range(4)]
        assert lines[1:3] == ["211-2.0.0 connections: 2", "211-2.0.0 queued recipients: 1"]

    run(tmp_path, main)


def test_a_mailbox_is_weighed(tmp_path: Path) -> None:
    async def main(here: Running) -> None:
        client = await here.connect()
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<small@example.test>\r\nDATA\r\n" + b"x" * 200 + b"\r\n.\r\n")
        assert await client.codes(4) == [250, 250, 354, 250]
        small = box("small@example.test")
        while not await here.house.answers._mailboxes.usage(small):
            pass
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<small@example.test>\r\n")
        accepted, refused = await client.replies(2)
        assert accepted == "250 2.1.0 Sender accepted"
        assert refused.startswith("552 5.2.2 Mailbox full (S-"), "with the id of the session"

    run(tmp_path, main)


def test_a_terminal_is_reached(tmp_path: Path) -> None:
    async def main(here: Running) -> None:
        client = await here.connect(user="op")
        client.send(b"SEND FROM:<op@example.test>\r\nRCPT TO:<alice@example.test>\r\n")
        assert await client.codes(2) == [250, 450]
        shown: list[str] = []

        async def show(text: str) -> bool:
            shown.append(text)
            return True

        detach = here.house.terminals.attach(box("alice@example.test"), show)
        client.send(b"RCPT TO:<alice@example.test>\r\nDATA\r\n")
        assert await client.codes(2) == [250, 354]
        client.send(b"Subject: Tea\r\n\r\nNow.\r\n.\r\n")
        assert await client.replies() == ["250 2.0.0 Shown on the terminal"]
        (text,) = shown
        assert text.startswith("Message from op@example.test via 127.0.0.1 at ") and "Subject: Tea" in text
        detach()
        client.send(b"SEND FROM:<op@example.test>\r\nRCPT TO:<alice@example.test>\r\n")
        assert await client.codes(2) == [250, 450]

    run(tmp_path, main)


# --- one house fetches from another (RFC 821 §3.8, RFC 2645)


@pytest.mark.parametrize(("tls", "protocol"), [(TlsMode.OFF, b"ESMTP"), (TlsMode.STARTTLS, b"ESMTPS")])
@pytest.mark.parametrize(("verb", "name"), [("turn", "mx"), ("atrn", "odmr")])
def test_kept_mail_leaves_for_its_owner(tmp_path: Path, verb: str, name: str, tls: TlsMode, protocol: bytes) -> None:
    async def main(here: Running) -> None:
        client = await here.connect()
        for _ in range(3):
            client.send(b"MAIL FROM:<>\r\nRCPT TO:<x@away.example>\r\nDATA\r\n.\r\n")
            assert await client.codes(4) == [250, 250, 354, 250]
        await here.until_waiting(3)
        away = Data(config(tmp_path / "away", hostname=AWAY), DataDir.prepare(tmp_path / "away"))
        away.store.add_domain(AWAY)
        away.store.add_user(User(box("x@away.example")))
        away.directory.reload()
        owner = House(away)
        wanted = Fetch(verb=verb, host=f"127.0.0.1:{here.ports[name]}", domains=[], user="alice", password=PASSWORD)
        told = await owner.fetch(wanted)
        assert (told["reply"], told["messages"]) == ("250 2.0.0 OK now reversing the connection", 3)
        assert await here.house.queue.waiting([AWAY]) == 0
        with pytest.raises(Refused, match="502|453"):
            await owner.fetch(wanted)
        new = tmp_path / "away/mail/away.example/x/new"
        while not new.exists() or len(list(new.iterdir())) < 3:
            await asyncio.to_thread(lambda: None)
        assert all(b" with " + protocol + b" id " in file.read_bytes().split(b"Received:")[1] for file in new.iterdir())
        await owner.close()
        await away.close()

    run(tmp_path, main, config(tmp_path, replace(MX, tls=tls), replace(ODMR, tls=tls)))


def test_etrn_goes_by_the_route(tmp_path: Path) -> None:
    async def main(here: Running) -> None:
        client = await here.connect()
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<x@away.example>\r\nDATA\r\n.\r\n")
        assert await client.codes(4) == [250, 250, 354, 250]
        await here.until_waiting(1)  # nobody is there, so it was put off
        known = await here.connect(user="alice")
        known.send(b"ETRN away.example\r\nETRN other.example\r\n")
        assert await known.codes(2) == [253, 459]

    run(
        tmp_path,
        main,
        config(tmp_path, routes=(RouteConfig(match="away.example", next_hop=SmartHost("127.0.0.1", 1)),)),
    )
