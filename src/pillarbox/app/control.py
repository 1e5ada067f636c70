"""The control protocol: how a verb of the command line reaches the running server, over a Unix socket in the data.

A connection carries one request: a line `{"verb": …, "args": {…}, "body": N}` of JSON, then N octets. The answer is a
line `{"ok": true, "data": …}` or `{"ok": false, "error": …, "usage": …}`, maybe with a `"fault"`. Where the handler
gives a Conversation, JSON objects follow, one a line, both ways, until the client closes or the server says
`{"end": WHY}`. Who may open the socket (mode 0600, in a directory of mode 0700) may do everything. Knows no verb and
nothing of what is talked about. A Unix address holds 107 octets, so a socket is always reached through its directory's
descriptor, whatever the length of the path.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

log = logging.getLogger(__name__)

MAX_LINE = 1024 * 1024  # octets of a request line
MAX_CONNECTIONS = 100
MAX_CONVERSATIONS = 80  # of them; the rest is left to those who ask and go
DEADLINE = 30.0  # seconds to read a request, and to write an answer
_GRACE = 5.0  # seconds that a closing server leaves to requests under way
_FAREWELL = 1.0  # seconds to say that a conversation is over
_BUG = "internal error; the log of the server has more"
_STOPPING = "the server is stopping"
_BROKE_OFF = "the server broke off"


class Fault(Enum):
    """Of what kind a refusal is, for a program that must tell its caller by a number. The values go over the socket."""

    DATA = "data"  # the message can be none, or is too large
    NO_USER = "no-user"  # an address is nobody's
    LATER = "later"  # the same may be done at another time
    DENIED = "denied"  # this user of the system may not
    BUG = "bug"  # of ours


class Refused(Exception):
    """The request was understood and not obeyed; the text says why. `usage`: it was wrong in itself."""

    def __init__(self, text: str, *, usage: bool = False, fault: Fault | None = None) -> None:
        super().__init__(text)
        self.usage = usage
        self.fault = fault


class NotRunning(Exception):
    """Nobody listens on the socket."""


Handler = Callable[[str, Mapping[str, Any], bytes], Awaitable[object]]
Line = dict[str, Any]
Send = Callable[[Line], Awaitable[None]]
Receive = Callable[[], Awaitable[Line | None]]


@runtime_checkable
class Conversation(Protocol):
    """What a handler may give in place of data. Objects sent have no key `end`."""

    def begin(self, send: Send) -> object:
        """The data of the answer, which goes out before anything that is sent. Raises Refused: nothing has begun.

        `send` raises OSError when the client is gone.
        """

    async def run(self, receive: Receive) -> None:
        """Listen until the client is gone, which `receive` tells by None. To return, or to raise Refused, ends it.
        Cancelled when the server stops."""

    def end(self) -> None:
        """It is over. Called once for each `begin` that returned."""


def socket_in(data: Path) -> Path:
    """Where the server on that data directory listens."""
    return data / "control.sock"


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
        self._conversations: set[asyncio.Task[None]] = set()
        self._stopping = False

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
        """Stop listening, end the conversations, let requests under way end for a while, then cut them."""
        if self._server is None:
            return
        self._stopping = True
        self._server.close()
        self._path.unlink(missing_ok=True)
        for conversation in self._conversations:
            conversation.cancel()
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
            if isinstance(answer, Conversation):
                await self._converse(answer, reader, writer)
            else:
                await _write(writer, answer, DEADLINE)
        except (OSError, TimeoutError) as error:
            log.warning("a control client went away: %s", str(error) or "it reads nothing")
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Line | Conversation:
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                raise Refused("the server has too many control connections", fault=Fault.LATER)
            verb, args, body = await self._request(reader)
            answer = await self._handler(verb, args, body)
        except Exception as error:
            return _failure(error)
        return answer if isinstance(answer, Conversation) else {"ok": True, "data": answer}

    async def _converse(
        self, conversation: Conversation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async def send(line: Line) -> None:
            _put(writer, line)
            await writer.drain()

        try:
            self._admit()
            data = conversation.begin(send)
        except Exception as error:
            await _write(writer, _failure(error), DEADLINE)
            return
        try:
            _put(writer, {"ok": True, "data": data})  # without a pause after `begin`, so before what it sends
            why = await self._talk(conversation.run(partial(_receive, reader)))
        finally:
            conversation.end()
        if not (reader.at_eof() or writer.is_closing()):
            await _write(writer, {"end": why}, _FAREWELL)

    async def _talk(self, conversation: Coroutine[Any, Any, None]) -> str:
        """Until it ends; gives why, for a client that is still there."""
        running = asyncio.create_task(conversation)
        self._conversations.add(running)
        try:
            await asyncio.wait((running,))
        finally:
            self._conversations.discard(running)
            running.cancel()
        return _why(running)

    def _admit(self) -> None:
        if self._stopping:
            raise Refused(_STOPPING, fault=Fault.LATER)
        if len(self._conversations) >= MAX_CONVERSATIONS:
            text = f"the server has {MAX_CONVERSATIONS} conversations already, as many as may be; end one first"
            raise Refused(text, fault=Fault.LATER)

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
                    text = f"the request brings {length} octets; at most {self._max_body} are taken"
                    raise Refused(text, fault=Fault.DATA)
                return verb, args, length
        raise Refused("the request needs verb, args and body", usage=True)


def _octets(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _put(writer: asyncio.StreamWriter, line: Line) -> None:
    if writer.is_closing():  # what writing then does depends on the kind of event loop
        raise ConnectionResetError("it closed")
    writer.write(_octets(line))


async def _write(writer: asyncio.StreamWriter, line: Line, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        _put(writer, line)
        await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> Line | None:
    """The next object of the client, None when it is gone. Raises Refused."""
    try:
        line = json.loads(await reader.readuntil(b"\n"))
    except (asyncio.IncompleteReadError, OSError):
        return None
    except asyncio.LimitOverrunError as error:
        raise Refused("a line is too long") from error
    except ValueError as error:
        raise Refused("a line is no JSON") from error
    if not isinstance(line, dict):
        raise Refused("a line is no object")
    return line


def _failure(error: Exception) -> Line:
    if isinstance(error, Refused):
        fault = {} if error.fault is None else {"fault": error.fault.value}
        return {"ok": False, "error": str(error), "usage": error.usage, **fault}
    log.error("a control request failed", exc_info=error)
    return {"ok": False, "error": _BUG, "usage": False, "fault": Fault.BUG.value}


def _why(ended: asyncio.Task[None]) -> str:
    if ended.cancelled():
        return _STOPPING
    error = ended.exception()
    if error is None:
        return "nothing is left to be said"
    if isinstance(error, Refused):
        return str(error)
    log.error("a control conversation failed", exc_info=error)
    return _BUG


class ControlClient:
    """The command line's side, with blocking sockets."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, verb: str, args: Mapping[str, Any], body: bytes = b"") -> Any:
        """Ask and wait for the answer. Raises NotRunning, Refused."""
        with self._asked(verb, args, body) as (_, file):
            return _data(file)

    @contextmanager
    def converse(self, verb: str, args: Mapping[str, Any]) -> Iterator[Dialog]:
        """Ask, and go on talking. Raises NotRunning, Refused."""
        with self._asked(verb, args, b"") as (connection, file):
            yield Dialog(connection, file, _data(file))

    @contextmanager
    def _asked(self, verb: str, args: Mapping[str, Any], body: bytes) -> Iterator[tuple[socket.socket, BinaryIO]]:
        request = json.dumps({"verb": verb, "args": args, "body": len(body)}).encode() + b"\n"
        with self._connected() as connection, connection.makefile("rb") as file:
            with suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before all is sent
                connection.sendall(request + body)
            yield connection, file

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
            fault = Fault.DENIED if isinstance(error, PermissionError) else Fault.LATER
            raise Refused(f"can't reach the server on {self._path}: {error.strerror}", fault=fault) from error
        return connection


