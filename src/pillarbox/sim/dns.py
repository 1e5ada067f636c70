"""A resolver that knows what a script says: the port Resolver for tests.

A name that stands nowhere in the script does not exist; one that stands in one part of it has no records of the other.
`asked` is the log of the questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from pillarbox.core.address import Domain
from pillarbox.engine.ports import AddressAnswer, DnsFault, EarlyAddresses, MxAnswer, MxRecord, NoDomain, NoRecords

ScriptedMx = Sequence[tuple[int, str]] | NoRecords | NoDomain | DnsFault
ScriptedAddresses = Sequence[str] | NoRecords | NoDomain | DnsFault
_Silence = NoRecords | NoDomain | DnsFault


class ScriptedResolver:
    """Meets the port Resolver: `ScriptedResolver(mx={"a.test": [(10, "mx.a.test")]}, addresses={"mx.a.test": ["::1"]})`

    The root, as in a null MX, is written "".
    """

    def __init__(
        self, *, mx: Mapping[str, ScriptedMx] | None = None, addresses: Mapping[str, ScriptedAddresses] | None = None
    ) -> None:
        self.asked: list[tuple[str, str]] = []  # ("MX", domain) and ("A", host)
        self._mx: dict[str, MxAnswer] = {}
        self._addresses: dict[str, AddressAnswer] = {}
        self._faults: dict[str, DnsFault] = {}
        self.late_ipv6: set[str] = set()  # hosts whose AAAA records come too late for `first_addresses`
        for name, records in (mx or {}).items():
            self.set_mx(name, records)
        for name, found in (addresses or {}).items():
            self.set_addresses(name, found)

    def set_mx(self, name: str, answer: ScriptedMx) -> None:
        self._mx[name] = (
            answer if isinstance(answer, _Silence) else tuple(MxRecord(preference, host) for preference, host in answer)
        )

    def set_addresses(self, name: str, answer: ScriptedAddresses) -> None:
        self._addresses[name] = answer if isinstance(answer, _Silence) else tuple(map(ip_address, answer))

    def fail(self, name: str, reason: str = "SERVFAIL") -> None:
        """From now on every question about the name meets a fault."""
        self._faults[name] = DnsFault(reason)

    def heal(self, name: str) -> None:
        """The end of `fail`."""
        self._faults.pop(name, None)

    async def mx(self, domain: Domain) -> MxAnswer:
        name = domain.ascii
        self.asked.append(("MX", name))
        return self._faults.get(name) or self._mx.get(name) or self._missing(name)

    async def addresses(self, host: str) -> AddressAnswer:
        self.asked.append(("A", host))
        try:
            return (ip_address(host),)
        except ValueError:
            return self._faults.get(host) or self._addresses.get(host) or self._missing(host)

    async def first_addresses(self, host: str) -> AddressAnswer | EarlyAddresses:
        found = await self.addresses(host)
        if host not in self.late_ipv6 or not isinstance(found, tuple):
            return found
        early = tuple(address for address in found if address.version == 4)
        return EarlyAddresses(early) if early else found

    def _missing(self, name: str) -> NoRecords | NoDomain:
        return NoRecords() if name in self._mx or name in self._addresses else NoDomain()
