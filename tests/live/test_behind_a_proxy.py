"""A listener behind a load balancer: the client's address is that in the PROXY header, where the header is believed."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.live.corpus import simple
from tests.live.support import BOB, HOST, Client, Server, arrived, needs, until
from tests.unit.test_proxy import FOUR, version_2

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    settings = {
        "listener": [
            {"name": "mx", "address": f"{HOST}:0", "proxy_protocol": ["127.0.0.1"]},
            {"name": "tls", "address": f"{HOST}:0", "proxy_protocol": ["127.0.0.1"], "tls": "implicit"},
            {"name": "other", "address": f"{HOST}:0", "proxy_protocol": ["192.0.2.0/24"]},
        ],
        "relay": {"networks": ["192.0.2.0/24"]},
        "limits": {"connections_per_address": 2},
    }
    with Server(tmp_path, settings=settings) as started:
        started.local(BOB)
        yield started


def talk(port: int, header: bytes) -> Client:
    client = Client.__new__(Client)
    client.socket = socket.create_connection((HOST, port), 20)
    client._held = b""
    client.write(header)
    client.greeting = client.reply()
    return client


@pytest.mark.parametrize("header", [HEADER, version_2(0x21, 0x11, FOUR)], ids=["v1", "v2"])
def test_the_client_is_who_the_header_names(server: Server, header: bytes) -> None:
    with talk(server.port, header) as client:
        assert client.say("EHLO client.example").startswith("250")
        assert client.say("MAIL FROM:<a@else.example>").startswith("250")
        assert client.say("RCPT TO:<b@else.example>").startswith("250"), "it is in a relay network"
        assert client.say(f"RCPT TO:<{BOB}>").startswith("250")
        client.say("RSET")
        assert client.send(simple("proxied"), (BOB,)).startswith("250")
    assert b"from client.example ([192.0.2.7])" in arrived(server)[0]


def test_limits_are_those_of_the_client(server: Server) -> None:
    clients = [talk(server.port, HEADER) for _ in range(3)]
    assert [client.greeting[:3] for client in clients] == ["220", "220", "421"]
    other = talk(server.port, HEADER.replace(b"192.0.2.7", b"192.0.2.8"))
    assert other.greeting.startswith("220")
    for client in (*clients, other):
        client.socket.close()


def test_a_proxy_that_speaks_for_itself(server: Server) -> None:
    with talk(server.port, version_2(0x20, 0x00, b"")) as client:
        assert client.greeting.startswith("220")
        assert client.say("EHLO client.example").startswith("250")
        assert client.say("MAIL FROM:<>").startswith("250")
        assert client.say("RCPT TO:<b@else.example>").startswith("550 5.7.1")


def test_header_and_commands_in_one_write(server: Server) -> None:
    with talk(server.port, HEADER + b"EHLO client.example\r\nMAIL FROM:<>\r\n") as client:
        assert client.reply().startswith("250-")
        assert client.reply().startswith("250 2.1.0")


@pytest.mark.parametrize("octets", [b"EHLO client.example\r\n", b"PROXY TCP4 x y 1 2\r\n", b"\r\n\r\n\0\r\nQUIT\n\x31"])
def test_a_proxy_without_a_header_is_cut_off(server: Server, octets: bytes) -> None:
    with closing(socket.create_connection((HOST, server.port), 20)) as connection:
        connection.sendall(octets + b"x" * 200)
        try:
            assert connection.recv(100) == b""
        except ConnectionResetError:
            pass
    until(lambda: "no PROXY header" in server.log, what="a line in the log")


def test_a_header_of_a_stranger_is_a_bad_command(server: Server) -> None:
    with Client(server.ports["other"], hello=False) as client:
        assert client.greeting.startswith("220")
        assert client.say(HEADER.removesuffix(b"\r\n")).startswith("500 5.5.2")


def test_before_implicit_tls(server: Server) -> None:
    """The header stands in clear, in front of the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection((HOST, server.ports["tls"]), 20)
    raw.sendall(HEADER)
    with context.wrap_socket(raw) as secured:
        assert secured.recv(1000).startswith(b"220 ")
        secured.sendall(b"EHLO client.example\r\n")
        assert b"250 " in secured.recv(1000)
        secured.sendall(b"MAIL FROM:<a@else.example>\r\nRCPT TO:<b@else.example>\r\nQUIT\r\n")
        said = b""
        while b"221 " not in said:
            said += secured.recv(1000)
        assert said.count(b"250 ") == 2


def test_swaks_speaks_it(server: Server) -> None:
    swaks = [needs("swaks"), "--server", HOST, "--port", str(server.port), "--to", BOB, "--from", "a@else.example"]
    proxy = [
        "--proxy-version",
        "1",
        "--proxy-family",
        "TCP4",
        "--proxy-source",
        "192.0.2.9",
        "--proxy-source-port",
        "1",
    ]
    proxy += ["--proxy-dest", "198.51.100.1", "--proxy-dest-port", "25"]
    run = subprocess.run([*swaks, *proxy], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert b"([192.0.2.9])" in arrived(server)[0]
