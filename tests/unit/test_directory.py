"""Who is here: look-ups, aliases, catch-alls, the postmaster."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pillarbox.core.address import AddressError, Domain, Mailbox
from pillarbox.engine.directory import MAX_TARGETS, CatchAll, Snapshot, parse_alias_address
from pillarbox.engine.ports import Accepted, Circular, Directory, NoSuchUser, NotLocal, Resolution, User

HOST = Domain.parse("mx.example.net")


def box(text: str) -> Mailbox:
    return Mailbox.parse(text)


def snapshot(
    users: tuple[str, ...] = (),
    aliases: Mapping[str, tuple[str, ...]] | None = None,
    *,
    domains: tuple[str, ...] = ("example.test", "second.test"),
    hostname: Domain | None = HOST,
) -> Snapshot:
    return Snapshot(
        tuple(map(Domain.parse, domains)),
        tuple(User(box(user)) for user in users),
        {parse_alias_address(name): tuple(map(box, targets)) for name, targets in (aliases or {}).items()},
        hostname,
    )


def accepted(*addresses: str) -> Accepted:
    return Accepted(tuple(map(box, addresses)))


HERE: Directory = snapshot(
    ("Alice@example.test", "bob@second.test"),
    {
        "sales@example.test": (
            "ALICE@example.test",
            "bob@second.test",
            "carol@elsewhere.example",
            "alice@example.test",
        ),
        "team@example.test": ("sales@example.test", "bob@second.test", "Dave@elsewhere.example"),
        "ghost@example.test": ("nobody@example.test",),
        "half@example.test": ("nobody@example.test", "alice@example.test"),
        "a@example.test": ("b@example.test", "alice@example.test"),
        "b@example.test": ("a@example.test",),
        "diamond@example.test": ("left@example.test", "right@example.test"),
        "left@example.test": ("bottom@example.test",),
        "right@example.test": ("bottom@example.test",),
        "bottom@example.test": ("bob@second.test",),
        "master@example.test": ("Postmaster@second.test",),
        "literal@example.test": ("root@[192.0.2.1]",),
        "@second.test": ("alice@example.test",),
    },
)


@pytest.mark.parametrize(
    ("address", "resolution"),
    [
        ("alice@example.test", accepted("Alice@example.test")),
        ("aLiCe@EXAMPLE.test", accepted("Alice@example.test")),
        ('"alice"@example.test', accepted("Alice@example.test")),
        ("bob@second.test", accepted("bob@second.test")),
        ("anybody@second.test", accepted("Alice@example.test")),
        ("sales@example.test", accepted("Alice@example.test", "bob@second.test", "carol@elsewhere.example")),
        (
            "TEAM@example.test",
            accepted("Alice@example.test", "bob@second.test", "carol@elsewhere.example", "Dave@elsewhere.example"),
        ),
        ("half@example.test", accepted("Alice@example.test")),
        ("ghost@example.test", Circular()),
        ("a@example.test", Circular()),
        ("diamond@example.test", accepted("bob@second.test")),
        ("master@example.test", accepted("Alice@example.test")),
        ("literal@example.test", accepted("root@[192.0.2.1]")),
        ("nobody@example.test", NoSuchUser()),
        ("alice@elsewhere.example", NotLocal()),
        ("alice@[192.0.2.1]", NotLocal()),
        ("alice@mx.example.net", NotLocal()),
        ("PostMaster@example.test", accepted("postmaster@example.test")),
        ("postmaster@second.test", accepted("Alice@example.test")),
        ("POSTMASTER@mx.example.net", accepted("postmaster@example.test")),
        ("postmaster@elsewhere.example", NotLocal()),
    ],
)
def test_resolve(address: str, resolution: Resolution) -> None:
    assert HERE.resolve(box(address)) == resolution


def test_is_local() -> None:
    assert HERE.is_local(Domain.parse("Example.TEST"))
    assert not HERE.is_local(HOST)


@pytest.mark.parametrize(
    ("users", "aliases", "address", "resolution"),
    [
        # The postmaster as user, as alias, and behind an alias that leads nowhere (RFC 5321 §4.5.1).
        (("Postmaster@example.test",), {}, "postmaster@mx.example.net", accepted("Postmaster@example.test")),
        (
            ("postmaster@example.test",),
            {"@example.test": ("x@far.example",)},
            "postmaster@mx.example.net",
            accepted("postmaster@example.test"),
        ),
        ((), {"postmaster@example.test": ("x@far.example",)}, "postmaster@mx.example.net", accepted("x@far.example")),
        ((), {"postmaster@example.test": ("x@example.test",)}, "Postmaster@example.test", None),
        ((), {"postmaster@example.test": ("postmaster@example.test",)}, "Postmaster@example.test", None),
        ((), {"all@example.test": ("postmaster@second.test",)}, "all@example.test", accepted("postmaster@second.test")),
        # A catch-all whose target is caught by it again.
        ((), {"@example.test": ("x@example.test",)}, "y@example.test", Circular()),
        ((), {"all@example.test": ()}, "all@example.test", Circular()),
    ],
)
def test_postmaster_and_catch_all(
    users: tuple[str, ...], aliases: dict[str, tuple[str, ...]], address: str, resolution: Resolution | None
) -> None:
    expected = accepted("postmaster@example.test") if resolution is None else resolution
    assert snapshot(users, aliases).resolve(box(address)) == expected


def test_without_a_local_domain_the_host_name_is_the_one() -> None:
    alone = snapshot(domains=())
    assert alone.resolve(box("Postmaster@mx.example.net")) == accepted("postmaster@mx.example.net")
    assert alone.resolve(box("alice@mx.example.net")) == NoSuchUser()
    assert alone.is_local(HOST)
    nothing = snapshot(domains=(), hostname=None)
    assert nothing.resolve(box("postmaster@mx.example.net")) == NotLocal()


@pytest.mark.parametrize(("length", "good"), [(10, True), (11, False)])
def test_aliases_of_aliases_have_a_bound(length: int, good: bool) -> None:
    chain = {f"a{n}@example.test": (f"a{n + 1}@example.test",) for n in range(length)}
    resolution = snapshot((f"a{length}@example.test",), chain).resolve(box("a0@example.test"))
    assert resolution == (accepted(f"a{length}@example.test") if good else Circular())


@pytest.mark.parametrize(("count", "good"), [(MAX_TARGETS, True), (MAX_TARGETS + 1, False)])
def test_targets_have_a_bound(count: int, good: bool) -> None:
    many = tuple(f"u{n}@far.example" for n in range(count))
    resolution = snapshot(aliases={"all@example.test": many}).resolve(box("all@example.test"))
    assert resolution == (accepted(*many) if good else Circular())


def test_a_thicket_of_aliases_is_walked_once() -> None:
    layers = {
        f"n{layer}-{n}@example.test": tuple(f"n{layer + 1}-{m}@example.test" for m in range(20))
        for layer in range(9)
        for n in range(20)
    }
    users = tuple(f"n9-{n}@example.test" for n in range(20))
    assert snapshot(users, layers).resolve(box("n0-0@example.test")) == accepted(*users)


@pytest.mark.parametrize("source", ["alice@example.test", "@example.test"])
def test_alias_addresses_are_read_and_printed(source: str) -> None:
    assert str(parse_alias_address(source)) == source
    assert isinstance(parse_alias_address(source), CatchAll) == source.startswith("@")


@pytest.mark.parametrize("source", ["", "@", "alice", "@-x-"])
def test_what_is_no_alias_address(source: str) -> None:
    with pytest.raises(AddressError):
        parse_alias_address(source)


def test_everybody_is_in_a_local_domain() -> None:
    with pytest.raises(ValueError, match=r"bob@far\.example is in no local domain"):
        snapshot(("bob@far.example",))
    with pytest.raises(ValueError, match=r"@far\.example is in no local domain"):
        snapshot((), {"@far.example": ("bob@example.test",)})
