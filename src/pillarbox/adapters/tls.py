"""The certificates of this server: which one a client gets, and when its files are read again.

Knows no connection; handshakes belong to the layer in `net`. Invariants: all connections to one certificate on equal
terms share one context, so that session tickets hold from one to the next; a context that was given out is never
changed; files that can't be used never replace a certificate that can; no ticket key lasts longer than TICKET_KEYS.
RFC 9325 §3.4 (tickets), RFC 6066 §3 (SNI), RFC 9525 §6.3 (wildcards).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from pillarbox.adapters import self_signed
from pillarbox.adapters.certificates import (
    CertificateError,
    CertificateFiles,
    Pair,
    canonical,
    read_authorities,
    read_pair,
)
from pillarbox.adapters.tls_contexts import Choose, Context, ServerContext, exporting_context, server_context
from pillarbox.core.address import Domain

LOOK_EVERY = 0.5  # seconds
RENEW_BEFORE = timedelta(days=30)  # a self-signed certificate
TICKET_KEYS = 12 * 3600.0  # seconds: OpenSSL makes them with a context, so the context is made anew

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a listener wants of TLS besides a certificate."""

    exporter: bool = False  # channel binding by `tls-exporter`
    authorities: Path | None = None  # clients are asked for a certificate of theirs

    @property
    def plain(self) -> bool:
        return not self.exporter and self.authorities is None


PLAIN = Terms()


# --- pairs of files, kept up to date


def _stamp(files: Collection[Path]) -> tuple[tuple[int, ...] | None, ...]:
    """Differs when a file does; of a link it is the file that counts."""
    stamps: list[tuple[int, ...] | None] = []
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            stamps.append(None)
        else:
            stamps.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(stamps)


@dataclass(frozen=True, slots=True)
class _Town:
    """What all pairs share."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    terms: tuple[Terms, ...]

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC)


class _Pair:
    """One pair of files and what was last loaded of it. Making it raises CertificateError."""

    def __init__(self, files: CertificateFiles, town: _Town, choose: Callable[[Terms], Choose | None]) -> None:
        """`choose` gives what picks another certificate by its name, for a pair that is asked first."""
        self._files = files
        self._town = town
        self._choose = choose
        self._complaint = ""
        authorities = {each.authorities for each in town.terms if each.authorities is not None}
        self._watched = (files.certificate, files.key, *sorted(authorities))
        self._load()

    def look(self) -> bool:
        """Load what has changed; what can't be used is tried again at each look. Tells whether there is a new one."""
        if not self._is_due():
            return False
        before = self._seen
        try:
            self._load()
        except CertificateError as error:
            if str(error) != self._complaint:
                _log.error("the certificate that was loaded before stays in use, but new files are bad: %s", error)
            self._complaint = str(error)
            return False
        if self._complaint or before != self._seen:
            _log.info("loaded the new %s, valid until %s", self._files.certificate, self.pair.expires.date())
        self._complaint = ""
        return True

    def _is_due(self) -> bool:
        is_old = self._town.monotonic() - self._loaded >= TICKET_KEYS
        return is_old or bool(self._complaint) or _stamp(self._watched) != self._seen

    def _load(self) -> None:
        self._seen = _stamp(self._watched)  # before the reading: what changes meanwhile is seen at the next look
        pair = read_pair(self._files)
        self.contexts = {terms: self._context(pair, terms) for terms in {PLAIN, *self._town.terms}}
        self.pair = pair
        self._loaded = self._town.monotonic()
        self._warn()

    def _context(self, pair: Pair, terms: Terms) -> Context:
        choose = self._choose(terms)
        if terms.plain:
            return server_context(self._files, pair, choose)
        authorities = () if terms.authorities is None else read_authorities(terms.authorities)
        return exporting_context(self._files, pair, choose, authorities)

    def _warn(self) -> None:
        path, now = self._files.certificate, self._town.now()
        if self.pair.expires <= now:
            _log.warning("%s expired on %s: renew it", path, self.pair.expires.date())
        elif self.pair.valid_from > now:
            _log.warning("%s is not valid before %s: is the clock right?", path, self.pair.valid_from.date())


