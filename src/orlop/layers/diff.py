"""The upper directory of an overlay as a layer's tar."""

from __future__ import annotations

import os
import stat

from orlop.errors import FailedPrecondition
from orlop.layers import faults, merged, whiteouts
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

# Set by overlayfs where a directory or a file's data is to be looked for elsewhere: such an upper does not stand alone.
_ELSEWHERE = ("trusted.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.redirect", "user.overlay.metacopy")


def diff(
    upper: str,
    write: Callable[[Buffer], object],
    *,
    lowers: Sequence[str] = (),
    userxattr: bool = False,
    algorithm: str = "sha256",
) -> Diffed:
    """Write the changes in `upper` as a tar, and say its diffID.

    0/0 devices become whiteouts, opaque directories get their marker. With `lowers` (trees, uppermost first) what was
    copied up but is the same as below, content and metadata, is left out. FailedPrecondition when the upper leans on
    its lower layers (redirects, metadata-only copies), InvalidArgument for names that no layer can hold.
    """
    running = hasher(algorithm)
    outlet = Outlet(running, write)
    walk = UpperWalk(upper, Packer(outlet.write), tuple(lowers), userxattr=userxattr)
    try:
        walk.run()
        outlet.flush()
    except faults.Foreign as foreign:
        raise foreign.error from foreign.error.__cause__
    except OSError as error:
        raise faults.from_os(error, f"read the changes in {upper}") from error
    finally:
        walk.close()
    return packed(running, algorithm, walk.packer)


class UpperWalk(Walk):
    """One pass over an upper directory."""

    def __init__(self, root: str, packer: Packer, lowers: tuple[str, ...], *, userxattr: bool) -> None:
        super().__init__(root)
        self.packer = packer
        self._lowers = lowers
        self._told = owners.teller()
        self._opaque_xattr = whiteouts.opaque_xattr(userxattr=userxattr)

    def run(self) -> None:
        """Pack everything."""
        # What is still to do, last first: a directory to enter (with the lowers that show through), or one to leave.
        todo: list[tuple[str, tuple[str, ...]] | tar.Entry] = [("", self._lowers)]
        while todo:
            step = todo.pop()
            if not isinstance(step, tuple):
                self.packer.leave(step)
                continue
            path, lowers = step
            fd = safepath.open_no_links(self.fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                entry, lowers, folders = self._directory(fd, path, lowers)
            finally:
                os.close(fd)
            todo.append(entry)
            todo += [(f"{path}/{name}" if path else name, lowers) for name in reversed(folders)]
        self.packer.close()

    def _directory(self, fd: int, path: str, lowers: tuple[str, ...]) -> tuple[tar.Entry, tuple[str, ...], list[str]]:
        """Pack one directory and the files in it; its entry, the lowers that count inside, its directories' names."""
        info = self._told(os.fstat(fd), fd)
        xattrs = lgetxattrs(fd)
        if any(name in xattrs for name in _ELSEWHERE):
            raise FailedPrecondition(
                f"{path or '/'!r} refers to a lower layer; the overlay was mounted by somebody else"
            )
        opaque = xattrs.get(self._opaque_xattr) == b"y"
        entry = described(path or ROOT_NAME, info, packable(xattrs))
        if path:
            check_name(path)
        below = merged.look(lowers, path) if path and lowers and not opaque else None
        self.packer.enter(entry, changed=opaque or self._changed_directory(path, info, entry, lowers, below))
        if opaque:
            self.packer.opaque(path)
        if opaque or (path and (below is None or not stat.S_ISDIR(below[1].st_mode))):
            lowers = ()  # nothing of them shows through here, nor further down
        files, folders = self.listing(fd)
        for name in files:
            inner = f"{path}/{name}" if path else name
            found = self._told(os.stat(name, dir_fd=fd, follow_symlinks=False), f"/proc/self/fd/{fd}/{name}")
            if whiteouts.is_device(found):
                if not opaque:
                    self.packer.whiteout(inner)
            elif not self._copied_up(fd, name, inner, found, lowers):
                self.packer.add(fd, inner, found)
        return entry, lowers, folders

    def _changed_directory(
        self,
        path: str,
        info: os.stat_result,
        entry: tar.Entry,
        lowers: tuple[str, ...],
        found: merged.Seen | None,
    ) -> bool:
        """Whether a directory is another than what the lower trees have at its place (`found`)."""
        if not path:
            return _root_changed(info, entry, lowers)
        if found is None or not stat.S_ISDIR(found[1].st_mode):
            return True
        tree, below = found[0], self._told(found[1], f"{found[0]}/{path}")
        return not same_metadata(info, below) or entry.xattrs != packable(lgetxattrs(f"{tree}/{path}"))

    def _copied_up(self, fd: int, name: str, path: str, info: os.stat_result, lowers: tuple[str, ...]) -> bool:
        """Whether the file is only a copy of what is below."""
        if not lowers or info.st_nlink > 1:
            return False
        found = merged.look(lowers, path)
        if found is None or not same_metadata(info, self._told(found[1], f"{found[0]}/{path}")):
            return False
        tree, _ = found
        place = f"/proc/self/fd/{fd}/{name}"
        if stat.S_ISREG(info.st_mode) and any(xattr in _ELSEWHERE for xattr in lgetxattrs(place)):
            raise FailedPrecondition(
                f"{path!r} has its data in a lower layer; the overlay was mounted by somebody else"
            )
        return same_content(place, f"{tree}/{path}", info)


def _root_changed(info: os.stat_result, entry: tar.Entry, lowers: tuple[str, ...]) -> bool:
    """Whether the root directory's mode, owner or attributes differ from the lower layers'. Its time never counts."""
    shown = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, entry.xattrs
    if not lowers:
        return shown != (0o755, 0, 0, {})
    below = owners.told(os.stat(merged.root_of(lowers)), merged.root_of(lowers))
    return shown != (
        stat.S_IMODE(below.st_mode),
        below.st_uid,
        below.st_gid,
        packable(lgetxattrs(merged.root_of(lowers))),
    )
