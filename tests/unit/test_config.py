"""The configuration: what the sample becomes, and every way in which a file can be wrong with what is said of it."""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path

import pytest

from pillarbox.app.config import Config, LogFormat, TlsConfig, default_hostname
from pillarbox.app.config_listener import CommandsConfig, Compat, Service
from pillarbox.app.config_load import ConfigError, load, parse
from pillarbox.app.config_locate import locate
from pillarbox.app.config_oauth import OAuthConfig
from pillarbox.app.config_values import Endpoint, UnixSocket
from pillarbox.core.address import Domain
from pillarbox.engine.hooks_limits import Limits
from pillarbox.engine.limits import Limit
from pillarbox.engine.retry import RetrySchedule
from pillarbox.engine.routing import Discard, LineEnd, LmtpSocket, Mx, Pipe, Route, SmartHost, TlsPolicy, Turn
from pillarbox.engine.service import COMMANDS, Access, AuthOffer, TlsMode
from pillarbox.net.timeouts import Deadlines
from pillarbox.smtp.states import Verb

FILE = Path("/etc/pillarbox/pillarbox.toml")

FULL = """\
hostname = "MX.example.test"
data = "var/data"

[[tls]]
certificate = "tls/mx.pem"
key = "/keys/mx.key"
[[tls]]
certificate = "other.pem"
key = "other.pem"

[[listener]]
name = "mx"
address = "127.0.0.1:2525"
service = "mx"
tls = "off"
auth = "tls"
accepts_mail = true
compat = "strict"
proxy_protocol = []
[listener.commands]
VRFY = "auth"
EXPN = "auth"
HELP = "on"
SEND = "off"

[[listener]]
name = "six"
address = "[::1]:0"
tls = "implicit"

[[listener]]
name = "odd"
address = "127.0.0.1:366"
service = "odmr"
tls = "starttls"
auth = "clear"
accepts_mail = false
compat = "classic"
check_sender_domain = true
check_recipient_domain = true
[listener.commands]
VRFY = "off"
EXPN = "trusted"
HELP = "auth"
SEND = "on"
SOML = "trusted"
SAML = "auth"
TURN = "auth"
ATRN = "off"
ETRN = "auth"

[relay]
networks = ["192.0.2.0/24", "2001:db8::/32", "127.0.0.1"]

[[route]]
match = "*.example.org"
next_hop = "smtp://127.0.0.1:2600"
tls = "opportunistic"
[[route]]
match = "sink@example.net"
next_hop = "discard"
tls = "off"
[[route]]
match = "kept.example"
next_hop = "turn"
[[route]]
match = "far.example"
next_hop = "smtps://relay.example"
tls = "verified"
credentials = "relay.secret"
[[route]]
match = "near.example"
next_hop = "mx"
tls = "required"
credentials = "/etc/near.secret"

[retry]
ambiguous = "retry"
schedule = ["5m", 900, "1h"]
give_up = "5d"
warn = "2h"

[limits]
message_size = "25M"
recipients = 1000
connections = 10000
connections_per_address = 100
connections_per_network = 200
connection_rate_per_address = "60/m"
connection_rate_per_network = "100 / m"
message_rate_per_address = "30/m"
message_rate_per_network = "off"
message_rate_per_user = "1000/h"
message_rate_per_sender = "5000/d"
recipient_rate_per_address = "5/s"
recipient_rate_per_user = "2000/h"
network_ipv4 = 28
network_ipv6 = 56
errors = 20
idle = "5m"
connections_per_next_hop = 3
drain = "0s"
session_time = "10m"
transactions = 50
probes = 7
terminal_messages = 2
disk_reserve = "1M"
auth_failures = 9
session_auth_failures = 3

[oauth]
issuer = "https://id.example/realm/"
audience = "mail.example.test"
introspection = "https://id.example/introspect"
credentials = "oauth.secret"
user_claim = "sub"

[log]
format = "json"

[dns]
servers = ["127.0.0.1:5353", "192.0.2.53", "2001:db8::53"]

[timeouts]
dns = "1s"
connect = "2s"
greeting = "3s"
handshake = "4s"
hello = "5s"
mail = "6s"
rcpt = "7s"
data = "8s"
block = "9s"
end = "1h"
command = "11s"

[history]
keep = "0s"
"""


