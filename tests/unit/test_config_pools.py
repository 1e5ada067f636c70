"""`[[pool]]`, and what routes say of pools and messages: what it becomes, what is wrong, and what `check` says."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from pillarbox.app.check import Level
from pillarbox.app.config_load import ConfigError, parse
from pillarbox.core.address import Domain
from pillarbox.engine.egress import Source, Terms
from pillarbox.engine.patterns import HeaderPattern
from pillarbox.engine.routing import AWAY, Mx, Route, SmartHost
from tests.unit.test_check import findings

FILE = Path("/etc/pillarbox/pillarbox.toml")
GOOD = """\
[[pool]]
name = "bulk"
connections = 50
[[pool.source]]
address = "127.0.0.2"
hostname = "OUT1.example.test"
weight = 3
[[pool.source]]
address = "::1"
[[pool]]
name = "own"
[[pool.source]]
address = "127.0.0.3"
weight = 0
[[pool.source]]
address = "127.0.0.4"

[[route]]
match = "*.example"
next_hop = "mx"
pool = "bulk"
class = "bulk-2"
[[route]]
sender = ""
next_hop = "mx"
[[route]]
sender = "*.news.example"
header = "X-Tag: Spring *"
next_hop = "smtp://relay.test"
pool = "own"
"""


def test_what_it_becomes() -> None:
    config = parse(GOOD, FILE)
    assert [(pool.name, pool.terms()) for pool in config.pools] == [
        (
            "bulk",
            Terms(
                (
                    Source(ip_address("127.0.0.2"), Domain.parse("out1.example.test"), 3),
                    Source(ip_address("::1"), None, 1),
                ),
                50,
            ),
        ),
        ("own", Terms((Source(ip_address("127.0.0.3"), None, 0), Source(ip_address("127.0.0.4"), None, 1)), None)),
    ]
    assert [route.route() for route in config.routes] == [
        Route("*.example", Mx(), pool="bulk", traffic="bulk-2"),
        Route(AWAY, Mx(), sender=""),
        Route(
            AWAY,
            SmartHost("relay.test"),
            sender="*.news.example",
            header=HeaderPattern("x-tag", "Spring *"),
            pool="own",
        ),
    ]
    assert config.fields_asked == {"x-tag"}


POOL = '[[pool]]\nname = "p"\n[[pool.source]]\naddress = "127.0.0.2"\n'
ROUTE = '[[route]]\nmatch = "*"\nnext_hop = "mx"\n'


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("[[pool]]\n", ":1: pool[0]: name is missing; allowed: 1 to 32 small letters"),
        ('[[pool]]\nname = "P"\n', ':2: pool[0].name = "P": not a word'),
        ('[[pool]]\nname = "p"\n', ":1: pool[0]: it has no source; add [[pool.source]]"),
        (POOL + POOL, ':6: pool[1].name = "p": pool[0] has the same name; choose another one'),
        (POOL + "weight = 0\n", ":3: pool[0].source: no source has a weight"),
        (POOL + "weight = -1\n", ":5: pool[0].source[0].weight = -1: too small; allowed: a whole number from 0"),
        (POOL + "weight = 1001\n", "weight = 1001: too large"),
        (POOL + "wieght = 1\n", ':5: pool[0].source[0].wieght: unknown key, did you mean "weight"?'),
        (POOL + 'hostname = "-"\n', ":5: pool[0].source[0].hostname"),
        (
            POOL + '[[pool.source]]\naddress = "127.0.0.2"\n',
            ':6: pool[0].source[1].address = "127.0.0.2": source[0] has it, too',
        ),
        (
            '[[pool]]\nname = "p"\n[[pool.source]]\n',
            ":3: pool[0].source[0]: address is missing; allowed: an IP address",
        ),
        *(
            (POOL.replace("127.0.0.2", wrong), f":4: pool[0].source[0].address = {shown}: |; allowed: an IP address of")
            for wrong, shown in (
                ("out.example", '"out.example"'),
                ("127.0.0.2:25", '"127.0.0.2:25"'),
                ("0.0.0.0", '"0.0.0.0"'),
                ("224.0.0.1", '"224.0.0.1"'),
                ("fe80::1%eth0", '"fe80::1%eth0"'),
                ("::ffff:127.0.0.1", '"::ffff:127.0.0.1"'),
            )
        ),
        (
            '[[pool]]\nname = "p"\nsource = "127.0.0.2"\n',
            ":3: pool[0].source: may stand several times; write it as [[pool.source]]",
        ),
        ('[[pool]]\nname = "p"\nsource = ["127.0.0.2"]\n', "write it as [pool.source]"),
        ('[pool]\nname = "p"\n', ":1: pool: may stand several times; write it as [[pool]]"),
        (
            POOL.replace("\n[[", "\nconnections = -1\n[["),
            ":3: pool[0].connections = -1: too small; allowed: |0 for no limit",
        ),
        (ROUTE + 'pool = "p"\n', ':4: route[0].pool = "p": no such pool; add a [[pool]] with that name'),
        (
            POOL.replace('"p"', '"bulk"') + ROUTE + 'pool = "bluk"\n',
            'pool = "bluk": no such pool, did you mean "bulk"?; there are: bulk',
        ),
        (
            POOL + ROUTE.replace('"mx"', '"maildir"') + 'pool = "p"\n',
            'pool = "p": is for next hops that are reached by TCP',
        ),
        (
            POOL + ROUTE.replace('"mx"', '"lmtp:unix:/run/l"') + 'pool = "p"\n',
            'pool = "p": is for next hops that are reached by TCP; leave the key out',
        ),
        (ROUTE.replace('"mx"', '"turn"') + 'class = "c"\n', 'class = "c": is for next hops that speak SMTP or LMTP'),
        (ROUTE + 'class = "Bulk Mail"\n', ':4: route[0].class = "Bulk Mail": not a word'),
        (ROUTE + 'sender = "@"\n', ':4: route[0].sender = "@": '),
        (ROUTE + 'header = "X-Tag"\n', ':4: route[0].header = "X-Tag": there is no colon behind the name'),
        ('[[route]]\nnext_hop = "mx"\npool = "p"\n', ":1: route[0]: match is missing; |; or give `sender` or `header`"),
    ],
)
def test_what_is_wrong_is_explained(text: str, pieces: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    said = str(caught.value)
    for piece in pieces.split("|"):
        assert piece in said


def test_check_looks_for_the_addresses(tmp_path: Path) -> None:
    route = '[[route]]\nsender = "a.example"\nnext_hop = "mx"\npool = "p"\n'
    text = POOL + 'weight = 0\n[[pool.source]]\naddress = "192.0.2.77"\nhostname = "out.example"\n' + route
    found = [each for each in findings(tmp_path, text) if each.what.startswith("pool")]
    assert [(each.level, each.what) for each in found] == [
        (Level.OK, "pool p: 127.0.0.2 as mx.example.test, weight 0, drained"),
        (Level.FAIL, "pool p: 192.0.2.77: source address 192.0.2.77 is not on this machine"),
    ]
    assert "give the address to an interface" in found[1].mend


def test_check_names_a_pool_that_no_route_names(tmp_path: Path) -> None:
    unused, fine = (each for each in findings(tmp_path, POOL) if each.what.startswith("pool"))
    assert (unused.level, fine.level) == (Level.WARN, Level.OK) and "no route names it" in unused.what
