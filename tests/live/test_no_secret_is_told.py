"""Passwords reach neither the log nor what an operator is shown: at a login, a next hop, a fetch or a fault."""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from contextlib import ExitStack
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from pillarbox.app.admin import Fetch
from pillarbox.app.control import ControlClient, Refused
from pillarbox.engine.questions import Login
from pillarbox.net.sender import Protection
from pillarbox.smtp.sasl import Credentials
from tests.live.raw_sink import RawSink
from tests.live.support import BOB, HOST, PILLARBOX, Client, Server, until

OURS = "correct-horse"  # of a user here
THEIRS = "battery-staple"  # ours at the next hop
WRONG = "tr0ub4dor"


def encoded(name: str, password: str) -> str:
    return b64encode(f"\0{name}\0{password}".encode()).decode()


SECRETS = (
    *(OURS, THEIRS, WRONG),
    *(b64encode(word.encode()).decode().rstrip("=") for word in (OURS, THEIRS, WRONG)),
    *(encoded(*pair).rstrip("=") for pair in ((BOB, OURS), (BOB, WRONG), ("relay", THEIRS))),
)
REPLIES = [  # of the next hop, to AUTH
    b"535 5.7.8 no\r\n",
    b"454 4.7.0 later\r\n",
    b"334 \r\n",
    b"no reply at all\r\n",
    b"421 4.3.0 closing\r\n",
    f"535 5.7.8 no: {encoded('relay', THEIRS)}\r\n".encode(),  # some repeat what they don't like
]


def control(running: Server) -> ControlClient:
    return ControlClient(running.data / "control.sock")


def found_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(("format_", "source"), [("json", "file"), ("human", "env:RELAY_SECRET")])
def test_no_password_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str, source: str) -> None:
    monkeypatch.setenv("RELAY_SECRET", f"relay\n{THEIRS}\n")
    if source == "file":
        (tmp_path / "relay.secret").write_text(f"relay\n{THEIRS}\n")
        source = str(tmp_path / "relay.secret")
    offer = b"250-sink.example\r\n250 AUTH PLAIN\r\n"
    with ExitStack() as stack:
        sinks = [stack.enter_context(RawSink({b"EHLO": offer, b"AUTH": reply})) for reply in REPLIES]
        routes = [
            {"match": f"n{number}.example", "next_hop": f"smtp://{HOST}:{sink.port}", "credentials": source}
            for number, sink in enumerate(sinks)
        ]
        running = Server(tmp_path, settings={"route": routes, "log": {"format": format_}})
        running.cli("domain", "add", BOB.partition("@")[2])
        running.cli("user", "add", BOB, "--password-stdin", text=OURS.encode())  # at rest
        stack.enter_context(running)
        log_in(running)
        told = relay(running, len(sinks)) + fetch(running, sinks[0].port) + mistakes(running)
    for sink in sinks:
        assert encoded("relay", THEIRS).encode() in bytes(sink.connections[0].octets)
    assert found_in(running.log) == [] and found_in(told) == []


def log_in(running: Server) -> None:
    running.cli("user", "passwd", BOB, "--password-stdin", text=OURS.encode())
    for password, code in ((OURS, "235"), (WRONG, "535")):
        with Client(running.port) as client:
            assert client.say(f"AUTH PLAIN {encoded(BOB, password)}").startswith(code)
        with Client(running.port) as client:
            assert client.say("AUTH PLAIN").startswith("334")
            assert client.say(encoded(BOB, password)).startswith(code)
    with Client(running.port) as client:  # a slip that puts it where it does not belong
        client.say(f"AUTH {encoded(BOB, OURS)}")
        client.say(f"AUTH PLAIN {encoded(BOB, OURS)} again")
        client.say(encoded(BOB, OURS))
        client.say(f"MAIL FROM:<{OURS}")
        client.write(f"AUTH PLAIN {encoded(BOB, OURS)}\r".encode())
        client.reset()


def relay(running: Server, count: int) -> str:
    """What an operator sees of the messages that did not get through."""
    for number in range(count):
        control(running).call("send", {"sender": BOB, "recipients": [f"carol@n{number}.example"]}, b"hello\n")
    until(lambda: all(row["attempts"] for row in running.call("queue_list", where="", limit=99)))
    rows = running.call("queue_list", where="", limit=99)
    lives = [running.call("why", message=row["id"]) for row in rows]
    return json.dumps([rows, lives])


def fetch(running: Server, port: int) -> str:
    command = [str(PILLARBOX), "atrn", f"{HOST}:{port}", "a.example", "--user", "relay", "--password-stdin"]
    run = subprocess.run(
        [*command, "--config", str(running.config)],
        input=THEIRS.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    return (run.stdout + run.stderr).decode()


def mistakes(running: Server) -> str:
    """Requests that go wrong with a password in them, and one that would be a bug."""
    told = []
    for verb, args, body in (
        ("user_passwd", {"address": "nobody@here.example"}, OURS.encode()),
        ("user_passwd", {"address": 5}, OURS.encode()),
        ("user_passwd", {"address": BOB}, OURS.encode() + b"\xff"),
        ("fetch", {"verb": "atrn", "host": ":", "domains": [], "user": "relay", "password": THEIRS}, b""),
        ("fetch", {"verb": "nonsense", "host": f"{HOST}:1", "domains": [], "user": "x", "password": THEIRS}, b""),
        ("user_add", {"address": "nonsense", "name": ""}, OURS.encode()),
    ):
        try:
            told.append(json.dumps(control(running).call(verb, args, body)))
        except Refused as error:
            told.append(str(error))
    return "\n".join(told)


# --- where an exception shows a value

CREDENTIALS = Credentials("relay", THEIRS)


@pytest.mark.parametrize(
    "value",
    [
        CREDENTIALS,
        Login(CREDENTIALS),
        Fetch("atrn", HOST, [], "relay", THEIRS),
        Protection(credentials=CREDENTIALS),
        replace(CREDENTIALS, name="other"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_shows_its_password(value: object) -> None:
    assert is_dataclass(value) and fields(value)
    assert THEIRS not in repr(value) and THEIRS not in str(value) and THEIRS not in f"{[value]!r}"
