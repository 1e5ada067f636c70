"""What `python -m tests.conformance` runs: `pillarbox conform` against Pillarbox and the servers of tests/peers.

servers.py     which servers, and the report of each
judgements.py  what a person who read the RFC says of each deviation: data
page.py        docs/conformance.md, made of both

A deviation that nobody has judged yet is an error, and so is a judgement that no server needs any more.
"""
