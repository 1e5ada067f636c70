"""A name server on a UDP port of loopback, in a thread: answers from a small zone, or with SERVFAIL."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from threading import Thread
from types import TracebackType

import dns.message
import dns.rcode
import dns.rrset

from tests.live.support import HOST

Zone = Mapping[tuple[str, str], Sequence[str]]


class NameServer:
    """`zone` has records by name and type; a name in `failing` gets SERVFAIL, all others NXDOMAIN."""

    def __init__(self, zone: Zone, failing: Sequence[str] = ()) -> None:
        self._zone = zone
        self._names = {name for name, _ in zone}
        self._failing = frozenset(failing)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, 0))
        self._thread = Thread(target=self._serve, daemon=True)

    @property
    def address(self) -> str:
        return f"{HOST}:{self._socket.getsockname()[1]}"

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            octets, client = self._socket.recvfrom(4096)
            if not octets:
                return
            self._socket.sendto(self._answer(dns.message.from_wire(octets)).to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True), question.rdtype.name
        response = dns.message.make_response(query)
        if name in self._failing:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif records := self._zone.get((name, kind)):
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *records))
        elif name not in self._names:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response
