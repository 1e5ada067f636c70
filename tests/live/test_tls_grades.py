"""TLS as testssl.sh and sslyze grade it, on listeners of both kinds, by STARTTLS and implicit.

The graders are brought where they are missing: testssl.sh from Debian, unpacked; sslyze into an environment of its own,
for it wants other versions of libraries than we do. What can't be brought is named and skipped. Findings up to LOW
pass; trust and revocation are left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.live.support import HOST, Server
from tests.live.test_tls_live import NAME, write
from tests.peers.debian import CACHE, unpacked
from tests.peers.process import CannotRun

pytestmark = pytest.mark.matrix

SSLYZE = "6.3.1"
LIFE = timedelta(days=90)
SERIOUS = ("MEDIUM", "HIGH", "CRITICAL", "FATAL")
NOT_OURS = frozenset(("cert_revocation", "cert_trust", "cert_chain_of_trust"))  # a CA of the test: nobody's list has it
PATH = "certificate_path_validation"  # likewise
# Curves that Mozilla's profile leaves out because few speak them; stronger than those it has. `ssl` can't name several.
STRONGER_CURVES = frozenset(("X448", "secp521r1"))
LISTENERS = {
    "starttls": {"tls": "starttls"},
    "implicit": {"tls": "implicit"},
    "starttls-clients": {"tls": "starttls", "client_certificates": "ca.pem"},  # this makes the layer pyOpenSSL's
    "implicit-clients": {"tls": "implicit", "client_certificates": "ca.pem"},
}
listeners = pytest.mark.parametrize("name", LISTENERS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("grades")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(place / "ca.pem")
    now = datetime.now(UTC)
    leaf = authority.issue_cert(NAME, not_before=now - timedelta(days=1), not_after=now + LIFE)
    settings = {
        "hostname": NAME,
        "listener": [{"name": name, "address": f"{HOST}:0", **options} for name, options in LISTENERS.items()],
        "tls": [write(leaf, place, "cert")],
        "limits": {"connections_per_address": 1000},
    }
    with Server(place, settings=settings) as started:
        yield started


def run(command: list[str | Path], environ: Mapping[str, str] | None = None) -> str:
    """What it prints. Its status says what it has found, so it is not looked at."""
    words, whole = [str(word) for word in command], {**os.environ, **(environ or {})}
    done = subprocess.run(words, env=whole, capture_output=True, text=True, timeout=600, check=False)
    return done.stdout + done.stderr


# --- testssl.sh


@pytest.fixture(scope="module")
def testssl() -> tuple[Path, Mapping[str, str]]:
    if (found := shutil.which("testssl") or shutil.which("testssl.sh")) is not None:
        return Path(found), {}
    try:
        folder = unpacked(CACHE, "testssl.sh")
    except CannotRun as error:
        pytest.skip(f"LOUD: testssl.sh is not installed, and can't be fetched: {error}")
    data = str(folder / "etc/testssl")
    return folder / "usr/bin/testssl", {"TESTSSL_INSTALL_DIR": data, "CA_BUNDLES_PATH": data}


@listeners
@pytest.mark.timeout(700)
def test_testssl(server: Server, testssl: tuple[Path, Mapping[str, str]], name: str, tmp_path: Path) -> None:
    program, environ = testssl
    report = tmp_path / "report.json"
    command: list[str | Path] = [program, "--quiet", "--color", "0", "--warnings", "off", "--jsonfile", report]
    command += ["--add-ca", server.place / "ca.pem", "--ip", HOST]
    command += ["-t", "smtp"] if name.startswith("starttls") else []
    printed = run([*command, f"{NAME}:{server.ports[name]}"], environ)
    assert report.exists(), printed
    found = json.loads(report.read_text())
    graded = {entry["id"]: entry["severity"] for entry in found}
    assert len(graded) > 90, printed  # it has looked at all
    assert (graded["TLS1"], graded["TLS1_1"], graded["TLS1_2"], graded["TLS1_3"]) == ("INFO", "INFO", "OK", "OK")
    assert [entry for entry in found if entry["severity"] in SERIOUS and entry["id"] not in NOT_OURS] == []


# --- sslyze


@pytest.fixture(scope="module")
def sslyze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (found := shutil.which("sslyze")) is not None:
        return Path(found)
    folder = tmp_path_factory.mktemp("sslyze")
    made = run([sys.executable, "-m", "venv", folder])
    said = run([folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", f"sslyze=={SSLYZE}"])
    if not (folder / "bin/sslyze").exists():
        reason = (made + said).strip().splitlines()[-1:]
        pytest.skip(f"LOUD: sslyze {SSLYZE} can't be installed: {' '.join(reason) or 'unknown'}")
    return folder / "bin/sslyze"


def vulnerabilities(result: Mapping[str, Any]) -> list[str]:
    """What its scans say, a word for each fault."""
    wanted = {
        ("tls_compression", "supports_compression"): False,
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection"): False,
        ("tls_fallback_scsv", "supports_fallback_scsv"): True,
        ("heartbleed", "is_vulnerable_to_heartbleed"): False,
        ("robot", "robot_result"): "NOT_VULNERABLE_RSA_NOT_SUPPORTED",
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos"): False,
        ("session_renegotiation", "supports_secure_renegotiation"): True,
        ("tls_extended_master_secret", "supports_ems_extension"): True,
        **{(f"{version}_cipher_suites", "is_tls_version_supported"): False for version in ("ssl_2_0", "ssl_3_0")},
        **{(f"tls_1_{n}_cipher_suites", "is_tls_version_supported"): n >= 2 for n in range(4)},
    }
    return [f"{scan}: {key}" for (scan, key), good in wanted.items() if result[scan]["result"][key] != good]


@listeners
@pytest.mark.timeout(700)
def test_sslyze(server: Server, sslyze: Path, name: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command: list[str | Path] = [sslyze, "--mozilla_config=intermediate", f"--json_out={report}"]
    command += ["--starttls=smtp"] if name.startswith("starttls") else []
    printed = run([*command, f"{NAME}:{server.ports[name]}{{{HOST}}}"])
    assert report.exists(), printed
    (scanned,) = json.loads(report.read_text())["server_scan_results"]
    assert scanned["scan_status"] == "COMPLETED", printed
    assert vulnerabilities(scanned["scan_result"]) == []
    assert "COMPLIANCE AGAINST TLS CONFIGURATION" in printed
    told = dict(re.findall(r"^ +\* (\w+): (.*)$", printed.partition("COMPLIANCE AGAINST")[2], re.MULTILINE))
    curves = set(re.findall(r"'(\w+)'", told.pop("tls_curves", "")))
    assert curves <= STRONGER_CURVES
    assert set(told) <= {PATH}, printed[-1500:]
