"""`pillarbox check`: what it says of listeners, certificates and passwords; nothing is made by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from pillarbox.adapters.directory_sqlite import DirectoryStore
from pillarbox.app.check import Finding, Level, check
from pillarbox.core.address import Domain
from pillarbox.net.unix import bind_unix
from tests.live.names import NameServer

HEAD = 'hostname = "mx.example.test"\ndata = "data"\n'
LISTENER = '[[listener]]\nname = "mx"\naddress = "127.0.0.1:0"\n'


def findings(folder: Path, text: str) -> list[Finding]:
    file = folder / "pillarbox.toml"
    with NameServer({}) as names:
        file.write_text(f'{HEAD}{text}\n[dns]\nservers = ["{names.address}"]\n')
        found = list(check(file))
    assert not (folder / "data").exists()
    return found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('commands.VRFY = "off"', "VRFY is off"),
        ('compat = "classic"', "no longer legal"),
        ('commands.SEND = "on"', "SEND is for everybody"),
        ('tls = "starttls"', "self-signed"),
    ],
)
def test_what_is_advised_against(tmp_path: Path, line: str, said: str) -> None:
    (found,) = [each for each in findings(tmp_path, LISTENER + line) if said in each.what]
    assert found.level is Level.WARN and found.mend
    assert not [each for each in findings(tmp_path, LISTENER) if said in each.what]


def test_auth_in_clear_beyond_this_machine(tmp_path: Path) -> None:
    clear = 'auth = "clear"'
    far = LISTENER.replace("127.0.0.1", "0.0.0.0")
    assert [each for each in findings(tmp_path, far + clear) if "clear text" in each.what]
    assert not [each for each in findings(tmp_path, LISTENER + clear) if "clear text" in each.what]


SUBMISSION = LISTENER + 'service = "submission"\n'


@pytest.mark.parametrize(
    ("text", "level", "said"),
    [
        (SUBMISSION + 'auth = "off"', Level.FAIL, "nobody can submit: AUTH is off"),
        (SUBMISSION.replace("127.0.0.1", "0.0.0.0"), Level.FAIL, "nobody can submit: AUTH is offered under TLS"),
        (SUBMISSION.replace(":0", ":465") + 'tls = "starttls"', Level.WARN, "on port 465 clients begin with TLS"),
        (SUBMISSION + 'tls = "starttls"', Level.WARN, "only by STARTTLS"),
    ],
)
def test_where_people_submit(tmp_path: Path, text: str, level: Level, said: str) -> None:
    (found,) = [each for each in findings(tmp_path, text) if said in each.what]
    assert found.level is level and found.mend


@pytest.mark.parametrize(
    "text",
    [
        LISTENER,
        SUBMISSION,  # on loopback, for a test
        SUBMISSION + 'tls = "implicit"',
        SUBMISSION + 'tls = "starttls"\n' + SUBMISSION.replace('"mx"', '"b"') + 'tls = "implicit"',
    ],
)
def test_where_nothing_is_to_be_said_of_submission(tmp_path: Path, text: str) -> None:
    assert not [each for each in findings(tmp_path, text) if "submi" in each.what or "465" in each.what]


def test_certificates(tmp_path: Path) -> None:
    text = LISTENER + 'tls = "implicit"\n[[tls]]\ncertificate = "cert.pem"\nkey = "cert.key"\n'
    (missing,) = [each for each in findings(tmp_path, text) if each.what.startswith("TLS:")]
    assert missing.level is Level.FAIL and "cert.pem" in missing.what
    certificate = trustme.CA().issue_cert("mx.example.test")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "cert.key")
    (good,) = [each for each in findings(tmp_path, text) if each.what.startswith("TLS:")]
    assert good.level is Level.OK and "mx.example.test" in good.what
    asking = text.replace("implicit", 'implicit"\nclient_certificates = "clients.pem')
    (missing,) = [each for each in findings(tmp_path, asking) if each.what.startswith("TLS:")]
    assert missing.level is Level.FAIL and str(tmp_path / "clients.pem") in missing.what
    assert "client_certificates" in missing.mend


def test_passwords_for_next_hops(tmp_path: Path) -> None:
    text = LISTENER + '[[route]]\nmatch = "*"\nnext_hop = "smtp://relay.test"\ncredentials = "relay.secret"\n'
    (missing,) = [each for each in findings(tmp_path, text) if each.what.startswith("credentials:")]
    assert missing.level is Level.FAIL and "relay.secret" in missing.what
    (tmp_path / "relay.secret").write_text("alice\nsecret words\n")
    (good,) = [each for each in findings(tmp_path, text) if each.what.startswith("credentials:")]
    assert good.level is Level.OK and "secret words" not in good.what


def _socket_of(found: list[Finding]) -> Finding:
    (one,) = [each for each in found if each.what.startswith("listener mx: unix:")]
    return one


def test_a_unix_socket(tmp_path: Path) -> None:
    text = '[[listener]]\nname = "mx"\nservice = "lmtp"\naddress = "unix:run/s"\n'
    missing = _socket_of(findings(tmp_path, text))
    assert missing.level is Level.FAIL and "can't be made" in missing.what and str(tmp_path / "run") in missing.mend
    (tmp_path / "run").mkdir()
    free = _socket_of(findings(tmp_path, text))
    assert (free.level, free.what) == (Level.OK, f"listener mx: unix:{tmp_path}/run/s is free")
    with bind_unix(tmp_path / "run/s", 0o600):
        used = _socket_of(findings(tmp_path, text))
        assert used.level is Level.FAIL and used.what.endswith("is in use")
    stale = _socket_of(findings(tmp_path, text))
    assert stale.level is Level.OK and "nobody listens" in stale.what
    (tmp_path / "run/s").unlink()
    (tmp_path / "run/s").write_text("")
    assert _socket_of(findings(tmp_path, text)).level is Level.FAIL
    assert _socket_of(findings(tmp_path, text.replace("run/s", "run/" + "x" * 120))).level is Level.FAIL


@pytest.mark.parametrize(("domain", "level"), [("returns.example.test", Level.OK), ("other.example.test", Level.WARN)])
def test_the_domain_of_return_addresses_has_a_postmaster(tmp_path: Path, domain: str, level: Level) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    store = DirectoryStore(tmp_path / "data" / "directory.db")
    store.add_domain(Domain.parse("returns.example.test"))
    store.close()
    file = tmp_path / "pillarbox.toml"
    with NameServer({}) as names:
        file.write_text(f'{HEAD}{LISTENER}[bounces]\ndomain = "{domain}"\n[dns]\nservers = ["{names.address}"]\n')
        (found,) = [each for each in check(file) if each.what.startswith("bounces: ")]
    assert found.level is level and bool(found.mend) is (level is Level.WARN)
