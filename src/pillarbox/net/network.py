"""TCP as the port Network: the one place where outbound connections are made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class TcpNetwork:
    async def connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int, *, seconds: float) -> None:
        """Raises OSError, of which TimeoutError is one."""
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_connection(factory, host, port)
