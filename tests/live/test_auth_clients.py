"""AUTH by clients that were not written here, against a server of its own process: each mechanism, right and wrong.

Tokens are signed by a key that a little HTTP server publishes.
"""

from __future__ import annotations

import asyncio
import json
import smtplib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiosmtplib
import apsw
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.live.support import HOST, Client, Server, needs, until

DOMAIN = "example.test"
ALICE, OLD, GONE = f"alice@{DOMAIN}", f"old@{DOMAIN}", f"gone@{DOMAIN}"
PASSWORD = "correct, horse=staple"
FAR = "carol@elsewhere.example"  # only who has logged in may send there
AUDIENCE = "mail.example.test"
MESSAGE = b"From: alice@example.test\r\nSubject: x\r\n\r\nbody\r\n"
MANY = 1_000_000


@contextmanager
def authority(keys: dict[str, object]) -> Iterator[str]:
    """The URL of a set of keys."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            octets = json.dumps(keys).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(octets)))
            self.end_headers()
            self.wfile.write(octets)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}/keys"
        finally:
            server.shutdown()
            serving.join()


class Town:
    """A server, and who gives tokens for it."""

    def __init__(self, server: Server, key: rsa.RSAPrivateKey, issuer: str) -> None:
        self.server = server
        self._key = key
        self._issuer = issuer

    def token(self, email: str = ALICE, *, audience: str = AUDIENCE) -> str:
        claims = {"iss": self._issuer, "aud": audience, "email": email, "exp": int(time.time()) + 300}
        return jwt.encode(claims, self._key, "RS256", headers={"kid": "one"})


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    key = rsa.generate_private_key(65537, 2048)
    published = jwt.get_algorithm_by_name("RS256").to_jwk(key.public_key(), as_dict=True)
    with authority({"keys": [{**published, "kid": "one"}]}) as url:
        issuer = url.removesuffix("/keys")
        settings = {
            "listener": [{"name": "mx", "address": f"{HOST}:0"}],
            "oauth": {"issuer": issuer, "audience": AUDIENCE, "jwks": url},
            "limits": {"auth_failures": MANY, "session_auth_failures": MANY, "errors": MANY},
            "route": [{"match": "elsewhere.example", "next_hop": "discard"}],
        }
        with Server(tmp_path_factory.mktemp("auth"), settings=settings) as running:
            running.call("domain_add", domain=DOMAIN)
            for address in (ALICE, GONE):
                running.cli("user", "add", address, "--password-stdin", text=PASSWORD.encode())
            running.cli("user", "disable", GONE)
            yield Town(running, key, issuer)


def run(command: list[str], text: bytes = b"", place: Path | None = None) -> tuple[bool, str]:
    """Whether it says that all went well, and all that it says."""
    done = subprocess.run(command, input=text, capture_output=True, timeout=50, check=False, cwd=place)
    return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")


# --- passwords


def by_smtplib(mechanism: str) -> Callable[[Town, str, str], bool]:
    def send(town: Town, name: str, password: str) -> bool:
        with smtplib.SMTP(HOST, town.server.port, timeout=20) as client:
            client.ehlo()
            client.user, client.password = name, password
            try:
                client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
            except smtplib.SMTPAuthenticationError as error:
                assert error.smtp_code == 535
                return False
            client.sendmail(ALICE, [FAR], MESSAGE)
            return True

    return send


def by_aiosmtplib(mechanism: str) -> Callable[[Town, str, str], bool]:
    async def talk(town: Town, name: str, password: str) -> bool:
        client = aiosmtplib.SMTP(hostname=HOST, port=town.server.port, start_tls=False, timeout=20)
        async with client:
            await client.ehlo()
            login = client.auth_plain if mechanism == "PLAIN" else client.auth_login
            try:
                await login(name, password)
            except aiosmtplib.SMTPAuthenticationError as error:
                assert error.code == 535
                return False
            await client.sendmail(ALICE, [FAR], MESSAGE)
            return True

    return lambda town, name, password: asyncio.run(talk(town, name, password))


def by_swaks(mechanism: str) -> Callable[[Town, str, str], bool]:
    def send(town: Town, name: str, password: str) -> bool:
        command = [needs("swaks"), "--server", HOST, "--port", str(town.server.port), "--from", ALICE, "--to", FAR]
        good, said = run([*command, "--auth", mechanism, "--auth-user", name, "--auth-password", password])
        assert good or "535 5.7.8" in said, said
        return good

    return send


def by_curl(mechanism: str) -> Callable[[Town, str, str], bool]:
    def send(town: Town, name: str, password: str) -> bool:
        url = f"smtp://{HOST}:{town.server.port}/client.example"
        command = [needs("curl"), "-sSv", url, "--mail-from", ALICE, "--mail-rcpt", FAR, "--upload-file", "-"]
        login = ["--user", f"{name}:{password}", "--login-options", f"AUTH={mechanism}"]
        if mechanism in ("XOAUTH2", "OAUTHBEARER"):
            login = ["--user", name, "--oauth2-bearer", password, "--login-options", f"AUTH={mechanism}"]
        good, said = run([*command, *login], MESSAGE)
        assert good or "535 5.7.8" in said, said
        return good

    return send


def by_msmtp(mechanism: str) -> Callable[[Town, str, str], bool]:
    def send(town: Town, name: str, password: str) -> bool:
        options = {"host": HOST, "port": town.server.port, "auth": mechanism, "user": name, "tls": "off", "from": ALICE}
        command = [needs("msmtp"), *(f"--{key}={value}" for key, value in options.items())]
        good, said = run([*command, f"--passwordeval=printf %s '{password}'", FAR], MESSAGE)
        assert good or "authentication failed" in said, said
        return good

    return send


def by_gsasl(mechanism: str) -> Callable[[Town, str, str], bool]:
    def send(town: Town, name: str, password: str) -> bool:
        command = [needs("gsasl"), "--smtp", f"--connect={HOST}:{town.server.port}", "--no-starttls", "--quiet"]
        login = [f"--mechanism={mechanism}", f"--authentication-id={name}", f"--password={password}"]
        good, said = run([*command, *login, "--no-cb"])
        assert good or "535 5.7.8" in said, said
        return good

    return send


PASSWORDS = {
    "smtplib PLAIN": by_smtplib("PLAIN"),
    "smtplib LOGIN": by_smtplib("LOGIN"),
    "aiosmtplib PLAIN": by_aiosmtplib("PLAIN"),
    "aiosmtplib LOGIN": by_aiosmtplib("LOGIN"),
    "swaks PLAIN": by_swaks("PLAIN"),
    "swaks LOGIN": by_swaks("LOGIN"),
    "curl PLAIN": by_curl("PLAIN"),
    "curl LOGIN": by_curl("LOGIN"),
    "msmtp PLAIN": by_msmtp("plain"),
    "msmtp LOGIN": by_msmtp("login"),
    "msmtp SCRAM-SHA-256": by_msmtp("scram-sha-256"),
    "gsasl PLAIN": by_gsasl("PLAIN"),
    "gsasl LOGIN": by_gsasl("LOGIN"),
    "gsasl SCRAM-SHA-256": by_gsasl("SCRAM-SHA-256"),
}


@pytest.mark.parametrize("client", PASSWORDS)
def test_passwords(town: Town, client: str) -> None:
    send = PASSWORDS[client]
    assert send(town, ALICE, PASSWORD)
    assert not send(town, ALICE, "wrong")
    assert not send(town, f"nobody@{DOMAIN}", PASSWORD)
    assert not send(town, GONE, PASSWORD)


def test_a_local_part_is_name_enough(town: Town) -> None:
    assert by_swaks("PLAIN")(town, "alice", PASSWORD)
    assert by_gsasl("SCRAM-SHA-256")(town, "alice", PASSWORD)


# --- tokens

TOKENS = {
    "curl XOAUTH2": by_curl("XOAUTH2"),
    "curl OAUTHBEARER": by_curl("OAUTHBEARER"),
    "msmtp XOAUTH2": by_msmtp("xoauth2"),
    "msmtp OAUTHBEARER": by_msmtp("oauthbearer"),
}


@pytest.mark.parametrize("client", TOKENS)
def test_tokens(town: Town, client: str) -> None:
    send = TOKENS[client]
    assert send(town, ALICE, town.token())
    assert not send(town, ALICE, town.token(audience="another"))
    assert not send(town, ALICE, town.token(GONE))
    assert not send(town, GONE, town.token(GONE))
    assert not send(town, f"nobody@{DOMAIN}", town.token(f"nobody@{DOMAIN}"))


def test_neither_password_nor_token_is_in_the_log(town: Town) -> None:
    token = town.token(audience="another")
    assert not by_curl("XOAUTH2")(town, ALICE, token)
    assert token not in town.server.log and PASSWORD not in town.server.log


# --- limits


def test_too_many_failures_are_put_off_and_others_are_served(tmp_path: Path) -> None:
    settings = {"limits": {"auth_failures": 3, "session_auth_failures": 2}}
    with Server(tmp_path, settings=settings) as server:
        server.call("domain_add", domain=DOMAIN)
        server.cli("user", "add", ALICE, "--password-stdin", text=PASSWORD.encode())
        with Client(server.port) as client:
            replies = [client.say("AUTH PLAIN AGFsaWNlAHdyb25n") for _ in range(3)]
            assert [reply[:9] for reply in replies] == ["535 5.7.8", "535 5.7.8", "421 4.7.0"]
            assert client.closed()
        with Client(server.port) as client:
            assert client.say("AUTH PLAIN AGFsaWNlAHdyb25n").startswith("454 4.7.0 Too many failed logins")
            assert client.say("AUTH PLAIN AG5vYm9keQB3cm9uZw==").startswith("454 4.7.0 Too many failed logins")
            assert client.say("NOOP").startswith("250 ")


# --- our client


def test_a_next_hop_is_logged_in_at_by_scram(tmp_path: Path, town: Town) -> None:
    """Each of them shows the other that it knows the password; with a wrong one the mail waits."""
    secret = tmp_path / "hop.secret"
    secret.write_text(f"{ALICE}\n{PASSWORD}\n")
    route = {"match": "*", "next_hop": f"smtp://{HOST}:{town.server.port}", "credentials": str(secret)}
    settings = {"route": [route], "relay": {"networks": ["127.0.0.0/8"]}, "retry": {"schedule": ["1d"]}}
    with Server(tmp_path, "b", settings=settings) as near, Client(near.port) as client:
        assert client.send(MESSAGE, [FAR], ALICE).startswith("250 2.0.0 ")
        near.drained()
        near.stop()
        secret.write_text(f"{ALICE}\nwrong\n")
        near.start()
        with Client(near.port) as again:
            assert again.send(MESSAGE, [FAR], ALICE).startswith("250 2.0.0 ")
        until(lambda: "535 5.7.8" in near.cli("queue"), what=f"a refused login: {near.log}")


# --- users from before there were SCRAM keys


def test_scram_is_offered_once_everybody_has_keys(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.call("domain_add", domain=DOMAIN)
        server.cli("user", "add", OLD, "--password-stdin", text=PASSWORD.encode())
        server.stop()
        forget_keys(server)
        server.start()
        assert "no SCRAM" in server.cli("check")
        with Client(server.port, hello=False) as client:
            assert "250 AUTH PLAIN LOGIN" in client.say("EHLO client.example")
        server.cli("user", "passwd", OLD, "--password-stdin", text=PASSWORD.encode())
        with Client(server.port, hello=False) as client:
            assert "250 AUTH SCRAM-SHA-256 PLAIN LOGIN" in client.say("EHLO client.example")


def forget_keys(server: Server) -> None:
    """As if the password had been set by an older version."""
    with apsw.Connection(str(server.data / "directory.db")) as db:
        db.execute("UPDATE user SET scram = NULL")
    db.close()
