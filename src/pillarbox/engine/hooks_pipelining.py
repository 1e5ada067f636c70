"""Unauthorised pipelining, as hooks: who sends before it may, without a reply having come, is ended with 554.

A client that says EHLO is told of PIPELINING and may send commands ahead, but for what stands behind EHLO and DATA
(RFC 2920 §3.1); before the greeting nobody may send anything, and behind HELO every command waits for its reply
(RFC 5321 §4.1.1.1). Whoever does otherwise does not read our replies: a program that was talked into speaking to us, or
one that smuggles. Clients on this machine, in the relay networks, and those who have authenticated may.
"""

from __future__ import annotations

from typing import Any

from pillarbox.core import reply as r
from pillarbox.engine.hooks import Data, EndOfData, Greet, Hello, Hook, Mail, OnFailure, Rcpt, Refuse
from pillarbox.engine.service import Client

NAME = "unauth_pipelining"


def pipelining_hooks() -> tuple[Hook[Any], ...]:
    return (
        _hook(Greet, "the connection, before the greeting", ahead=False),
        _hook(Hello, "HELO or EHLO", ahead=False),
        _hook(Mail, "MAIL without EHLO", ahead=True),
        _hook(Rcpt, "RCPT without EHLO", ahead=True),
        _hook(Data, "DATA", ahead=False),
        _hook(EndOfData, "the end of the message without EHLO", ahead=True),
    )


def _hook(stage: type[Any], after: str, *, ahead: bool) -> Hook[Any]:
    """`ahead`: who has said EHLO may send ahead there."""

    def check(occasion: Any) -> Refuse | None:
        client: Client = occasion.client
        if (ahead and client.extended) or client.user is not None or not client.unread():
            return None
        return Refuse(r.UNAUTHORISED_PIPELINING, f"input behind {after}", {"after": after})

    return Hook(NAME, stage, check, strangers_only=True, on_failure=OnFailure.OPEN)
