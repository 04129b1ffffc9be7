"""The folders of RUN --mount=type=cache: they outlive builds, belong to no image, and go with the build cache.

Each is used under a lock of its name: shared by builds that share it, alone where `sharing` says so, and by pruning.
"""

from __future__ import annotations

import contextlib
import hashlib
import os

from orlop.errors import Conflict
from orlop.linux import diskspace, files, owners
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from orlop.store.root import Root

_MAX_COPIES = 64


class CacheMounts(Value):
    """The cache folders of a root."""

    root: Root

    @property
    def folder(self) -> str:
        """Where they are."""
        return os.path.join(self.root.path, "build", "cache")

    def use(
        self,
        identity: str,
        sharing: str,
        stack: ExitStack,
        *,
        fill: Callable[[str], None],
        owner: tuple[int, int] = (0, 0),
        mode: int = 0o755,
    ) -> str:
        """The folder for the cache `identity`, locked until `stack` ends; `fill` puts first contents into a new one.

        `sharing` is "shared", "locked" (waits until nobody else uses it) or "private" (a copy that nobody else uses).
        """
        name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        if sharing == "private":
            name = self._private(name, stack)
        else:
            stack.enter_context(self.root.lock(_lock_of(name), exclusive=sharing == "locked"))
        path = os.path.join(self.folder, name)
        if not os.path.isdir(path):
            self._make(path, fill, owner, mode)
        os.utime(path)  # when it was last used
        return path

    def _private(self, name: str, stack: ExitStack) -> str:
        for number in range(_MAX_COPIES):
            one = f"{name}-{number}"
            with contextlib.suppress(Conflict):
                stack.enter_context(self.root.lock(_lock_of(one), wait=False))
                return one
        raise Conflict(f"{_MAX_COPIES} builds use a private copy of the same cache mount")

    def _make(self, path: str, fill: Callable[[str], None], owner: tuple[int, int], mode: int) -> None:
        """Made beside and renamed, so that a folder that is there is whole; of two builds the first one wins."""
        for folder in (os.path.dirname(self.folder), self.folder):  # makedirs gives its mode to the last one alone
            os.makedirs(folder, mode=0o700, exist_ok=True)
        beside = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(beside, 0o700)
        try:
            fill(beside)
            owners.give(beside, *owner)
            os.chmod(beside, mode)
            os.rename(beside, path)
        except OSError:
            files.remove_tree(beside)
            if not os.path.isdir(path):
                raise
        except BaseException:
            files.remove_tree(beside)
            raise

    def sizes(self) -> dict[str, int]:
        """Bytes on the disk by folder name."""
        return {name: diskspace.below(os.path.join(self.folder, name)) for name in self._names()}

    def used(self) -> dict[str, float]:
        """When each was last used, or changed, in Unix seconds by folder name."""
        found = {}
        for name in self._names():
            with contextlib.suppress(FileNotFoundError):
                found[name] = os.stat(os.path.join(self.folder, name)).st_mtime
        return found

    def remove(self, name: str) -> int:
        """Remove one, unless a build uses it now: the bytes freed, -1 if it stays."""
        path = os.path.join(self.folder, name)
        try:
            with self.root.lock(_lock_of(name.partition(".")[0]), wait=False):
                freed = diskspace.below(path)
                if "." not in name:  # half a cache must not be taken for a whole one, should we be killed
                    path, old = f"{path}.{os.getpid()}-{os.urandom(4).hex()}", path
                    os.rename(old, path)
                files.remove_tree(path)
                return freed
        except Conflict:
            return -1

    def prune(self) -> int:
        """Remove all that no build uses now; the bytes freed."""
        return sum(max(0, self.remove(name)) for name in self._names())

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []


def _lock_of(name: str) -> str:
    return f"build-cache-{name}"
