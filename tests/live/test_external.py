"""AUTH EXTERNAL: a client certificate says who somebody is (RFC 4422 appendix A), with a client not written here."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.live.support import HOST, Server

ALICE = "alice@example.test"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(tmp_path: Path, authority: trustme.CA) -> Iterator[Server]:
    certificate = authority.issue_cert(HOST)
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(tmp_path / "cert.pem", append=number > 0)
    authority.cert_pem.write_to_path(tmp_path / "clients.pem")
    settings = {
        "listener": [
            {
                "name": "mx",
                "address": f"{HOST}:0",
                "service": "submission",
                "tls": "starttls",
                "client_certificates": "clients.pem",
            }
        ],
        "tls": [{"certificate": "cert.pem", "key": "key.pem"}],
    }
    with Server(tmp_path, settings=settings) as running:
        running.local(ALICE)
        yield running


def context(authority: trustme.CA, shown: trustme.LeafCert | None) -> ssl.SSLContext:
    made = ssl.create_default_context()
    authority.configure_trust(made)
    if shown is not None:
        shown.configure_cert(made)
    return made


def greeted(server: Server, tls: ssl.SSLContext) -> smtplib.SMTP:
    client = smtplib.SMTP(HOST, server.port, "client.example")
    client.starttls(context=tls)
    client.ehlo()
    return client


def test_a_certificate_logs_in(server: Server, authority: trustme.CA) -> None:
    with greeted(server, context(authority, authority.issue_cert(ALICE))) as client:
        assert "EXTERNAL" in client.esmtp_features["auth"].split()
        assert client.docmd("AUTH", "EXTERNAL =")[0] == 235
        client.sendmail(ALICE, [ALICE], b"Subject: x\r\n\r\nx\r\n")
    server.drained()
    (letter,) = (server.data / "mail/example.test/alice/new").iterdir()
    assert b"with ESMTPSA" in letter.read_bytes()


def test_for_somebody_else_it_logs_nobody_in(server: Server, authority: trustme.CA) -> None:
    with greeted(server, context(authority, authority.issue_cert(ALICE))) as client:
        assert client.docmd("AUTH", "EXTERNAL Ym9iQGV4YW1wbGUudGVzdA==")[0] == 535


@pytest.mark.parametrize("kind", ["none", "nobody here", "a stranger's authority"])
def test_where_there_is_nobody_it_is_not_offered(server: Server, authority: trustme.CA, kind: str) -> None:
    shown = {
        "none": None,
        "nobody here": authority.issue_cert("nobody@example.test"),
        "a stranger's authority": trustme.CA().issue_cert(ALICE),
    }[kind]
    with greeted(server, context(authority, shown)) as client:
        assert "EXTERNAL" not in client.esmtp_features["auth"].split()
        assert client.docmd("AUTH", "EXTERNAL =")[0] in (504, 535)
        assert client.docmd("MAIL", f"FROM:<{ALICE}>")[0] == 530
