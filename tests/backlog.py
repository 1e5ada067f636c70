"""A spool file with a long queue, made directly: 1,000,000 recipients over 20,000 domains unless told otherwise.

    python -m tests.backlog DATA [RECIPIENTS [DOMAINS]]

writes DATA/spool-0.db and then asks it the operator's questions, one by one, and tells how long each took. One
recipient in four is deferred, the rest was never tried; texts are small, since no question reads them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from pillarbox.adapters.predicate_sql import JOINED, condition
from pillarbox.adapters.spool_schema import open_reader, open_spool
from pillarbox.core.envelope import MessageId
from pillarbox.engine.ids import id_at
from pillarbox.engine.predicate_parser import parse_predicate

RECIPIENTS, DOMAINS = 1_000_000, 20_000
BEGIN = 1_700_000_000.0  # when the first was received; one each tenth of a second
_STEP = id_at(0.1)  # between their ids
WITHIN = 2.0  # seconds for any question

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)"
_FILL = (
    f"""INSERT INTO message (id, received_at, sender, body_type, listener, peer, helo, protocol, size, octets, large,
        header_from, header_subject, header_message_id, header_date, options) {_NUMBERS}
    SELECT ?3 + i * ?5, ?4 + i * 0.1, printf('news-%d@sender%d.example', i % 5000, i % 300), '7BIT', 'mx',
        printf('192.0.2.%d', i % 250), 'client.sender.example', 'ESMTPS', 2000 + i % 9000, 0, 0,
        printf('The News <news-%d@sender%d.example>', i % 5000, i % 300), printf('The news of day %d, for you', i),
        printf('<%d.%d@sender%d.example>', i * 7919, i, i % 300), 'Tue, 14 Nov 2023 22:13:20 +0000', NULL FROM n""",
    f"""INSERT INTO recipient (message, number, address, original, lane, state, due, attempts, reply) {_NUMBERS}
    SELECT ?3 + i * ?5, 0, printf('reader%d@d%d.example.org', i, i % ?2), NULL,
        iif(i % 4, '', printf('mx:d%d.example.org', i % ?2)), 0, ?4 + i * 0.1 + (i % 4 = 0) * 900, (i % 4 = 0) * 3,
        iif(i % 4, '', '450 4.7.1 Greylisted, try again in 300 seconds') FROM n""",
    f"""INSERT INTO body {_NUMBERS}
    SELECT ?3 + i * ?5, CAST('Subject: x' || char(13, 10, 13, 10) || 'x' || char(13, 10) AS BLOB)
    FROM n WHERE ?2 AND ?4""",
)


def make(path: Path, recipients: int = RECIPIENTS, domains: int = DOMAINS, *, begin: float = BEGIN) -> None:
    """A new spool file there; the first message came at `begin`."""
    connection = open_spool(path)
    first = id_at(begin)
    with connection:
        for statement in _FILL:
            connection.execute(statement, (recipients, domains, first, begin, _STEP))
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()


def questions(recipients: int = RECIPIENTS) -> Iterator[str]:
    """At least one for each field, some that find much, some nothing, some that must look at all."""
    middle = MessageId(id_at(BEGIN) + recipients // 2 * _STEP)
    yield from (
        "",
        f"id={middle}",
        "sender=news-7@sender7.example",
        "sender~news-49",
        "recipient=reader777777@d17777.example.org",
        "recipient=nobody@nowhere.test",
        "domain=d17.example.org",
        "domain=*.nowhere.test",
        "lane=mx:d16.example.org",
        "state=deferred",
        "state=held",
        "state=settled",
        "age>1h",
        "age<1s",
        "due<now",
        "due>now",
        "attempts>=3",
        "size>10K",
        "size>1G",
        "reply~greylist",
        "reply~nowhere",
        "from~'news-77@'",
        "subject='*day 999999,*'",
        "message-id='<1.1@nowhere.test>'",
        "listener=submission",
        "peer=192.0.2.7",
        "submitter=ann@example.org",
        "domain=d16.example.org state=deferred age>1h",
        "not (domain=*7.example.org or reply~greylist) size>2500 subject~day",
    )


def ask(path: Path, where: str, now: float) -> tuple[float, float, int]:
    """How long `count` and `list --limit 50` took, and how many there are."""
    connection = open_reader(path)
    found = condition(parse_predicate(where), now)
    start = time.perf_counter()
    (number,) = connection.execute(
        f"SELECT count(*) FROM {found.source} WHERE {found.where}", found.arguments
    ).fetchone() or (0,)
    counted = time.perf_counter()
    connection.execute(
        f"SELECT * FROM {JOINED} WHERE {found.where} ORDER BY recipient.message, number LIMIT 51", found.arguments
    ).fetchall()
    listed = time.perf_counter()
    connection.close()
    assert isinstance(number, int)
    return counted - start, listed - counted, number


def main(folder: str, recipients: str = str(RECIPIENTS), domains: str = str(DOMAINS)) -> None:
    path = Path(folder) / "spool-0.db"
    if not path.exists():
        start = time.perf_counter()
        make(path, int(recipients), int(domains))
        sys.stdout.write(f"made in {time.perf_counter() - start:.1f} s, {path.stat().st_size >> 20} MiB\n")
    for where in questions(int(recipients)):
        counted, listed, number = ask(path, where, BEGIN + 0.1 * int(recipients))
        sys.stdout.write(f"count {counted:6.3f} s  list {listed:6.3f} s  {number:8}  {where}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