def test_every_key_is_read() -> None:
    config = parse(FULL, FILE)
    assert config.hostname == Domain("mx.example.test") and config.hostname_configured
    assert config.data == Path("/etc/pillarbox/var/data") and config.source == FILE
    assert [(item.name, str(item.address), item.service) for item in config.listeners] == [
        ("mx", "127.0.0.1:2525", Service.MX),
        ("six", "[::1]:0", Service.MX),
        ("odd", "127.0.0.1:366", Service.ODMR),
    ]
    assert [str(item) for item in config.relay.networks] == ["192.0.2.0/24", "2001:db8::/32", "127.0.0.1/32"]
    assert [item.route() for item in config.routes] == [
        Route("*.example.org", SmartHost("127.0.0.1", 2600), TlsPolicy.OPPORTUNISTIC),
        Route("sink@example.net", Discard(), TlsPolicy.OFF),
        Route("kept.example", Turn(), TlsPolicy.OPPORTUNISTIC),
        Route(
            "far.example",
            SmartHost("relay.example", 465, implicit_tls=True),
            TlsPolicy.VERIFIED,
            "/etc/pillarbox/relay.secret",
        ),
        Route("near.example", Mx(), TlsPolicy.REQUIRED, "/etc/near.secret"),
    ]
    assert [item.tls for item in config.listeners] == [TlsMode.OFF, TlsMode.IMPLICIT, TlsMode.STARTTLS]
    assert config.tls == (
        TlsConfig(Path("/etc/pillarbox/tls/mx.pem"), Path("/keys/mx.key")),
        TlsConfig(Path("/etc/pillarbox/other.pem"), Path("/etc/pillarbox/other.pem")),
    )
    assert config.retry.policy() == RetrySchedule((300.0, 900.0, 3600.0), 432000.0, 7200.0)
    assert (config.limits.message_size, config.limits.idle, config.limits.drain) == (26214400, 300.0, 0.0)
    assert config.limits.connections_per_next_hop == 3
    assert (config.limits.auth_failures, config.limits.session_auth_failures) == (9, 3)
    assert config.oauth == OAuthConfig(
        "https://id.example/realm/",
        "mail.example.test",
        None,
        "https://id.example/introspect",
        Path("/etc/pillarbox/oauth.secret"),
        "sub",
    )
    assert config.oauth.discovery == "https://id.example/realm/.well-known/openid-configuration"
    assert (config.limits.session_time, config.limits.transactions, config.limits.probes) == (600.0, 50, 7)
    assert (config.limits.terminal_messages, config.limits.disk_reserve) == (2, 1024 * 1024)
    assert config.limits.in_front() == Limits(
        connections_per_address=100,
        connections_per_network=200,
        connection_rate_per_address=Limit(60, 60),
        connection_rate_per_network=Limit(100, 60),
        message_rate_per_address=Limit(30, 60),
        message_rate_per_user=Limit(1000, 3600),
        message_rate_per_sender=Limit(5000, 86400),
        recipient_rate_per_address=Limit(5, 1),
        recipient_rate_per_user=Limit(2000, 3600),
        prefix_4=28,
        prefix_6=56,
    )
    assert config.log.format is LogFormat.JSON
    assert [str(item) for item in config.dns.servers] == ["127.0.0.1:5353", "192.0.2.53:53", "[2001:db8::53]:53"]
    assert config.history.keep == 0.0
    assert config.timeouts.dns == 1.0
    assert config.timeouts.deadlines() == Deadlines(
        connect=2, greeting=3, handshake=4, hello=5, mail=6, rcpt=7, data=8, block=9, end=3600, command=11
    )


def test_nobody_is_warned_of_a_delay_where_the_configuration_says_so() -> None:
    assert parse('[retry]\nwarn = "0s"', FILE).retry.policy().warn is None
    assert parse("", FILE).retry.policy().warn == 14400.0


