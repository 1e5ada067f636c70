"""Floor 3: the engine's ports imagined: clock, DNS. Public, for tests of this project and of others."""
