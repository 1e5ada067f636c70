"""Who is here, where only the domains count: the port Directory for a forecast. Nobody is known by name."""

from __future__ import annotations

from collections.abc import Iterable

from pillarbox.core.address import Domain, Mailbox
from pillarbox.engine.ports import Accepted, NoSuchUser, NotLocal, Relayed, Resolution, User, Verification


class ImaginedDirectory:
    """Meets the port Directory: `ImaginedDirectory(local=[…], kept=[…])`; all mail for a local domain is taken."""

    def __init__(self, *, local: Iterable[Domain] = (), kept: Iterable[Domain] = ()) -> None:
        """`kept`: relay domains whose mail waits for its owner."""
        self._local = frozenset(local)
        self._kept = frozenset(kept)

    def resolve(self, address: Mailbox) -> Resolution:
        if address.domain in self._local:
            return Accepted((address,))
        return Relayed() if address.domain in self._kept else NotLocal()

    def is_local(self, domain: Domain) -> bool:
        return domain in self._local

    def keeps(self, domain: Domain) -> bool:
        return domain in self._kept

    def user(self, address: Mailbox) -> User | None:
        return None

    def login(self, name: str) -> User | None:
        return None

    def all_have_keys(self) -> bool:
        return True

    def login_names(self, name: str) -> tuple[str, ...]:
        return (name,)

    def verify(self, name: str) -> Verification:
        return NoSuchUser()