def test_what_a_listener_offers() -> None:
    usual, _, odd = parse(FULL, FILE).listeners
    assert (usual.auth, usual.accepts_mail, usual.compat, usual.check_sender_domain) == (
        AuthOffer.TLS,
        True,
        Compat.STRICT,
        False,
    )
    assert (usual.check_recipient_domain, odd.check_recipient_domain) == (False, True)
    assert (odd.auth, odd.accepts_mail, odd.compat, odd.check_sender_domain) == (
        AuthOffer.CLEAR,
        False,
        Compat.CLASSIC,
        True,
    )
    assert usual.commands == CommandsConfig() and usual.commands.by_verb() == COMMANDS
    assert odd.commands.by_verb() == {
        Verb.VRFY: Access.OFF,
        Verb.EXPN: Access.TRUSTED,
        Verb.HELP: Access.AUTH,
        Verb.SEND: Access.ON,
        Verb.SOML: Access.TRUSTED,
        Verb.SAML: Access.AUTH,
        Verb.TURN: Access.AUTH,
        Verb.ATRN: Access.OFF,
        Verb.ETRN: Access.AUTH,
    }


def test_other_servers_have_the_time_that_the_standard_gives_them() -> None:
    """RFC 5321 §4.5.3.2"""
    assert parse("", FILE).timeouts.deadlines() == Deadlines()


def test_an_empty_file_gives_the_defaults() -> None:
    config = parse("", FILE)
    assert config.limits.in_front() == Limits(connections_per_address=100)
    assert config.listeners[0].forbid_unauth_pipelining
    assert [(item.name, item.address, item.service) for item in config.listeners] == [
        ("mx", Endpoint(ipaddress.IPv4Address("127.0.0.1"), 2525), Service.MX)
    ]
    assert not config.hostname_configured and config.hostname == default_hostname()
    assert config.limits == Config().limits and config.limits.connections_per_next_hop == 20
    assert config.retry.policy().intervals == (300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)


def test_no_file_gives_the_defaults_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(None)
    assert config.source is None and config.data == tmp_path / "data"


def test_the_file_here_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pillarbox.toml").write_text('hostname = "mx.example.test"\n')
    config = load(None)
    assert config.source == tmp_path / "pillarbox.toml" and config.hostname == Domain("mx.example.test")


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load(tmp_path / "none.toml")


