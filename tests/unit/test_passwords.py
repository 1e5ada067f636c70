"""Passwords: what is kept of them, who they let in, and that a check costs the same for everybody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from pillarbox.adapters import passwords
from pillarbox.adapters.passwords import LANES, MEMORY_KIB, PASSES, THREADS, Argon2Accounts, hash_password, kept_of
from pillarbox.adapters.scram_keys import ITERATIONS, derived, make_keys
from pillarbox.core.address import Domain, Mailbox
from pillarbox.engine.directory import Snapshot
from pillarbox.engine.ports import Accounts, AccountsFault, ScramAccount, User
from pillarbox.smtp.sasl import Derivation, SaslError
from pillarbox.smtp.scram import keys_of


def user(address: str, password: str | None, *, enabled: bool = True) -> User:
    return User(Mailbox.parse(address), password=password, enabled=enabled)


@pytest.fixture(scope="module")
def town() -> Snapshot:
    kept = hash_password("open sesame")
    return Snapshot(
        domains=(Domain("example.test"), Domain("b.test")),
        users=(
            user("alice@example.test", kept),
            user("alice@b.test", hash_password("other")),
            user("gone@example.test", kept, enabled=False),
            user("mute@example.test", None),
            user("broken@example.test", "$argon2id$nonsense"),
            user("old@example.test", PasswordHasher(1, 8, 1).hash("open sesame")),
            user("cafe@example.test", hash_password("caf\u00e9")),
        ),
    )


def with_accounts(town: Snapshot, main: Callable[[Argon2Accounts], Coroutine[Any, Any, None]]) -> None:
    async def opened() -> None:
        accounts = Argon2Accounts(town, secret=b"secret")
        try:
            async with asyncio.timeout(30):
                await main(accounts)
        finally:
            accounts.close()

    asyncio.run(opened())


def test_a_hash_is_of_argon2id_with_our_parameters() -> None:
    first, second = hash_password("x"), hash_password("x")
    assert first != second, "each has a salt of its own"
    assert "x" not in first.split("$")
    parameters = extract_parameters(first)
    assert parameters.type is Type.ID
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (MEMORY_KIB, PASSES, LANES)


@pytest.mark.parametrize(
    ("name", "password", "who"),
    [
        ("alice@example.test", "open sesame", "alice@example.test"),
        ("ALICE@EXAMPLE.test", "open sesame", "alice@example.test"),
        ("alice", "open sesame", "alice@example.test"),
        ("alice@b.test", "other", "alice@b.test"),
        ("alice", "other", None),
        ("alice", "Open sesame", None),
        ("alice", "", None),
        ("gone", "open sesame", None),
        ("mute", "", None),
        ("mute", "open sesame", None),
        ("nobody", "open sesame", None),
        ("nobody@far.example", "open sesame", None),
        ("", "", None),
        ("broken", "open sesame", None),
        ("old", "open sesame", "old@example.test"),
        ("cafe", "caf\u00e9", "cafe@example.test"),
        ("cafe", "cafe\u0301", "cafe@example.test"),
        ("alice", "\ud800", None),
    ],
)
def test_who_gets_in(town: Snapshot, name: str, password: str, who: str | None) -> None:
    async def main(accounts: Accounts) -> None:
        found = await accounts.check(name, password)
        assert (None if found is None else str(found.mailbox)) == who

    with_accounts(town, main)


def test_each_check_verifies_one_hash_of_the_same_cost(town: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes the time is one verification, with the same parameters whoever is asked for."""
    verified: list[str] = []
    verify = PasswordHasher.verify

    def counting(hasher: PasswordHasher, kept: str, password: bytes) -> bool:
        verified.append(kept)
        return verify(hasher, kept, password)

    monkeypatch.setattr(PasswordHasher, "verify", counting)

    async def main(accounts: Argon2Accounts) -> None:
        for name in ("alice", "nobody", "mute", "gone"):
            assert await accounts.check(name, "wrong") is None

    with_accounts(town, main)
    assert len(verified) == 4
    known, *others = verified
    assert known == town.users[0].password
    assert len(set(others)) == 1 and others[0] not in {user.password for user in town.users}
    assert extract_parameters(known) == extract_parameters(others[0])


