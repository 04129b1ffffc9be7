"""Networks, and who has which address in them."""

from __future__ import annotations

from orlop.errors import AlreadyExists, InvalidArgument, ResourceExhausted
from orlop.store.named import NamedRecords

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Networks(NamedRecords):
    """The table of networks, and that of addresses."""

    _table = "networks"

    def allocate(self, network: str, owner: str, cidr: str, wanted: str = "", *, reserved: Sequence[str] = ()) -> str:
        """Give `owner` an address of `cidr` ("10.88.0.0/16", "fd00::/64") in `network` that nobody else has.

        The lowest free one, or `wanted`; one that `owner` has there already is given again. Never given unasked: the
        network's own address, its first host (the gateway's by custom), IPv4's broadcast, and those in `reserved`.
        AlreadyExists if `wanted` is somebody else's, InvalidArgument if it is not in `cidr`, ResourceExhausted if
        all are taken.
        """
        subnet = _Subnet(cidr)
        asked = subnet.inside(wanted) if wanted else None
        with self._database.writing() as transaction:
            taken: set[int] = set()
            for address, holder in transaction.query(
                "SELECT address, owner FROM addresses WHERE network = ?", (network,)
            ):
                number = subnet.number(address)
                if number is None:
                    continue
                if holder == owner and asked in (None, number):
                    return str(address)
                if number == asked:
                    raise AlreadyExists(
                        f"address {wanted} of network {network} belongs to {holder[:12]}", hint="choose another --ip"
                    )
                taken.add(number)
            if asked is None:
                taken.update(number for number in map(subnet.number, reserved) if number is not None)
                asked = subnet.lowest_free(taken, network)
            text = subnet.text(asked)
            transaction.execute("INSERT INTO addresses VALUES (?, ?, ?)", (network, text, owner))
        return text

    def release(self, network: str, owner: str) -> None:
        """Take back all addresses that `owner` has in `network` ("": in all networks)."""
        self._database.execute("DELETE FROM addresses WHERE owner = ? AND ? IN ('', network)", (owner, network))

    def addresses(self, network: str) -> list[tuple[str, str]]:
        """All (address, owner) in a network."""
        rows = self._database.query("SELECT address, owner FROM addresses WHERE network = ?", (network,))
        return [(address, owner) for address, owner in rows]


class _Subnet:
    """Addresses of one network as numbers; `ipaddress` would do, at 5 ms of every `run`."""

    __slots__ = ("_family", "first", "last", "width")

    def __init__(self, cidr: str) -> None:
        base, _, length = cidr.partition("/")
        self._family, self.width, number = _parsed(base, cidr)
        if not length.isdecimal() or int(length) > self.width:
            raise InvalidArgument(f"{cidr!r} is not a subnet", hint="for example 10.88.0.0/16")
        hosts = self.width - int(length)
        self.first = number >> hosts << hosts
        self.last = self.first + (1 << hosts) - 1

    def number(self, address: str) -> int | None:
        """The address' number if it is in this subnet."""
        family, _, number = _parsed(address, address)
        return number if family == self._family and self.first <= number <= self.last else None

    def inside(self, address: str) -> int:
        number = self.number(address)
        if number is None:
            raise InvalidArgument(
                f"address {address} is not in the subnet {self.text(self.first)}/{self._length()}",
                hint="choose one inside",
            )
        return number

    def lowest_free(self, taken: set[int], network: str) -> int:
        end = self.last - 1 if self.width == 32 else self.last
        number = self.first + 2
        while number in taken:
            number += 1
        if number > end:
            raise ResourceExhausted(
                f"network {network} has no free address left in {self.text(self.first)}/{self._length()}",
                hint="remove containers from it, or make a network with a larger subnet",
            )
        return number

    def text(self, number: int) -> str:
        import _socket  # 0.3 ms, and only containers with a network need it

        return _socket.inet_ntop(self._family, number.to_bytes(self.width // 8, "big"))

    def _length(self) -> int:
        return self.width - (self.last - self.first).bit_length()


def _parsed(address: str, whole: str) -> tuple[int, int, int]:
    """Family, bits and number of an address."""
    import _socket  # as above

    family, width = (_socket.AF_INET6, 128) if ":" in address else (_socket.AF_INET, 32)
    try:
        return family, width, int.from_bytes(_socket.inet_pton(family, address), "big")
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{whole!r} is not an address") from error