class _SelfSignedPair(_Pair):
    """A pair of our own making, made when it is missing, unfit, for another host, or soon too old."""

    def __init__(self, folder: Path, hostname: Domain, town: _Town) -> None:
        self._folder = folder
        self._hostname = hostname
        files = CertificateFiles(folder / "self-signed.pem", folder / "self-signed.key")
        super().__init__(files, town, lambda terms: None)

    def _is_due(self) -> bool:
        return super()._is_due() or self._is_old(self.pair)

    def _is_old(self, pair: Pair) -> bool:
        return pair.expires - RENEW_BEFORE <= self._town.now()

    def _is_good(self) -> bool:
        try:
            pair = read_pair(self._files)
        except CertificateError:
            return False
        return pair.names == self_signed.dns_names(self._hostname) and not self._is_old(pair)

    def _load(self) -> None:
        files = self._files
        try:
            with self_signed.locked_folder(self._folder):
                if not self._is_good():
                    now = self._town.now()
                    self_signed.write_pair(files.certificate, files.key, hostname=self._hostname, now=now)
        except OSError as error:
            raise CertificateError(
                f"can't make a self-signed certificate in {self._folder} ({error.strerror}): let the server write "
                "there, or give it a certificate in [[tls]]"
            ) from error
        super()._load()

    def _warn(self) -> None:
        super()._warn()
        _log.warning(
            "SELF-SIGNED CERTIFICATE: with %s connections are encrypted, but no client can know that it speaks with %s "
            "and not with an impostor; give certificate and key of a real one in [[tls]]",
            self._files.certificate,
            self._hostname,
        )


# --- the server's side


class ServerCertificates:
    """The certificates of this server, the first for clients that name none of the others. For one thread."""

    def __init__(
        self,
        files: Sequence[CertificateFiles],
        *,
        keys: Path,
        hostname: Domain,
        monotonic: Callable[[], float],
        wall: Callable[[], float] = time.time,
        terms: Collection[Terms] = (),
    ) -> None:
        """No files: one is made, self-signed, in the folder `keys`. `terms`: all that will be asked for.

        Raises CertificateError.
        """
        self._monotonic = monotonic
        self._by_name: dict[str, _Pair] = {}
        town = _Town(monotonic, wall, tuple(terms))
        several = len(files) > 1
        self._pairs: list[_Pair] = [
            _Pair(each, town, self._chooser if several and not number else lambda terms: None)
            for number, each in enumerate(files)
        ] or [_SelfSignedPair(keys, hostname, town)]
        self._looked = monotonic()
        self._arrange()

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The DNS names of each certificate, in the order of the files."""
        return tuple(each.pair.names for each in self._pairs)

    def context(self) -> ServerContext:
        """A plain one, for a connection that begins now."""
        return cast(ServerContext, self.context_for(PLAIN))

    def context_for(self, terms: Terms) -> Context:
        """For a connection that begins now. Terms that were not foreseen get a plain one, which promises less."""
        now = self._monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            if any([pair.look() for pair in self._pairs]):  # a list: each is looked at
                self._arrange()
        contexts = self._pairs[0].contexts
        return contexts.get(terms) or contexts[PLAIN]

    def _arrange(self) -> None:
        self._by_name = {}
        for pair in self._pairs:
            for name in pair.pair.names:
                self._by_name.setdefault(name, pair)

    def _chooser(self, terms: Terms) -> Choose:
        return lambda name: self._find(name).contexts[terms]

    def _find(self, name: str) -> _Pair:
        """SNI (RFC 6066 §3): the name itself, then a wildcard for its first label (RFC 9525 §6.3), else the first."""
        wanted = canonical(name)
        wildcard = f"*.{wanted.partition('.')[2]}"
        return self._by_name.get(wanted) or self._by_name.get(wildcard) or self._pairs[0]
