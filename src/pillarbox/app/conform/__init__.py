"""`pillarbox conform`: the command -> reply table and the rules of the RFCs, walked against any SMTP server.

The probes are data (`probes_*.py`): what is said, and by what the answer is judged. `engine.py` says it over plain
sockets (`wire.py`), `run.py` does all of them in order, `rules.py` holds every reply that came against what is true of
all replies, `pairs.py` asks which pairs of the table were seen. The reports only show what those found. Nothing here
knows Pillarbox's own server: another one is asked in the same way.

Invariants: it ends, whatever the peer does. No message is delivered unless a mailbox was named for it. A deviation
claims no more than the RFC says: MUST where the text has that word or calls the contrary a violation.
"""
