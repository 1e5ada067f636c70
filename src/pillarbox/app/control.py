"""The control protocol: how a verb of the command line reaches the running server, over a Unix socket in the data.

A connection carries one request: a line `{"verb": …, "args": {…}, "body": N}` of JSON, then N octets. The answer is a
line `{"ok": true, "data": …}` or `{"ok": false, "error": …, "usage": …}`. Who may open the socket (mode 0600, in a
directory of mode 0700) may do everything. Knows no verb. A Unix address holds 107 octets, so a socket is always
reached through its directory's descriptor, whatever the length of the path.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MAX_LINE = 1024 * 1024  # octets of a request line
MAX_CONNECTIONS = 100
DEADLINE = 30.0  # seconds to read a request, and to write an answer
_GRACE = 5.0  # seconds that a closing server leaves to requests under way


class Refused(Exception):
    """The request was understood and not obeyed; the text says why. `usage`: it was wrong in itself."""

    def __init__(self, text: str, *, usage: bool = False) -> None:
        super().__init__(text)
        self.usage = usage


class NotRunning(Exception):
    """Nobody listens on the socket."""


Handler = Callable[[str, Mapping[str, Any], bytes], Awaitable[object]]


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A short name of the path, good inside the block."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class ControlServer:
    """The server's side. The handler gets verb, arguments and body; gives JSON-able data or raises Refused."""

    def __init__(self, path: Path, handler: Handler, *, max_body: int) -> None:
        self._path = path
        self._handler = handler
        self._max_body = max_body
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. A socket left by a dead server is replaced, so the caller must hold the data lock. Raises OSError."""
        listening = self._bind()
        self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=MAX_LINE)

    def _bind(self) -> socket.socket:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise FileExistsError(f"{self._path} is there and is no socket")
            self._path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listening.fileno(), 0o600)  # before bind: Linux makes the file with the mode of the descriptor
            with _short(self._path) as name:
                listening.bind(name)
        except OSError:
            listening.close()
            raise
        return listening

    async def close(self) -> None:
        """Stop listening, let requests under way end for a while, then cut them."""
        if self._server is None:
            return
        self._server.close()
        self._path.unlink(missing_ok=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE)
        for task in self._tasks:
            task.cancel()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            answer = await self._answer(reader)
            async with asyncio.timeout(DEADLINE):
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError) as error:
            log.warning("a control client went away: %s", error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, object]:
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                raise Refused("the server has too many control connections")
            verb, args, body = await self._request(reader)
            return {"ok": True, "data": await self._handler(verb, args, body)}
        except Refused as error:
            return {"ok": False, "error": str(error), "usage": error.usage}
        except Exception:
            log.exception("a control request failed")
            return {"ok": False, "error": "internal error; the log of the server has more", "usage": False}

    async def _request(self, reader: asyncio.StreamReader) -> tuple[str, Mapping[str, Any], bytes]:
        try:
            async with asyncio.timeout(DEADLINE):
                verb, args, length = self._parsed(await reader.readuntil(b"\n"))
                return verb, args, await reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise Refused("the request ended too early") from error
        except asyncio.LimitOverrunError as error:
            raise Refused("the request line is too long") from error
        except TimeoutError as error:
            raise Refused("the request took too long") from error

    def _parsed(self, line: bytes) -> tuple[str, Mapping[str, Any], int]:
        try:
            request = json.loads(line)
        except ValueError as error:
            raise Refused("the request is no JSON", usage=True) from error
        match request:
            case {"verb": str(verb), "args": dict(args), "body": int(length)} if length >= 0:
                if length > self._max_body:
                    raise Refused(f"the request brings {length} octets; at most {self._max_body} are taken")
                return verb, args, length
        raise Refused("the request needs verb, args and body", usage=True)


class ControlClient:
    """The command line's side, with blocking sockets."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, verb: str, args: Mapping[str, Any], body: bytes = b"") -> Any:
        """Ask and wait for the answer. Raises NotRunning, Refused."""
        request = json.dumps({"verb": verb, "args": args, "body": len(body)}).encode() + b"\n"
        with self._connected() as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before all is sent
                connection.sendall(request + body)
            return self._data(connection)

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(self._path) as name:
                connection.connect(name)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            connection.close()
            raise NotRunning(f"no server listens on {self._path}") from error
        except OSError as error:
            connection.close()
            raise Refused(f"can't reach the server on {self._path}: {error.strerror}") from error
        return connection

    def _data(self, connection: socket.socket) -> Any:
        try:
            with connection.makefile("rb") as file:
                line = file.readline()
        except OSError as error:
            raise Refused(f"the server broke off: {error.strerror}") from error
        if not line.endswith(b"\n"):
            raise Refused("the server broke off; whether it did what was asked is not known")
        answer = json.loads(line)
        if answer["ok"]:
            return answer["data"]
        raise Refused(answer["error"], usage=answer["usage"])