class Dialog:
    """A conversation as the client has it. `data`: what the server answered first."""

    def __init__(self, connection: socket.socket, file: BinaryIO, data: Any) -> None:
        self.data = data
        self._connection = connection
        self._file = file

    def receive(self) -> Line:
        """Wait for what the server says next. Raises Refused when it ends the conversation; the text says why."""
        line = _line(self._file, _BROKE_OFF)
        if "end" in line:
            raise Refused(line["end"])
        return line

    def send(self, line: Line) -> None:
        """When the server is gone the next `receive` tells."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(_octets(line))


def _line(file: BinaryIO, torn: str) -> Line:
    """Raises Refused, with the text for a line that is not whole."""
    try:
        line = file.readline()
    except OSError as error:
        raise Refused(f"{_BROKE_OFF}: {error.strerror}", fault=Fault.LATER) from error
    if not line.endswith(b"\n"):
        raise Refused(torn, fault=Fault.LATER)
    answer: Line = json.loads(line)
    return answer


def _data(file: BinaryIO) -> Any:
    answer = _line(file, f"{_BROKE_OFF}; whether it did what was asked is not known")
    if answer["ok"]:
        return answer["data"]
    raise Refused(answer["error"], usage=answer["usage"], fault=_fault(answer.get("fault")))


def _fault(word: str | None) -> Fault | None:
    """None for a word of another version, too."""
    return next((fault for fault in Fault if fault.value == word), None)