def test_a_file_must_be_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'data = "d"\n# \xe4\n')
    with pytest.raises(ConfigError, match=r"a\.toml:2: is not UTF-8"):
        load(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("mx.example.org", "mx"), "mx.example.org"),
        (("localhost", "box"), "box"),
        (("no_name", "box."), "box"),
        (("no_name", "no_name"), "localhost"),
    ],
)
def test_default_hostname(names: tuple[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: names[0])
    monkeypatch.setattr("socket.gethostname", lambda: names[1])
    assert default_hostname() == Domain(expected)


def test_unix_sockets_and_pipes(tmp_path: Path) -> None:
    """Relative paths start at the file's directory."""
    file = tmp_path / "a.toml"
    file.write_text(
        """
[[listener]]
address = "unix:run/in"
service = "lmtp"
socket_mode = "660"
[[listener]]
name = "b"
address = "unix:/run/b"
[[route]]
match = "a.example"
next_hop = "lmtp:unix:run/out"
[[route]]
match = "b.example"
next_hop = "pipe"
command = ["/bin/cat", "-u", "{local}"]
timeout = "5s"
line_end = "crlf"
"""
    )
    config = load(file)
    first, second = config.listeners
    assert (first.address, first.socket_mode) == (UnixSocket(tmp_path / "run/in"), 0o660)
    assert (str(second.address), second.socket_mode) == ("unix:/run/b", 0o600)
    socket, pipe = (route.route().next_hop for route in config.routes)
    assert socket == LmtpSocket(str(tmp_path / "run/out"))
    assert pipe == Pipe(("/bin/cat", "-u", "{local}"), 5.0, LineEnd.CRLF)


BAD: list[tuple[str, str]] = [  # the text, and pieces of the complaint, parted by |
    ("data = ", ":1: not TOML"),
    ('data = "x\n', ":1: not TOML"),
    ("[limits]\nerrors = 1\n[limits]\n", ":3: not TOML"),
    ('hostnam = "a.b"', ':1: hostnam: unknown key, did you mean "hostname"?|allowed: bounces, data'),
    ("\n\nmessage_size = 5", ":3: message_size: unknown key, did you mean limits.message_size?"),
    ("zzz = 5", ":1: zzz: unknown key; allowed: bounces, data"),
    ('hostname = "mx_1.test"', ':1: hostname = "mx_1.test": domain has an illegal label; allowed: a domain name'),
    ("hostname = 5", ":1: hostname = 5: not a string"),
    ('data = ""', ":1: data = |not a path"),
    ("listener = []", ":1: listener: at least one"),
    ('[listener]\nname = "x"', ":1: listener: may stand several times; write it as [[listener]]"),
    ('[[listener]]\nadress = "[::1]:25"', ':2: listener[0].adress: unknown key, did you mean "address"?'),
    ('[[listener]]\naddress = "localhost"', ':2: listener[0].address = "localhost": not an IP address and a port'),
    ('[[listener]]\naddress = "[::1]:65536"', ":2: listener[0].address|port above 65535|allowed: IP address and port"),
    ('[[listener]]\naddress = "::1:25"', ":2: listener[0].address|not an IP address and a port"),
    ('[[listener]]\naddress = "1.2.3:25"', ":2: listener[0].address"),
    ('[[listener]]\naddress = "unix:"', ":2: listener[0].address|not a path|allowed: IP address and port"),
    (
        '[[listener]]\naddress = "[::1]:25"\nservice = "lmtp"',
        ':2: listener[0].address = "[::1]:25": LMTP must not be on port 25',
    ),
    ('[[listener]]\nsocket_mode = "0660"', ':2: listener[0].socket_mode = "0660": is for an address "unix:PATH" only'),
    (
        '[[listener]]\naddress = "unix:x"\nsocket_mode = "660 "',
        ':3: listener[0].socket_mode = "660 ": no permissions in octal digits; allowed: permissions as chmod has them',
    ),
    (
        '[[listener]]\naddress = "unix:x"\nproxy_protocol = ["::1"]',
        ":3: listener[0].proxy_protocol: nobody on a Unix socket is in a network",
    ),
    (
        '[[listener]]\naddress = "unix:x"\n[[listener]]\nname = "b"\naddress = "unix:x"',
        ":5: listener[1].address|listener[0] has the same address",
    ),
    ('[[route]]\nmatch = "*"\nnext_hop = "pipe"', ':1: route[0].command is missing: next_hop = "pipe" runs it'),
    (
        '[[route]]\nmatch = "*"\nnext_hop = "pipe"\ncommand = ["procmail"]',
        ':4: route[0].command = "procmail": the program must have its full path',
    ),
    (
        '[[route]]\nmatch = "*"\nnext_hop = "pipe"\ncommand = ["/bin/cat", "{home}"]',
        ':4: route[0].command[1] = "{home}": {home} is none of {recipient}, {original_recipient}, {local}',
    ),
    ('[[route]]\nmatch = "*"\nnext_hop = "pipe"\ncommand = ["/bin/cat", "}"]', "} is none of|is written twice"),
    (
        '[[route]]\nmatch = "*"\nnext_hop = "maildir"\ncommand = ["/bin/cat"]',
        ':4: route[0].command = ["/bin/cat"]: is for next_hop = "pipe" only',
    ),
    ('[[route]]\nmatch = "*"\nnext_hop = "mx"\ntimeout = "60s"', ':4: route[0].timeout = "60s": is for next_hop'),
    ('[[route]]\nmatch = "*"\nnext_hop = "mx"\nline_end = "lf"', ':4: route[0].line_end = "lf": is for next_hop'),
    (
        '[[route]]\nmatch = "*"\nnext_hop = "lmtp:unix:x"\ntls = "verified"',
        ':4: route[0].tls = "verified": there is no TLS on a Unix socket',
    ),
    ('[[listener]]\nname = "a b"', ':2: listener[0].name = "a b": not a name; allowed: 1 to 32'),
    ('[[listener]]\nservice = "mxx"', ':2: listener[0].service = "mxx": no such value, did you mean "mx"?'),
    (
        '[[listener]]\ntls = "startls"',
        ':2: listener[0].tls = "startls": no such value, did you mean "starttls"?'
        '|allowed: "off", "starttls", "implicit"',
    ),
    (
        "[[listener]]\naccepts_mail = 1",
        ":2: listener[0].accepts_mail = 1: neither true nor false; allowed: true or false",
    ),
    ('[[listener]]\naccepts_mail = "no"', ':2: listener[0].accepts_mail = "no": neither true nor false'),
    (
        '[[listener]]\ncheck_sender_domain = "off"',
        ':2: listener[0].check_sender_domain = "off": neither true nor false',
    ),
    (
        '[[listener]]\ncompat = "clasic"',
        ':2: listener[0].compat = "clasic": no such value, did you mean "classic"?|allowed: "strict", "classic"',
    ),
    ('[[listener]]\nauth = "plain"', ':2: listener[0].auth = "plain": no such value; allowed: "off", "tls", "clear"'),
    ('[[listener]]\nproxy_protocol = ["::1/0"]', ":2: listener[0].proxy_protocol[0]|the network is ::/0"),
    (
        '[[listener]]\n\n[listener.commands]\nVRFY = "yes"\n',
        ':4: listener[0].commands.VRFY = "yes": no such value; allowed: "off", "auth", "trusted", "on"',
    ),
    ("[[listener]]\n[listener.commands]\nEXPN = false\n", ":3: listener[0].commands.EXPN = false: not a string"),
    (
        '[[listener]]\n[listener.commands]\nTURN = "trusted"\n',
        ':3: listener[0].commands.TURN = "trusted": no such value; allowed: "off", "auth"',
    ),
    ('[[listener]]\n[listener.commands]\nATRN = "on"\n', ':3: listener[0].commands.ATRN = "on"|allowed: "off", "auth"'),
    ('[[listener]]\n[listener.commands]\nETRN = "on"\n', ':3: listener[0].commands.ETRN = "on"|allowed: "off", "auth"'),
    ('[[listener]]\n[listener.commands]\nMAIL = "on"\n', ":3: listener[0].commands.MAIL: unknown key"),
    ('[[listener]]\n[listener.commands]\nvrfy = "on"\n', ':3: listener[0].commands.vrfy: unknown key|"VRFY"'),
    (
        '[[listener]]\n[listener.commands]\nVFRY = "auth"\n',
        ':3: listener[0].commands.VFRY: unknown key, did you mean "VRFY"?',
    ),
    (
        '[[listener]]\nname = "a"\n[[listener]]\nname = "a"\naddress = "[::1]:25"',
        ':4: listener[1].name = "a": listener[0] has the same name',
    ),
    (
        '[[listener]]\nname = "a"\n[[listener]]\nname = "b"\naddress = "127.0.0.1:2525"',
        ':5: listener[1].address = "127.0.0.1:2525": listener[0] has the same address',
    ),
    ('[[tls]]\ncertificate = "x"', ":1: tls[0]: key is missing"),
    ('[[tls]]\nkey = "x"', ":1: tls[0]: certificate is missing"),
    ('[[tls]]\nkey = "x"\ncertificate = ""', ':3: tls[0].certificate = "": not a path'),
    ('[tls]\nkey = "x"\ncertificate = "x"', ":1: tls: may stand several times; write it as [[tls]]"),
    ("relay = 5", ":1: relay = 5: not a table; write it as [relay]"),
    ('[relay]\nnetworks = "::1"', ':2: relay.networks = "::1": not a list'),
    (
        '[relay]\nnetworks = [\n  "::1", # one\n  "10.0.0.1/8",\n]',
        ":4: relay.networks[1]|the network is 10.0.0.0/8",
    ),
    ('[relay]\nnetworks = ["ten"]', ':2: relay.networks[0] = "ten": not a network; allowed: a network or'),
    ('[[route]]\nmatch = "a.b"', ':1: route[0]: next_hop is missing; allowed: "mx"'),
    ('[[route]]\nnext_hop = "mx"', ":1: route[0]: match is missing"),
    ('[[route]]\nmatch = "*x"\nnext_hop = "mx"', ":2: route[0].match|neither *, a domain"),
    ('[[route]]\nmatch = "*"\nnext_hop = "mxx"', ':3: route[0].next_hop = "mxx"|did you mean "mx"?'),
    ('[[route]]\nmatch = "*"\nnext_hop = "trun"', ':3: route[0].next_hop = "trun"|did you mean "turn"?'),
    ('[[route]]\nmatch = "*"\nnext_hop = "smtps://a.b:0"', ":3: route[0].next_hop|no port between 1 and 65535"),
    (
        '[[route]]\nmatch = "*"\nnext_hop = "mx"\ntls = "requierd"',
        ':4: route[0].tls = "requierd": no such value, did you mean "required"?'
        '|allowed: "off", "opportunistic", "required", "verified"',
    ),
    ('[[route]]\nmatch = "*"\nnext_hop = "mx"\ncredentials = 5', ":4: route[0].credentials = 5: not a string"),
    (
        '[[route]]\nmatch = "*"\nnext_hop = "mx"\ncredentials = "env:MY RELAY"',
        ':4: route[0].credentials = "env:MY RELAY": not the name of a variable; allowed: a path|or "env:NAME"',
    ),
    ("user = 1000", ":1: user = 1000: not a string in quotes; allowed: the name of a user of this system"),
    (
        'user = "no-such-user"',
        ':1: user = "no-such-user": this system has no such user|`useradd --system NAME` makes one',
    ),
    ('user = "roott"', ':1: user = "roott": this system has no such user, did you mean "root"?'),
    ('[retry]\nambiguous = "asks"', ':2: retry.ambiguous = "asks": no such value, did you mean "ask"?'),
    ('[timeouts]\nend = "0s"', ':2: timeouts.end = "0s": too small'),
    ('[timeouts]\ndatta = "1m"', ":2: timeouts.datta: unknown"),
    ("[retry]\nschedule = []", ":2: retry.schedule = []: too few"),
    ('[retry]\nschedule = ["5m", "0s"]', ':2: retry.schedule[1] = "0s": too small'),
    ('[retry]\ngive_up = "5"', ':2: retry.give_up = "5": the unit is missing; allowed: 1s to 1000d'),
    ('[retry]\ngive_up = "1001d"', ":2: retry.give_up|too large"),
    ('[retry]\nwarn = "1001d"', ":2: retry.warn|too large"),
    ('[limits]\nmessage_size = "25MB"', ':2: limits.message_size = "25MB": not a size; allowed: 1 to 2G octets'),
    ('[limits]\nmessage_size = "3G"', ":2: limits.message_size|too large"),
    ("[limits]\nmessage_size = 0", ":2: limits.message_size = 0: too small"),
    ("[limits]\nerrors = true", ":2: limits.errors = true: not a whole number"),
    ("[limits]\nerrors = 2.5", ":2: limits.errors = 2.5: not a whole number"),
    ("[limits]\nprobes = 0", ":2: limits.probes = 0: too small"),
    ("[limits]\ntransactions = 0", ":2: limits.transactions = 0: too small"),
    ("[limits]\nterminal_messages = 0", ":2: limits.terminal_messages = 0: too small"),
    ('[limits]\nsession_time = "0s"', ':2: limits.session_time = "0s": too small'),
    *(
        (f"[limits]\nmessage_rate_per_user = {value}", f":2: limits.message_rate_per_user = {value}: {complaint}")
        for value, complaint in (
            ('"30"', 'the period is missing; allowed: a number from 1 to 1000000 and a period|"1000/h"|"off"'),
            ('"0/m"', "would let nobody in"),
            ('"30/w"', "not a rate"),
            ('"-1/m"', "not a rate"),
            ('"1000001/m"', "too large"),
            ("30", "not a string in quotes"),
            ("true", "not a string in quotes"),
            ('"of"', 'not a rate, did you mean "off"?'),
        )
    ),
    *(
        (f"[limits]\nconnections_per_network = {value}", f":2: limits.connections_per_network = {value}: {complaint}")
        for value, complaint in (
            ("0", 'would let nobody in; allowed: a whole number from 1 to 1000000, or "off" for no limit'),
            ('"none"', "not a whole number"),
            ("-1", "too small"),
            ("true", "not a whole number"),
        )
    ),
    ("[limits]\nnetwork_ipv4 = 33", ":2: limits.network_ipv4 = 33: too large; allowed: a whole number from 1 to 32"),
    ("[limits]\nnetwork_ipv6 = 0", ":2: limits.network_ipv6 = 0: too small; allowed: a whole number from 1 to 128"),
    ('[limits]\nmessage_rate = "30/m"', ":2: limits.message_rate: unknown key"),
    ('[limits]\ndisk_reserve = "3G"', ':2: limits.disk_reserve = "3G": too large'),
    ("[limits]\nauth_failures = 0", ":2: limits.auth_failures = 0: too small"),
    ('[oauth]\naudience = "x"', ":1: oauth: issuer is missing"),
    ('[oauth]\nissuer = "https://id.example"', ":1: oauth: audience is missing"),
    ('[oauth]\nissuer = "https://id.example"\naudience = "x"', ":1: oauth: give one of jwks and introspection"),
    (
        '[oauth]\nissuer = "https://a.b"\naudience = "x"\njwks = "https://a.b"\nintrospection = "https://a.b"',
        ":1: oauth: give one of jwks and introspection",
    ),
    (
        '[oauth]\nissuer = "https://a.b"\naudience = "x"\nintrospection = "https://a.b"',
        ":1: oauth: introspection and credentials belong together",
    ),
    (
        '[oauth]\nissuer = "https://a.b"\naudience = "x"\njwks = "https://a.b"\ncredentials = "f"',
        ":1: oauth: introspection and credentials belong together",
    ),
    ('[oauth]\njwks = "http://id.example/k"', ":2: oauth.jwks|in clear could let anybody in|on this machine only"),
    ('[oauth]\njwks = "ftp://id.example/k"', ":2: oauth.jwks|not a URL of HTTP"),
    ('[oauth]\njwks = "https://u:p@id.example/k"', ":2: oauth.jwks|not a URL of HTTP"),
    ('[oauth]\njwks = "https:///k"', ":2: oauth.jwks|not a URL of HTTP"),
    ('[oauth]\njwks = "https://id.example/a b"', ":2: oauth.jwks|not a URL"),
    ('[oauth]\nuser_claim = ""', ':2: oauth.user_claim = "": empty'),
    ('[log]\nformat = "jsn"', ':2: log.format = "jsn": no such value, did you mean "json"?'),
    ('[dns]\nservers = ["ns.example.org"]', ":2: dns.servers[0]|not an IP address"),
    ('[dns]\nservers = ["127.0.0.1:0"]', ":2: dns.servers[0]|port 0"),
    ("limits.errors = 0", ":1: limits.errors = 0: too small"),
    ("\"history\" . 'keep' = -1", ":1: history.keep = -1: too small"),
]


@pytest.mark.parametrize(("text", "pieces"), BAD)
def test_a_bad_file_is_explained(text: str, pieces: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    said = str(caught.value)
    assert said.startswith(f"{FILE}:")
    for piece in pieces.split("|"):
        assert piece in said


def test_all_problems_are_told_at_once_in_the_order_of_lines() -> None:
    text = '[log]\nformat = "x"\n[limits]\nerrors = 0\nidle = "x"\n[[listener]]\nprt = 25\n'
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    assert [problem.line for problem in caught.value.problems] == [2, 4, 5, 7]


LOCATED = '''\
# a comment with [brackets] and "quotes"
title = "x # no comment" # a comment
long = """
[not.a.table]
a = 1 \\""" still in
"""
raw = \'\'\'
b = 2\'\'\'
[a . "b c"]
d.e = {f = 1, "g" = [1, {h = "]"}]}
list = [ # comment ]
  "one",

  ["two", 1979-05-27 07:32:00,], # more
]
[[t]]
[[t]]
x = \'it\'
[t.sub]
y = 1
[[t.subs]]
z = +inf
[[t.subs]]
'''


def test_lines_are_found() -> None:
    tomllib.loads(LOCATED)
    lines = locate(LOCATED)
    expected = {
        ("title",): 2,
        ("long",): 3,
        ("raw",): 7,
        ("a", "b c"): 9,
        ("a", "b c", "d", "e", "g", 1, "h"): 10,
        ("a", "b c", "list", 0): 12,
        ("a", "b c", "list", 1, 1): 14,
        ("t", 0): 16,
        ("t", 1): 17,
        ("t", 1, "x"): 18,
        ("t", 1, "sub", "y"): 20,
        ("t", 1, "subs", 0, "z"): 22,
        ("t", 1, "subs", 1): 23,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert not any(path[0] == "not" for path in lines)
