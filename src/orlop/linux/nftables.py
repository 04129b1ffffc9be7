"""nf_tables without the `nft` program: batches that take effect as a whole, and listings.

The wire is nfnetlink (include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h): attributes in network byte order inside
netlink messages, changes between a BEGIN and an END message. The kernel calls what `nft` calls types only by length;
the type numbers given to sets here are nft's own, so that `nft list ruleset` shows them readably.
What rules consist of is in `nft_expressions`.
"""

from __future__ import annotations

import errno
import struct

from orlop.linux import netlink
from orlop.linux.netlink import (
    F_ACK,
    F_APPEND,
    F_CREATE,
    F_EXCL,
    F_REQUEST,
    Netlink,
    NetlinkError,
    Request,
    attribute,
    be32,
    be64,
    message,
    nest,
    text,
)
from orlop.linux.nft_expressions import ACCEPT
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FAMILY_ANY, INET, IPV4, IPV6, BRIDGE = 0, 1, 2, 10, 7
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)

_SUBSYSTEM = 10 << 8
_NEWTABLE, _GETTABLE, _DELTABLE = 0, 1, 2
_NEWCHAIN, _GETCHAIN, _DELCHAIN = 3, 4, 5
_NEWRULE, _GETRULE, _DELRULE = 6, 7, 8
_NEWSET, _GETSET, _DELSET = 9, 10, 11
_NEWELEMENT, _GETELEMENT, _DELELEMENT = 12, 13, 14
_BATCH_BEGIN, _BATCH_END = 16, 17

_TABLE_NAME, _TABLE_FLAGS, _TABLE_USERDATA = 1, 2, 6
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_POSITION, _RULE_USERDATA = 1, 2, 3, 4, 6, 7
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LEN = 1, 2, 3, 4, 5
_SET_DATA_TYPE, _SET_DATA_LEN, _SET_ID, _SET_USERDATA = 6, 7, 10, 13
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_FLAGS, _ELEMENT_USERDATA = 1, 2, 3, 6
_LIST_ELEMENT = 1
_DATA_VALUE = 1
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2

_SET_F_INTERVAL, _SET_F_MAP = 0x4, 0x8
_ELEMENT_F_END = 0x1
_ELEMENT_UDATA_COMMENT, _RULE_UDATA_COMMENT, _TABLE_UDATA_COMMENT = 0, 0, 0
_SET_UDATA_KEY_ORDER, _SET_UDATA_DATA_ORDER = 0, 1
_HOST_ORDER, _NETWORK_ORDER = 1, 2
_LONGEST_COMMENT = 128  # NFTNL_UDATA_COMMENT_MAXLEN in nft

_nfgenmsg = struct.Struct(">BBH")
_native = struct.Struct("=I")

# nft's numbers for types (its datatype.h): (number, bytes)
TYPE_IPV4 = (7, 4)
TYPE_IPV6 = (8, 16)
TYPE_PROTOCOL = (12, 1)
TYPE_PORT = (13, 2)
TYPE_IFNAME = (41, 16)


class Element(Value):
    """One element of a set or map. `comment` is free text that `nft` shows; `end` closes an interval."""

    key: bytes
    data: bytes = b""
    comment: str = ""
    end: bool = False


def _userdata(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value))) + value


def _comment(attribute_kind: int, kind: int, comment: str) -> bytes:
    raw = comment.encode()[: _LONGEST_COMMENT - 1] + b"\0"
    return attribute(attribute_kind, _userdata(kind, raw))


def _element(one: Element) -> bytes:
    data = nest(_ELEMENT_KEY, attribute(_DATA_VALUE, one.key))
    if one.data:
        data += nest(_ELEMENT_DATA, attribute(_DATA_VALUE, one.data))
    if one.end:
        data += be32(_ELEMENT_FLAGS, _ELEMENT_F_END)
    if one.comment:
        data += _comment(_ELEMENT_USERDATA, _ELEMENT_UDATA_COMMENT, one.comment)
    return nest(_LIST_ELEMENT, data)


def _general(family: int, resource: int = 0) -> bytes:
    return _nfgenmsg.pack(family, 0, resource)


