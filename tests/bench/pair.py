"""The certificate of a run: one for all servers, ECDSA P-256, by an authority of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.bench.values import HOSTNAME
from tests.peers.process import HOST


@dataclass(frozen=True, slots=True)
class Pair:
    certificate: Path
    key: Path


def write_pair(folder: Path) -> Pair:
    pair = Pair(folder / "cert.pem", folder / "key.pem")
    leaf = trustme.CA().issue_cert(HOSTNAME, HOST)  # its keys are P-256, unless asked for others
    leaf.cert_chain_pems[0].write_to_path(pair.certificate)
    leaf.private_key_pem.write_to_path(pair.key)
    pair.key.chmod(0o600)
    return pair
