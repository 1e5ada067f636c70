"""What `make bench` runs: Pillarbox beside Postfix and aiosmtpd, on one disk, in one run.

`python -m tests.bench --help` lists the options. The parts, lowest first:

values.py           cells, samples, failures: data without behaviour
process.py          start a program, know its whole process tree, end exactly that
cpu.py              processor time and memory of a tree, and when it is idle
postfix.py          Postfix from Debian, unpacked without installing it, and a configuration for a fair run
servers.py          the servers under test, all with the same few verbs
aiosmtpd_server.py  the program behind the `aiosmtpd` server
load.py             smtp-source, smtp-sink, and the start of our latency client
latency.py          the latency client, a program of its own
idle.py             memory of idle connections
runner.py           rounds, order, pauses
targets.py          what is to be reached, against Postfix
report.py           everything that is printed

Nothing here imports the package `pillarbox`: it is measured from outside, like the others.
"""
