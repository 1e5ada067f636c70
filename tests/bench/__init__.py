"""What `make bench` runs: Pillarbox beside Postfix and aiosmtpd, on one disk, in one run.

`python -m tests.bench --help` lists the options. The parts, lowest first:

values.py   cells, samples, failures: data without behaviour
cpu.py      processor time and memory of a tree, and when it is idle
servers.py  the servers under test, all with the same few verbs, and their configurations for a fair run
load.py     smtp-source, smtp-sink, and the start of our latency client
latency.py  the latency client, a program of its own
tls_client.py  the load under TLS, a program of its own     pair.py  the certificate for it
idle.py     memory of idle connections
runner.py   rounds, order, pauses
targets.py  what is to be reached, against Postfix
report.py   everything that is printed

How Postfix and aiosmtpd are found, and how programs are started and ended, is in tests/peers. Nothing here
imports the package `pillarbox`: it is measured from outside, like the others.
"""