class Batch:
    """Changes to one table's family that the kernel makes together, or not at all."""

    __slots__ = ("_family", "requests")

    def __init__(self, family: int = INET) -> None:
        self._family = family
        self.requests: list[Request] = []

    def _add(self, kind: int, flags: int, doing: str, *data: bytes) -> None:
        self.requests.append(Request(_SUBSYSTEM | kind, _general(self._family) + b"".join(data), doing, flags=flags))

    def add_table(self, table: str, *, comment: str = "") -> None:
        """Make the table, unless it is there."""
        data = [text(_TABLE_NAME, table), be32(_TABLE_FLAGS, 0)]
        if comment:
            data.append(_comment(_TABLE_USERDATA, _TABLE_UDATA_COMMENT, comment))
        self._add(_NEWTABLE, F_CREATE, f"create the table {table}", *data)

    def delete_table(self, table: str) -> None:
        """Delete the table with all that is in it; it must exist."""
        self._add(_DELTABLE, 0, f"delete the table {table}", text(_TABLE_NAME, table))

    def add_chain(
        self, table: str, chain: str, *, kind: str = "", hook: int = -1, priority: int = 0, policy: int = ACCEPT
    ) -> None:
        """Make a chain, unless it is there; with `kind` ("filter", "nat") one that the kernel calls at `hook`."""
        data = [text(_CHAIN_TABLE, table), text(_CHAIN_NAME, chain)]
        if kind:
            data.append(nest(_CHAIN_HOOK, be32(_HOOK_NUMBER, hook), be32(_HOOK_PRIORITY, priority)))
            data.append(be32(_CHAIN_POLICY, policy))
            data.append(text(_CHAIN_TYPE, kind))
        self._add(_NEWCHAIN, F_CREATE, f"create the chain {chain} in the table {table}", *data)

    def add_set(
        self,
        table: str,
        name: str,
        key: Sequence[tuple[int, int]],
        *,
        data: Sequence[tuple[int, int]] = (),
        interval: bool = False,
    ) -> None:
        """Make a set (or with `data` a map) whose key is one or several TYPE_*, unless it is there."""
        flags = (_SET_F_INTERVAL if interval else 0) | (_SET_F_MAP if data else 0)
        parts = [text(_SET_TABLE, table), text(_SET_NAME, name), be32(_SET_FLAGS, flags)]
        parts += [be32(_SET_KEY_TYPE, _type_number(key)), be32(_SET_KEY_LEN, _type_size(key))]
        if data:
            parts += [be32(_SET_DATA_TYPE, _type_number(data)), be32(_SET_DATA_LEN, _type_size(data))]
        parts.append(be32(_SET_ID, len(self.requests) + 1))
        parts.append(attribute(_SET_USERDATA, _byte_orders(key, data)))
        self._add(_NEWSET, F_CREATE, f"create the set {name} in the table {table}", *parts)

    def add_rule(self, table: str, chain: str, *expressions: bytes, comment: str = "", first: bool = False) -> None:
        """Append a rule to a chain, or put it `first`."""
        data = [text(_RULE_TABLE, table), text(_RULE_CHAIN, chain), nest(_RULE_EXPRESSIONS, *expressions)]
        if comment:
            data.append(_comment(_RULE_USERDATA, _RULE_UDATA_COMMENT, comment))
        self._add(_NEWRULE, F_CREATE | (0 if first else F_APPEND), f"add a rule to {chain} in the table {table}", *data)

    def delete_rules(self, table: str, chain: str = "", *, handle: int = 0) -> None:
        """Delete the rule with this handle, or all of a chain, or all of the table (which must exist)."""
        data = [text(_RULE_TABLE, table)]
        if chain:
            data.append(text(_RULE_CHAIN, chain))
        if handle:
            data.append(be64(_RULE_HANDLE, handle))
        self._add(_DELRULE, 0, f"delete rules in the table {table}", *data)

    def add_elements(self, table: str, name: str, elements: Iterable[Element], *, exclusive: bool = False) -> None:
        """Add elements. One that is there with the same data is left; `exclusive`: refused with EEXIST."""
        self._elements(_NEWELEMENT, F_CREATE | (F_EXCL if exclusive else 0), "add elements to", table, name, elements)

    def delete_elements(self, table: str, name: str, elements: Iterable[Element]) -> None:
        """Delete elements; all must be there (ENOENT)."""
        self._elements(_DELELEMENT, 0, "delete elements from", table, name, elements)

    def _elements(self, kind: int, flags: int, doing: str, table: str, name: str, elements: Iterable[Element]) -> None:
        packed = [_element(one) for one in elements]
        # An attribute's length is 16 bits.
        for start in range(0, len(packed), 256):
            data = [text(_ELEMENTS_TABLE, table), text(_ELEMENTS_SET, name)]
            data.append(nest(_ELEMENTS, *packed[start : start + 256]))
            self._add(kind, flags, f"{doing} the set {name} in the table {table}", *data)


