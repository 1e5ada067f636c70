"""`pillarbox check`: is everything there that a server needs, and if not, how is it mended.

Looks and changes nothing: the data directory is not made, a database not upgraded, and a port that is tried is let go
at once. Each finding is ok, warn (a server works, mail may not) or fail (a server won't start, or will lose its way).
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import apsw

from pillarbox import __version__
from pillarbox.adapters.certificates import CertificateError, CertificateFiles
from pillarbox.adapters.directory_sqlite import UPGRADES
from pillarbox.adapters.dns import DnsResolver
from pillarbox.adapters.privilege import PrivilegeError, current_user, is_root
from pillarbox.adapters.spool_schema import VERSION as SPOOL_VERSION
from pillarbox.adapters.spool_schema import open_reader
from pillarbox.adapters.tls import ServerCertificates
from pillarbox.app import privilege
from pillarbox.app.config import Config
from pillarbox.app.config_listener import Compat, ListenerConfig, Service
from pillarbox.app.config_load import ConfigError, load
from pillarbox.app.config_shaping import load_rules
from pillarbox.app.config_values import Endpoint, UnixSocket
from pillarbox.app.datadir import DataDir, lock_holder
from pillarbox.app.house import tls_terms
from pillarbox.app.secrets import SecretError, read_credentials
from pillarbox.core.reply import greeting, lmtp_greeting, no_mail_greeting
from pillarbox.engine.ports import DnsFault, NoDomain, NoRecords
from pillarbox.engine.service import TO_TERMINALS, Access, AuthOffer, TlsMode
from pillarbox.net.network import bound_to
from pillarbox.net.unix import MAX_PATH, identity, somebody_listens

DNS_LIFETIME = 3.0  # seconds
_GREETING_WAIT = 3.0  # seconds
_LITTLE_SPACE = 1024**3  # octets
_MEBI = 1024**2
_SUBMISSIONS = 465  # RFC 8314 section 7.3
_NAMED = 10  # so many users are named


class Level(Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend` is what to do about it, "" where nothing is to be done."""

    level: Level
    what: str
    mend: str = ""


def _ok(what: str) -> Finding:
    return Finding(Level.OK, what)


def _warn(what: str, mend: str) -> Finding:
    return Finding(Level.WARN, what, mend)


def _fail(what: str, mend: str) -> Finding:
    return Finding(Level.FAIL, what, mend)


def check(path: Path | None) -> Iterator[Finding]:
    """The findings, as they are made; without a good configuration there is nothing else to look at."""
    yield _ok(f"pillarbox {__version__}, Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}")
    try:
        config = load(path)
    except ConfigError as error:
        yield from (_fail(f"configuration: {problem}", "correct that line") for problem in error.problems)
        return
    yield _ok(f"configuration: {config.source or 'the built-in defaults, for there is no pillarbox.toml here'}")
    data = DataDir(config.data, created=False)
    yield from _identity(config)
    yield from _at_rest(data, config)
    yield from _bounces(data, config)
    holder = lock_holder(data.root)
    yield _ok("not running" if holder is None else f"running: pid {holder or 'unknown'} works on {data.root}")
    for listener in config.listeners:
        yield _address(listener, config, running=holder is not None)
        yield from _offers(listener)
    yield from _submission(config.listeners)
    with _as_server(config):
        secrets = [*_certificates(config, data), *_credentials(config), *_shaping(config)]
    yield from secrets
    yield from _sources(config)
    yield from asyncio.run(_dns(config))


# --- who it runs as


def _identity(config: Config) -> Iterator[Finding]:
    try:
        found = [*privilege.problems(config)]
    except PrivilegeError as error:
        yield _fail(f"user: {error}", "start it as somebody else, or correct `user`")
        return
    for problem in found:
        yield (_fail if problem.fatal else _warn)(f"user: {problem.what}", problem.mend)
    if config.user is None and is_root():
        mend = 'make a user for it, and set user = "NAME"'
        yield _warn("user: root, who owns this machine, and so does whoever finds a way into the server", mend)
    elif not found:
        yield _ok(f"user: {config.user or current_user()}")


