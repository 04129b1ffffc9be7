"""What a snapshot has other than its layers, by name alone: no content is packed."""

from __future__ import annotations

from orlop.errors import FailedPrecondition
from orlop.layers import merged
from orlop.layers.packing import ROOT_NAME, Packer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from orlop.layers import tar
    from orlop.layers.compare import TreeWalk
    from orlop.layers.diff import UpperWalk

    Change: TypeAlias = tuple[str, str]

ADDED, CHANGED, DELETED = "A", "C", "D"
_TRIES = 10  # walks through a tree that somebody changes meanwhile


class Lister(Packer):
    """Notes what a walk finds where a packer would write it. `found` maps absolute paths to A, C or D."""

    def __init__(self, upper: str, lowers: Sequence[str]) -> None:
        super().__init__(_nowhere)
        self._upper, self._lowers = upper, tuple(lowers)
        self.found: dict[str, str] = {}

    def _note(self, path: str) -> None:
        known = bool(self._lowers) and merged.look(self._lowers, path) is not None
        self.found[f"/{path}"] = CHANGED if known else ADDED

    def _add(self, entry: tar.Entry, chunks: Iterable[bytes] = ()) -> None:
        del chunks
        if entry.name != ROOT_NAME:
            self._note(entry.name)

    def add(self, parent: int, path: str, info: os.stat_result) -> None:
        """A file, whatever its kind."""
        del parent, info
        self._flush()
        self._note(path)

    def whiteout(self, path: str) -> None:
        """A name that is gone."""
        self._flush()
        self.found[f"/{path}"] = DELETED

    def opaque(self, path: str) -> None:
        """A directory in the place of one that is gone: what that held and this does not is gone."""
        self._flush()
        for name in merged.listing(self._lowers, path) if self._lowers else ():
            inner = f"{path}/{name}" if path else name
            if merged.look((self._upper,), inner) is None:
                self.found[f"/{inner}"] = DELETED


def _nowhere(_: object) -> None:
    """What the packer below us would write."""


def listed(upper: str, lowers: Sequence[str], walk: Callable[[Lister], UpperWalk | TreeWalk]) -> list[Change]:
    """What `walk` tells a lister: (A, C or D, absolute path), by path. FailedPrecondition if the tree never rests."""
    for _ in range(_TRIES):
        lister = Lister(upper, lowers)
        walking = walk(lister)
        try:
            walking.run()
        except FileNotFoundError:
            continue  # something went while we looked
        finally:
            walking.close()
        return sorted(((kind, path) for path, kind in lister.found.items()), key=lambda change: change[1])
    raise FailedPrecondition("the container's files change faster than they can be listed", hint="pause it first")
