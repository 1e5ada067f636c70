"""Floor 3: the engine's ports met with the real world. Never imports `sim`."""
