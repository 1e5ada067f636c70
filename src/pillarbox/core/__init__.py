"""Floor 0: the values of mail. No I/O, no clock, nothing but the standard library and `idna`."""
