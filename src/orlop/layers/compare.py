"""A plain tree against the layers it was copied from: what differs, as a layer's tar."""

from __future__ import annotations

import os
import stat

from orlop.layers import faults, merged
from orlop.layers.packing import ROOT_NAME, Diffed, Outlet, Packer, Walk, check_name, described, packable, packed
from orlop.layers.tree import same_content, same_metadata
from orlop.linux import owners, safepath
from orlop.linux.files import lgetxattrs
from orlop.oci.digest import hasher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.layers import tar
    from orlop.layers.tarentry import Buffer


def compare(
    tree: str,
    write: Callable[[Buffer], object],
    *,
    lowers: Sequence[str],
    since: int = 0,
    algorithm: str = "sha256",
) -> Diffed:
    """Write what `tree` has other than the merged view of `lowers` (uppermost first) as a tar, and say its diffID.

    Names that are gone become whiteouts. Files not touched since `since` (nanoseconds, by their ctime) are taken as
    the copies they were made as; others are compared in metadata, attributes and content.
    """
    running = hasher(algorithm)
    outlet = Outlet(running, write)
    walk = TreeWalk(tree, Packer(outlet.write), tuple(lowers), since)
    try:
        walk.run()
        outlet.flush()
    except faults.Foreign as foreign:
        raise foreign.error from foreign.error.__cause__
    except OSError as error:
        raise faults.from_os(error, f"compare {tree} with its layers") from error
    finally:
        walk.close()
    return packed(running, algorithm, walk.packer)


class TreeWalk(Walk):
    """One pass over a tree and the layers beside it."""

    def __init__(self, root: str, packer: Packer, lowers: tuple[str, ...], since: int) -> None:
        super().__init__(root)
        self.packer = packer
        self._lowers = lowers
        self._since = since

    def run(self) -> None:
        """Pack everything that differs."""
        # What is still to do, last first: a directory to enter (with what it covers below, and whether it and all above
        # it are as they were copied), or one to leave.
        todo: list[tuple[str, merged.Seen | None, bool] | tar.Entry] = [("", None, True)]
        while todo:
            step = todo.pop()
            if not isinstance(step, tuple):
                self.packer.leave(step)
                continue
            path, below, untouched = step
            fd = safepath.open_no_links(self.fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                inner = self._directory(fd, path, below, untouched=untouched)
            finally:
                os.close(fd)
            todo += inner
        self.packer.close()

    def _directory(
        self, fd: int, path: str, below: merged.Seen | None, *, untouched: bool
    ) -> list[tuple[str, merged.Seen | None, bool] | tar.Entry]:
        """Pack one directory and its files; what is to be done after it, last first."""
        info = owners.told(os.fstat(fd), fd)
        untouched = untouched and info.st_ctime_ns < self._since
        entry = described(path or ROOT_NAME, info, packable(lgetxattrs(fd)))
        if path:
            check_name(path)
        self.packer.enter(entry, changed=self._changed(path, info, entry, below))
        files, folders = self.listing(fd)
        covers = path == "" or (below is not None and stat.S_ISDIR(below[1].st_mode))
        lower = merged.listing(self._lowers, path) if covers and self._lowers else {}
        for name in sorted(lower.keys() - set(files) - set(folders), key=os.fsencode):
            self.packer.whiteout(f"{path}/{name}" if path else name)
        for name in files:
            inner = f"{path}/{name}" if path else name
            found = owners.told(os.stat(name, dir_fd=fd, follow_symlinks=False), f"/proc/self/fd/{fd}/{name}")
            if not self._same(f"/proc/self/fd/{fd}/{name}", inner, found, lower.get(name), untouched=untouched):
                self.packer.add(fd, inner, found)
        steps: list[tuple[str, merged.Seen | None, bool] | tar.Entry] = [entry]
        steps += [(f"{path}/{name}" if path else name, lower.get(name), untouched) for name in reversed(folders)]
        return steps

    def _changed(self, path: str, info: os.stat_result, entry: tar.Entry, below: merged.Seen | None) -> bool:
        """Whether a directory's own metadata differ. Of the root's, the time never counts."""
        if not path:
            if not self._lowers:
                return (entry.mode, entry.uid, entry.gid, entry.xattrs) != (0o755, 0, 0, {})
            tree = merged.root_of(self._lowers)
            lower = owners.told(os.stat(tree), tree)
            same = (info.st_mode, info.st_uid, info.st_gid) == (lower.st_mode, lower.st_uid, lower.st_gid)
            return not same or entry.xattrs != packable(lgetxattrs(tree))
        if below is None or not same_metadata(info, owners.told(below[1], f"{below[0]}/{path}")):
            return True
        return entry.xattrs != packable(lgetxattrs(f"{below[0]}/{path}"))

    def _same(self, place: str, path: str, info: os.stat_result, below: merged.Seen | None, *, untouched: bool) -> bool:
        if below is None:
            return False
        if untouched and info.st_ctime_ns < self._since:
            return True
        if not same_metadata(info, owners.told(below[1], f"{below[0]}/{path}")):
            return False
        # Several names may have been one file before and be two now, or the reverse: that is a change nobody can see
        # in one of them.
        if (info.st_nlink > 1) != (below[1].st_nlink > 1):
            return False
        return same_content(place, f"{below[0]}/{path}", info)