def _type_number(parts: Sequence[tuple[int, int]]) -> int:
    number = 0
    for kind, _ in parts:
        number = number << 6 | kind  # nft's TYPE_BITS
    return number


def _type_size(parts: Sequence[tuple[int, int]]) -> int:
    return parts[0][1] if len(parts) == 1 else sum(-(-size // 4) * 4 for _, size in parts)


def _byte_orders(key: Sequence[tuple[int, int]], data: Sequence[tuple[int, int]]) -> bytes:
    """What nft needs to print a set: the byte order of keys and data (0 for concatenations)."""
    found = b""
    for kind, parts in ((_SET_UDATA_KEY_ORDER, key), (_SET_UDATA_DATA_ORDER, data)):
        if parts:
            order = 0 if len(parts) > 1 else _HOST_ORDER if parts[0] == TYPE_IFNAME else _NETWORK_ORDER
            found += _userdata(kind, _native.pack(order))
    return found


class Chain(Value):
    """A chain. `hook` is -1 for one that is only jumped to; `policy` is DROP or ACCEPT."""

    family: int
    table: str
    name: str
    kind: str
    hook: int
    priority: int
    policy: int


class Rule(Value):
    """A rule, its expressions as (name, attributes)."""

    family: int
    table: str
    chain: str
    handle: int
    expressions: tuple[tuple[str, bytes], ...]
    comment: str


def _signed(raw: bytes) -> int:
    return int.from_bytes(raw, "big", signed=True)


def parse_chain(payload: bytes) -> Chain:
    """A chain from an NFT_MSG_NEWCHAIN payload."""
    found = netlink.attributes(payload[4:])
    hook = netlink.attributes(found.get(_CHAIN_HOOK, b""))
    return Chain(
        family=payload[0],
        table=netlink.string(found.get(_CHAIN_TABLE, b"")),
        name=netlink.string(found.get(_CHAIN_NAME, b"")),
        kind=netlink.string(found.get(_CHAIN_TYPE, b"")),
        hook=_signed(hook.get(_HOOK_NUMBER, b"\xff")),
        priority=_signed(hook.get(_HOOK_PRIORITY, b"")),
        policy=_signed(found.get(_CHAIN_POLICY, b"\1")),
    )


def parse_rule(payload: bytes) -> Rule:
    """A rule from an NFT_MSG_NEWRULE payload."""
    found = netlink.attributes(payload[4:])
    expressions = []
    for _, raw in netlink.attribute_list(found.get(_RULE_EXPRESSIONS, b"")):
        parts = netlink.attributes(raw)
        expressions.append((netlink.string(parts.get(_EXPRESSION_NAME, b"")), parts.get(_EXPRESSION_DATA, b"")))
    return Rule(
        family=payload[0],
        table=netlink.string(found.get(_RULE_TABLE, b"")),
        chain=netlink.string(found.get(_RULE_CHAIN, b"")),
        handle=_signed(found.get(_RULE_HANDLE, b"")),
        expressions=tuple(expressions),
        comment=_comment_in(found.get(_RULE_USERDATA, b""), _RULE_UDATA_COMMENT),
    )


def parse_elements(payload: bytes) -> list[Element]:
    """The elements in an NFT_MSG_NEWSETELEM payload."""
    found = []
    for _, raw in netlink.attribute_list(netlink.attributes(payload[4:]).get(_ELEMENTS, b"")):
        parts = netlink.attributes(raw)
        found.append(
            Element(
                key=_value(parts.get(_ELEMENT_KEY, b"")),
                data=_value(parts.get(_ELEMENT_DATA, b"")),
                comment=_comment_in(parts.get(_ELEMENT_USERDATA, b""), _ELEMENT_UDATA_COMMENT),
                end=bool(_signed(parts.get(_ELEMENT_FLAGS, b"")) & _ELEMENT_F_END),
            )
        )
    return found


def _value(raw: bytes) -> bytes:
    return netlink.attributes(raw).get(_DATA_VALUE, b"")


def _comment_in(data: bytes, wanted: int) -> str:
    position = 0
    while position + 2 <= len(data):
        kind, size = data[position], data[position + 1]
        if kind == wanted:
            return netlink.string(data[position + 2 : position + 2 + size])
        position += 2 + size
    return ""


class Nftables(Netlink):
    """nf_tables in the network namespace of the thread that makes it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(netlink.NETFILTER)

    def commit(self, batch: Batch) -> None:
        """Make the changes of `batch`, all or none; NetlinkError for the first one refused."""
        if not batch.requests:
            return
        if len(batch.requests) > 64:
            self.widen()
        begin = self.number(len(batch.requests) + 2)
        last = begin + len(batch.requests)
        parts = [message(_BATCH_BEGIN, F_REQUEST, begin, _general(0, _SUBSYSTEM >> 8))]
        for sequence, one in enumerate(batch.requests, begin + 1):
            # Errors are always told; success only for the last, which stands for all.
            flags = F_REQUEST | one.flags | (F_ACK if sequence == last else 0)
            parts.append(message(one.kind, flags, sequence, one.payload))
        parts.append(message(_BATCH_END, F_REQUEST, last + 1, _general(0, _SUBSYSTEM >> 8)))
        self.send(b"".join(parts))
        self._judge(batch, begin, last)

    def _judge(self, batch: Batch, begin: int, last: int) -> None:
        refused: dict[int, NetlinkError] = {}
        done = False
        while not done:
            for answer in self.receive():
                if not begin <= answer.sequence <= last + 1 or answer.kind != netlink.ERROR:
                    continue
                code, explanation = netlink.verdict(answer)
                within = begin < answer.sequence <= last
                doing = batch.requests[answer.sequence - begin - 1].doing if within else "change the firewall"
                if code:
                    refused[answer.sequence] = NetlinkError(code, doing, explanation)
                # An answer to BEGIN or END is about the whole; else the last change's comes after all others.
                done = done or answer.sequence == last or not within
        if refused:
            raise refused[min(refused)]

    def chains(self) -> list[Chain]:
        """Every chain of every table."""
        asked = Request(_SUBSYSTEM | _GETCHAIN, _general(FAMILY_ANY), "list the firewall's chains")
        return [parse_chain(payload) for payload in self.dump(asked)]

    def tables(self) -> list[tuple[int, str]]:
        """(family, name) of every table."""
        asked = Request(_SUBSYSTEM | _GETTABLE, _general(FAMILY_ANY), "list the firewall's tables")
        found = self.dump(asked)
        return [(raw[0], netlink.string(netlink.attributes(raw[4:]).get(_TABLE_NAME, b""))) for raw in found]

    def rules(self, family: int, table: str, chain: str = "") -> list[Rule]:
        """The rules of a table, or one of its chains, in order; none where there is no such table or chain."""
        data = _general(family) + text(_RULE_TABLE, table) + (text(_RULE_CHAIN, chain) if chain else b"")
        asked = Request(_SUBSYSTEM | _GETRULE, data, f"list rules of the table {table}", tolerated=(errno.ENOENT,))
        return [parse_rule(payload) for payload in self.dump(asked)]

    def elements(self, family: int, table: str, name: str) -> list[Element]:
        """A set's elements in no order; none where there is no such set."""
        data = _general(family) + text(_ELEMENTS_TABLE, table) + text(_ELEMENTS_SET, name)
        asked = Request(_SUBSYSTEM | _GETELEMENT, data, f"list the set {name}", tolerated=(errno.ENOENT,))
        return [one for payload in self.dump(asked) for one in parse_elements(payload)]
