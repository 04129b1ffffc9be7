"""Chain ids: the name of a stack of layers (image-spec v1.1, config.md, "Layer ChainID")."""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.oci.digest import Digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def chain_ids(diff_ids: Iterable[str]) -> list[Digest]:
    """The chain id after each layer, lowest first."""
    chains: list[Digest] = []
    for text in diff_ids:
        diff_id = Digest.parse(text)
        chains.append(Digest.of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return chains


def chain_id(diff_ids: Iterable[str]) -> Digest:
    """The chain id of all the layers together; InvalidArgument if there are none."""
    chains = chain_ids(diff_ids)
    if not chains:
        raise InvalidArgument("no layers have no chain id")
    return chains[-1]