def _as_server(config: Config) -> AbstractContextManager[None]:
    """Files are met as the server will meet them."""
    try:
        return privilege.as_user(privilege.new_user(config))
    except PrivilegeError:  # said already
        return nullcontext()


# --- the disk


def _at_rest(data: DataDir, config: Config) -> list[Finding]:
    if privilege.gives_away(config):
        return [_ok(f"data directory: {data.root} is empty, and will be given to {config.user} at the first start")]
    with _as_server(config):
        found = [*_directory(data, config)]
        if all(finding.level is not Level.FAIL for finding in found):
            found += _databases(data)
    return found


def _directory(data: DataDir, config: Config) -> Iterator[Finding]:
    root = data.root
    if not root.exists():
        place = next(parent for parent in root.parents if parent.exists())
        if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
            yield _ok(f"data directory: {root} will be made at the first start")
        else:
            yield _fail(f"data directory: {root} can't be made", f"make {place} writable, or set `data`")
        return
    if not root.is_dir() or not os.access(root, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        yield _fail(f"data directory: {root} is not a writable directory", "set `data`, or correct its permissions")
        return
    if stat.S_IMODE(root.stat().st_mode) & 0o077:
        yield _warn(f"data directory: others on this machine may look into {root}", f"chmod 700 {root}")
    else:
        yield _ok(f"data directory: {root}")
    yield _space(root, config)


def _space(root: Path, config: Config) -> Finding:
    free = shutil.disk_usage(root).free
    text = f"disk: {free // _MEBI} MiB free"
    if free < 2 * config.limits.message_size:
        return _fail(text, "make room: a message of limits.message_size would not fit")
    if free < _LITTLE_SPACE:
        return _warn(text, "make room before the queue grows")
    return _ok(text)


def _databases(data: DataDir) -> Iterator[Finding]:
    for path, known in ((data.directory_db, len(UPGRADES)), (data.spool_db, SPOOL_VERSION)):
        if path.exists():
            yield _schema(path, known)
    if data.directory_db.exists():
        yield from _without_keys(data.directory_db)


def _schema(path: Path, known: int) -> Finding:
    try:
        connection = open_reader(path)
        version = int(connection.pragma("user_version"))
        connection.close()
    except apsw.Error as error:
        return _fail(f"database: {path}: {error}", "restore it from a backup")
    if version > known:
        return _fail(f"database: {path} has schema version {version}, newer than {known}", "use a newer Pillarbox")
    return _ok(f"database: {path}, schema version {version}")


def _without_keys(path: Path) -> Iterator[Finding]:
    """While one who may log in by a password can't by SCRAM, it is offered to nobody."""
    try:
        connection = open_reader(path)
        if int(connection.pragma("user_version")) == len(UPGRADES):
            query = "SELECT address FROM user WHERE enabled AND password IS NOT NULL AND scram IS NULL ORDER BY id"
            names = [str(address) for (address,) in connection.execute(query)]
            if names:
                more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
                what = f"logins: no SCRAM keys for {', '.join(names[:_NAMED])}{more}, so SCRAM is offered to nobody"
                yield _warn(what, "pillarbox user passwd ADDRESS makes them, of the same password or another")
        connection.close()
    except apsw.Error:
        return  # was told as a finding on the file


def _bounces(data: DataDir, config: Config) -> Iterator[Finding]:
    domain = config.bounces.domain
    if domain is None or not data.directory_db.exists():
        return
    try:
        connection = open_reader(data.directory_db)
        here = connection.execute("SELECT 1 FROM domain WHERE name = ? AND NOT relay", (domain.ascii,)).fetchall()
        connection.close()
    except apsw.Error:
        return  # was told as a finding on the file
    if here:
        yield _ok(f"bounces: come back to bounce+...@{domain}")
    else:
        yield _warn(
            f"bounces: {domain} is not a domain here, so it has no postmaster", f"pillarbox domain add {domain}"
        )


# --- the network


def _address(listener: ListenerConfig, config: Config, *, running: bool) -> Finding:
    if isinstance(listener.address, UnixSocket):
        return _socket(listener.name, listener.address, running=running)
    return _port(listener.name, listener.address, config, running=running)


def _socket(name: str, address: UnixSocket, *, running: bool) -> Finding:
    what, path, folder = f"listener {name}: {address}", address.path, address.path.parent
    if len(os.fsencode(path)) > MAX_PATH:
        return _fail(
            f"{what} has more than the {MAX_PATH} octets that a socket's path may have", "choose a shorter one"
        )
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return _fail(f"{what} can't be made", f"make {folder} a directory that this user may write to")
    if identity(path) is None:
        return _ok(f"{what} is free")
    if not path.is_socket():
        return _fail(f"{what} is a file, and no socket", "remove it, or choose another path")
    if not somebody_listens(path):
        return _ok(f"{what} is free, but for a socket that nobody listens on")
    if running:
        return _ok(f"{what} is in use by the running server")
    return _fail(f"{what} is in use", "end what listens there, or choose another path")


def _port(name: str, address: Endpoint, config: Config, *, running: bool) -> Finding:
    what = f"listener {name}: {address}"
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((str(address.ip), address.port))
            trial.listen(1)
    except PermissionError:
        return _fail(
            f"{what} needs the right to use a port below 1024",
            "start as root with `user`, or with CAP_NET_BIND_SERVICE",
        )
    except OSError as error:
        if running and _greets_as(address, config.hostname.ascii):
            return _ok(f"{what} is in use by the running server")
        return _fail(f"{what}: {error.strerror}", "end what uses it, or choose another address")
    return _ok(f"{what} is free")


def _offers(listener: ListenerConfig) -> Iterator[Finding]:
    """What a listener was told to do that standards, or good sense, advise against."""
    what = f"listener {listener.name}"
    if listener.commands.vrfy is Access.OFF and listener.service is Service.MX:
        yield _warn(
            f"{what}: VRFY is off, so it gets 502; RFC 5321 section 7.3 asks for 252",
            'set commands.VRFY = "auth": strangers then get 252, which tells nothing',
        )
    address = listener.address
    if listener.auth is AuthOffer.CLEAR and isinstance(address, Endpoint) and not address.ip.is_loopback:
        yield _warn(
            f"{what}: AUTH is offered in clear text on {address}",
            'set auth = "tls", so that passwords do not cross the network unprotected',
        )
    if listener.compat is Compat.CLASSIC:
        yield _warn(f"{what}: gives replies that are no longer legal", 'set compat = "strict" where real mail comes')
    for verb, access in listener.commands.by_verb().items():
        if verb in TO_TERMINALS and access is Access.ON:
            yield _warn(
                f"{what}: {verb.value} is for everybody: strangers may write to terminals",
                f'set commands.{verb.value} = "trusted" or "auth"',
            )


def _submission(listeners: tuple[ListenerConfig, ...]) -> Iterator[Finding]:
    """Whether people can submit where they are to, and under TLS from the first octet (RFC 8314 section 3.3)."""
    mine = [listener for listener in listeners if listener.service is Service.SUBMISSION]
    implicit = 'set tls = "implicit", usually on port 465'
    for listener in mine:
        what, address = f"listener {listener.name}", listener.address
        far = isinstance(address, Endpoint) and not address.ip.is_loopback
        if listener.auth is AuthOffer.OFF:
            yield _fail(f"{what}: nobody can submit: AUTH is off, and comes first there", 'set auth = "tls"')
        elif listener.tls is TlsMode.OFF and listener.auth is AuthOffer.TLS and far:
            yield _fail(f"{what}: nobody can submit: AUTH is offered under TLS, and TLS is off", implicit)
        elif isinstance(address, Endpoint) and address.port == _SUBMISSIONS and listener.tls is not TlsMode.IMPLICIT:
            yield _warn(f"{what}: on port {_SUBMISSIONS} clients begin with TLS at once", implicit)
    if mine and all(listener.tls is TlsMode.STARTTLS for listener in mine):
        yield _warn(
            "submission: only by STARTTLS; RFC 8314 section 3.3 prefers TLS from the first octet",
            'add a [[listener]] with service = "submission" and tls = "implicit", usually on port 465',
        )


def _certificates(config: Config, data: DataDir) -> Iterator[Finding]:
    """Whether the listeners that have TLS can have it; a certificate that is missing is not made here."""
    if all(listener.tls is TlsMode.OFF for listener in config.listeners):
        return
    if not config.tls:
        yield _warn("TLS: a self-signed certificate is used; clients can't tell who is there", "add a [[tls]]")
        return
    files = [CertificateFiles(each.certificate, each.key) for each in config.tls]
    try:
        found = ServerCertificates(
            files,
            keys=data.root,
            hostname=config.hostname,
            monotonic=time.monotonic,
            terms=[tls_terms(listener) for listener in config.listeners],
        )
    except CertificateError as error:
        yield _fail(f"TLS: {error}", "correct the files that [[tls]] and client_certificates name")
        return
    for names in found.names:
        yield _ok(f"TLS: a certificate for {', '.join(names)}")


def _credentials(config: Config) -> Iterator[Finding]:
    named = (*(route.credentials for route in config.routes), config.oauth.credentials)
    for file in dict.fromkeys(file for file in named if file is not None):
        try:
            read_credentials(file)
        except SecretError as error:
            yield _fail(f"credentials: {error}", "correct the file, which a [[route]] or [oauth] names")
        else:
            yield _ok(f"credentials: {file}")


def _shaping(config: Config) -> Iterator[Finding]:
    if config.shaping is None:
        return
    try:
        found = load_rules(config.shaping)
    except ConfigError as error:
        yield from (_fail(f"shaping: {problem}", "correct that line") for problem in error.problems)
    else:
        yield _ok(f"shaping: {config.shaping}; with the built-in ones there are {len(found.rules)} rules")


def _sources(config: Config) -> Iterator[Finding]:
    """Whether connections can be made from the addresses of the pools."""
    used = {route.pool for route in config.routes}
    for pool in config.pools:
        if pool.name not in used:
            yield _warn(f"pool {pool.name}: no route names it", f'add pool = "{pool.name}" to a [[route]]')
        for source in pool.sources:
            what = f"pool {pool.name}: {source.address}"
            try:
                bound_to(source.address).close()
            except OSError as error:
                yield _fail(
                    f"{what}: {error.strerror}", "give the address to an interface of this machine, or take it out"
                )
            else:
                drained = "" if source.weight else ", drained"
                yield _ok(f"{what} as {source.hostname or config.hostname}, weight {source.weight}{drained}")


def _greets_as(address: Endpoint, hostname: str) -> bool:
    """Is what listens there an SMTP server of our name?"""
    try:
        with socket.create_connection((str(address.ip), address.port), _GREETING_WAIT) as connection:
            said = connection.recv(512)
            greetings = (greeting(hostname), lmtp_greeting(hostname), no_mail_greeting(hostname))
            return said.startswith(tuple(reply.wire for reply in greetings))
    except OSError:
        return False


async def _dns(config: Config) -> list[Finding]:
    servers = [str(server) for server in config.dns.servers]
    resolver = DnsResolver(servers, lifetime=DNS_LIFETIME)
    name = config.hostname
    answer = await resolver.mx(name)
    if isinstance(answer, DnsFault):
        mend = "set dns.servers, or send everything through a smart host with a [[route]]"
        return [_warn(f"DNS: {answer.reason}", mend), _hostname(config)]
    found = await resolver.addresses(name.ascii)
    if isinstance(found, (NoRecords, NoDomain)):
        mend = "other servers may refuse mail from it; set `hostname` to a name that has an address"
        return [_ok("DNS answers"), _hostname(config), _warn(f"hostname: {name} has no address in DNS", mend)]
    return [_ok("DNS answers"), _hostname(config)]


def _hostname(config: Config) -> Finding:
    name = config.hostname
    if "." not in name.ascii:
        mend = 'set `hostname` to a full name, such as "mx.example.org", before mail goes to other servers'
        return _warn(f"hostname: {name} is no full domain name", mend)
    chosen = "configured" if config.hostname_configured else "found on this machine"
    return _ok(f"hostname: {name}, {chosen}")
