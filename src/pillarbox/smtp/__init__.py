"""Floor 1: SMTP without I/O. Bytes in, events out; usable alone, as h11 is for HTTP."""
