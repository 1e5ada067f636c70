"""Next hop `hold`, and a message that was maybe delivered: by the command line, over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from tests.live.raw_sink import RawSink
from tests.live.support import BOB, DOMAIN, HOST, SENDER, Server, arrived, until

ALICE = f"alice@{DOMAIN}"


def state(server: Server, address: str) -> str:
    (row,) = server.call("queue_list", where=f"state=any recipient={address}", limit=2)
    return str(row["state"])


def test_a_route_that_holds(tmp_path: Path) -> None:
    with RawSink() as sink:
        routes = [
            {"match": "far.test", "next_hop": "hold"},
            {"match": "*", "next_hop": f"smtp://{HOST}:{sink.port}"},
        ]
        with Server(tmp_path, settings={"route": routes}) as server:
            sent = server.ask("send", "--from", SENDER, "--to", "x@far.test", text=b"Subject: held\n\nhi\n")
            until(lambda: state(server, "x@far.test") == "held")
            (row,) = server.ask("queue", "list", "state=held")
            assert (row["id"], row["lane"], row["attempts"]) == (sent["id"], "hold:far.test", 0)
            story = server.why(sent["id"])
            assert "Held by the route for far.test until it is released." in story
            assert f"pillarbox queue release id={sent['id']}" in story
            server.kill()
            server.start()
            assert state(server, "x@far.test") == "held" and sink.letters == []
            server.cli("queue", "release", "--yes", f"id={sent['id']}")
            until(lambda: state(server, "x@far.test") == "delivered")
            assert [letter.recipients for letter in sink.letters] == [[b"x@far.test"]]
            said = server.cli("queue", "reroute", "--yes", "--next-hop", "hold", status=2)
            assert "hold needs a route in the configuration" in said


@contextmanager
def losing() -> Iterator[int]:
    """A server that takes each message to its end and then goes without a word; its port."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, connection.makefile("rb") as lines:
                    connection.sendall(b"220 sink.example ESMTP\r\n")
                    for line in lines:
                        if line == b".\r\n":
                            break
                        if line[:4].upper() in (b"EHLO", b"MAIL", b"RCPT"):
                            connection.sendall(b"250 sink.example\r\n")
                        elif line[:4].upper() == b"DATA":
                            connection.sendall(b"354 go on\r\n")

    with socket.create_server((HOST, 0)) as listening:
        thread = Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def test_maybe_delivered_and_held(tmp_path: Path) -> None:
    with losing() as port:
        settings = {
            "route": [{"match": "far.test", "next_hop": f"smtp://{HOST}:{port}"}],
            "retry": {"ambiguous": "hold"},
        }
        with Server(tmp_path, settings=settings) as server:
            server.local(ALICE)
            sent = server.ask("send", "--from", ALICE, "--to", "x@far.test", text=b"Subject: lost\n\nhi\n")
            until(lambda: state(server, "x@far.test") == "held")
            story = server.why(sent["id"])
            assert f"Maybe delivered to [{HOST}]: " in story and "It is held, so that no second copy" in story
            assert f"pillarbox queue release id={sent['id']}" in story
            (row,) = server.ask("queue", "list", "state=held", "reply=*maybe*")
            assert row["attempts"] == 1
            server.cli("queue", "drop", "--yes", f"id={sent['id']}")
            assert state(server, "x@far.test") == "failed"


def test_maybe_delivered_and_asked(tmp_path: Path) -> None:
    with losing() as port:
        settings = {
            "route": [{"match": "far.test", "next_hop": f"smtp://{HOST}:{port}"}],
            "retry": {"ambiguous": "ask", "ask_for": "1h"},
        }
        with Server(tmp_path, settings=settings) as server:
            server.local(BOB)
            sent = server.ask("send", "--from", BOB, "--to", "x@far.test", text=b"Subject: lost\n\nhi\n")
            (letter,) = arrived(server)
            assert b"Subject: Has your message arrived? It may have been delivered\n" in letter
            assert b"Action: delayed\n" in letter and sent["id"].encode() in letter
            story = server.why(sent["id"])
            assert "the next attempt makes a second copy. To be tried again at " in story and ", in 59m" in story
