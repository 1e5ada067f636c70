"""SMTP servers not written here, for whatever test wants one beside Pillarbox: found, configured, started, stopped.

peer.py               what all of them have in common: a port, a mailbox, the letters in it
process.py            start a program, know its whole process tree, end exactly that
debian.py             packages of Debian, unpacked without installing them, and a view of the machine that holds them
postfix.py, exim.py, opensmtpd.py, aiosmtpd.py, dovecot.py   one server each; Dovecot's for LMTP must be installed
aiosmtpd_server.py    the program behind aiosmtpd

Each listens on a free port of the loopback, keeps all it writes below a folder of its own, and leaves the machine as it
was: nothing is installed, no account is added, and only processes that were started here are ended. Nothing here knows
Pillarbox. What can't be had on this machine raises CannotRun, which says why and what would mend it.
"""
