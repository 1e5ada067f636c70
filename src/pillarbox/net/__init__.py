"""Floor 4: asyncio drivers. They pump bytes between a transport and `smtp`, and decide nothing."""