def test_the_loop_goes_on_and_checks_are_few_at_a_time(town: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    go, guard, busy = threading.Event(), threading.Lock(), asyncio.Event()
    now = most = 0
    loop: asyncio.AbstractEventLoop

    def slow(hasher: PasswordHasher, kept: str, password: bytes) -> bool:
        nonlocal now, most
        with guard:
            now += 1
            most = max(most, now)
        if now == THREADS:
            loop.call_soon_threadsafe(busy.set)
        assert go.wait(20)
        with guard:
            now -= 1
        return True

    monkeypatch.setattr(PasswordHasher, "verify", slow)

    async def main(accounts: Argon2Accounts) -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        checks = [asyncio.create_task(accounts.check("alice", "x")) for _ in range(10)]
        await busy.wait()
        checks.pop().cancel()  # a client that went away before its turn
        go.set()
        assert all(found is not None for found in await asyncio.gather(*checks))

    with_accounts(town, main)
    assert most == THREADS


def test_a_broken_hash_is_logged_without_it(town: Snapshot, caplog: pytest.LogCaptureFixture) -> None:
    async def main(accounts: Argon2Accounts) -> None:
        await accounts.check("broken", "open sesame")

    with_accounts(town, main)
    assert "the password of 'broken' can't be checked, set it again: " in caplog.text
    assert "nonsense" not in caplog.text and "sesame" not in caplog.text


def test_a_flood_of_logins_is_put_off(town: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MAX_WAITING", 3)

    async def run() -> list[object]:
        accounts = Argon2Accounts(town, secret=b"secret")
        try:
            return await asyncio.gather(*(accounts.check("nobody", "x") for _ in range(5)), return_exceptions=True)
        finally:
            accounts.close()

    found = asyncio.run(run())
    assert found[:3] == [None] * 3
    assert [type(each) for each in found[3:]] == [AccountsFault] * 2


# --- SCRAM


def keyed(address: str, password: str, *, enabled: bool = True) -> User:
    hashed, scram = kept_of(password)
    return User(Mailbox.parse(address), password=hashed, scram=scram, enabled=enabled)


@pytest.fixture(scope="module")
def village() -> Snapshot:
    return Snapshot(
        domains=(Domain("example.test"), Domain("b.test")),
        users=(
            keyed("alice@example.test", "open sesame"),
            keyed("bob@b.test", "open sesame"),
            keyed("gone@example.test", "open sesame", enabled=False),
            user("old@b.test", hash_password("open sesame")),
        ),
    )


def scram(town: Snapshot, *names: str, secret: bytes = b"secret") -> list[ScramAccount]:
    found: list[ScramAccount] = []

    async def main() -> None:
        accounts = Argon2Accounts(town, secret=secret)
        found.extend(accounts.scram(name) for name in names)
        accounts.close()

    asyncio.run(main())
    return found


def test_scram_keys_are_those_of_the_password(village: Snapshot) -> None:
    (account,) = scram(village, "ALICE")
    keys = account.keys
    assert account.user == village.users[0] and keys == village.users[0].scram
    assert keys.iterations == ITERATIONS and len(keys.salt) == 16
    salted = derived(Derivation("open sesame", keys.salt, keys.iterations))
    assert keys_of(salted, keys.salt, keys.iterations) == keys


def test_each_login_has_a_nonce_of_its_own(village: Snapshot) -> None:
    first, second = scram(village, "alice", "alice")
    assert first.nonce != second.nonce and min(len(first.nonce), len(second.nonce)) >= 20


def test_nobody_has_keys_that_look_like_somebody_s(village: Snapshot) -> None:
    for name in ("nobody", "nobody@example.test", "nobody@far.example", "x y", "\ud800", "old", "old@b.test"):
        first, second = scram(village, name, name.upper())
        assert first.user is None and first.keys == second.keys, "whatever the case"
        known = scram(village, "alice")[0].keys
        assert (first.keys.iterations, len(first.keys.salt)) == (known.iterations, len(known.salt))
        assert len(first.keys.stored_key) == len(known.stored_key)


def test_a_name_and_its_address_have_the_same_salt_whether_they_are_somebody_s_or_not(village: Snapshot) -> None:
    for name in ("alice", "bob", "old", "nobody", "no.one", "x"):
        bare, *full = (account.keys for account in scram(village, name, f"{name}@example.test", f"{name}@b.test"))
        assert full.count(bare) == 1 and full[0] != full[1]


def test_nobody_s_salt_is_the_server_s_own(village: Snapshot) -> None:
    assert scram(village, "nobody")[0].keys == scram(village, "nobody")[0].keys
    assert scram(village, "nobody")[0].keys != scram(village, "nobody", secret=b"another")[0].keys
    assert scram(village, "alice")[0].keys == scram(village, "alice", secret=b"another")[0].keys


def test_who_is_disabled_keeps_the_keys_and_gets_nothing_for_them(village: Snapshot) -> None:
    (account,) = scram(village, "gone")
    assert account.keys == village.users[2].scram and account.user is None


@pytest.mark.parametrize(("one", "same"), [("I\u00adX", "IX"), ("\u2168", "IX"), ("caf\u00e9", "cafe\u0301")])
def test_passwords_are_prepared(one: str, same: str) -> None:
    """RFC 4013 §3."""
    assert derived(Derivation(one, b"salt", 4096)) == derived(Derivation(same, b"salt", 4096))


@pytest.mark.parametrize("password", ["\u0007", "\u0627\u0031", "\U0001f98a", "\ud800"])
def test_passwords_that_scram_forbids_have_no_keys(password: str) -> None:
    assert make_keys(password) is None
    with pytest.raises(SaslError, match="has characters that SCRAM forbids"):
        derived(Derivation(password, b"salt", 4096))
