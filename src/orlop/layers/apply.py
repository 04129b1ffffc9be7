"""One layer's tar as a directory that overlayfs can stack.

Afterwards the directory holds what the archive says, whatever the archive tried: every path stays beneath the target,
whiteouts are 0/0 devices, opaque directories carry overlay's xattr, and directories have the times of their entries.
A layer is applied on its own; where it leans on lower ones (a directory without an entry, a hard link to a file it does
not hold) it is told what is `below`, or says that it `needs_below`.
"""

from __future__ import annotations

from orlop.errors import DataLoss, InvalidArgument, ResourceExhausted
from orlop.layers import faults, tar, whiteouts
from orlop.layers.merged import ROOT_XATTR
from orlop.layers.site import Site
from orlop.layers.tarformat import MAX_DEPTH, MAX_NAME, HeaderTooLarge
from orlop.oci.digest import Digest, hasher
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orlop.layers.streams import Aside
    from orlop.layers.tarentry import Buffer, Entry


class Limits(Value):
    """What one layer may cost; a hostile one is refused with ResourceExhausted. 0 means no limit."""

    max_bytes: int = 256 << 30  # of the archive, and of any one file in it
    max_entries: int = 16_000_000
    max_ratio: int = 1100  # expanded to compressed bytes, looked at beyond 1 GiB; gzip cannot pass 1032


class Applied(Value):
    """What was unpacked. `needs_below`: the tree is not whole, apply the layer again with the lower ones at hand."""

    diff_id: Digest  # of the whole archive; sha256 unless asked otherwise
    size: int  # bytes in the files
    tar_size: int  # bytes of the archive
    entries: int
    needs_below: bool
    explicit_root: bool  # whether the archive has an entry for the root directory itself
    warnings: tuple[str, ...] = ()


def apply(
    chunks: Iterable[bytes],
    target: str,
    *,
    below: Sequence[str] | None = None,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    userxattr: bool = False,
    algorithm: str = "sha256",
) -> Applied:
    """Unpack a layer (a tar stream, decompressed) into the empty directory `target`.

    `below` are the trees of the lower layers, uppermost first; () says there are none, None that they are not known.
    Raises DataLoss, InvalidArgument, ResourceExhausted or PermissionDenied naming the entry; `target` is then partial.
    """
    from orlop.layers.streams import Aside  # threading is not for those who only want the values above (2 ms)

    running = hasher(algorithm)
    with Aside(running.update, name="hash") as hashing:
        counted = _Counted(chunks, hashing, limits)
        site = Site(target, below=below, userxattr=userxattr)
        try:
            loader = _Loader(site, limits)
            for entry in tar.read(counted):
                loader.add(entry)
            loader.finish()
        except faults.Foreign as foreign:
            raise foreign.error from foreign.error.__cause__
        finally:
            site.close()
        hashing.finish()
    return Applied(
        diff_id=Digest.from_hasher(algorithm, running),
        size=loader.size,
        tar_size=counted.size,
        entries=loader.entries,
        needs_below=site.needs_below,
        explicit_root=loader.explicit_root,
        warnings=tuple(site.warnings),
    )


class _Counted:
    """The stream on its way: hashed beside, counted, bounded."""

    def __init__(self, chunks: Iterable[bytes], hashing: Aside[Buffer], limits: Limits) -> None:
        self._chunks = chunks
        self._hashing = hashing
        self._limit = limits.max_bytes
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        source = iter(self._chunks)
        while True:
            try:
                chunk = next(source, None)
            except OSError as error:
                raise faults.Foreign(error) from error
            if chunk is None:
                return
            self.size += len(chunk)
            if self._limit and self.size > self._limit:
                raise ResourceExhausted(f"the layer is larger than {self._limit} bytes", hint=_RAISE)
            self._hashing.put(chunk)
            yield chunk


_RAISE = "it may be hostile; raise the limit if this is meant"


class _Loader:
    """Decides what each entry means and has the site do it."""

    __slots__ = ("_limits", "_site", "entries", "explicit_root", "size")

    def __init__(self, site: Site, limits: Limits) -> None:
        self._site = site
        self._limits = limits
        self.entries = 0
        self.size = 0
        self.explicit_root = False

    def add(self, entry: Entry) -> None:
        """One entry; errors name it."""
        self.entries += 1
        limits = self._limits
        if self.entries > limits.max_entries > 0:
            raise ResourceExhausted(f"the layer has more than {limits.max_entries} entries", hint=_RAISE)
        if entry.size > limits.max_bytes > 0:
            raise ResourceExhausted(f"{entry.name!r} has {entry.size} bytes, more than a whole layer may", hint=_RAISE)
        try:
            self._add(entry)
        except OSError as error:
            raise faults.from_os(error, f"unpack {entry.name!r}") from error

    def _add(self, entry: Entry) -> None:
        path = clean(entry.name, entry)
        kind = entry.kind
        name = path[path.rfind("/") + 1 :]
        if name.startswith(whiteouts.PREFIX):
            self._whiteout(path, name, entry)
        elif kind == tar.DIRECTORY:
            if not path:
                self.explicit_root = True
            self._site.directory(path, entry)
        elif not path:
            raise InvalidArgument(f"the layer's root is a {kind}, not a directory")
        elif kind == tar.HARDLINK:
            self._link(path, entry)
        else:
            self.size += entry.size
            self._site.place(path, entry)

    def _link(self, path: str, entry: Entry) -> None:
        target = clean(entry.link, entry)
        if not target:
            raise InvalidArgument(f"{entry.name!r} is a hard link to the layer's root")
        if self._site.link(path, target, entry):
            return
        if self._site.below is not None:
            raise DataLoss(f"{entry.name!r} is a hard link to {entry.link!r}, which is in no layer")
        self._site.needs_below = True

    def _whiteout(self, path: str, name: str, entry: Entry) -> None:
        above = path[: -len(name)].rstrip("/")
        if name == whiteouts.OPAQUE_NAME:
            self._site.opaque(above, entry)
        elif not name.startswith(whiteouts.META_PREFIX):
            hidden = name[len(whiteouts.PREFIX) :]
            if hidden in {"", ".", ".."}:
                raise InvalidArgument(f"whiteout {entry.name!r} names nothing")
            self._site.whiteout(f"{above}/{hidden}" if above else hidden, entry)

    def finish(self) -> None:
        """The end of the archive."""
        try:
            self._site.finish(implicit_root=None if self.explicit_root else ROOT_XATTR)
        except OSError as error:
            raise faults.from_os(error, "set the directories' owners and times") from error


def clean(name: str, entry: Entry) -> str:
    """An archive's name relative to its root: no leading slash, no empty or "." parts; "" is the root itself.

    InvalidArgument for names that no honest archive has: empty, with "..", or with a NUL.
    """
    name = name.removeprefix("./")
    if "//" in name or "/." in name or name[:1] in {"/", "."} or "\0" in name or not name or name[-1] == "/":
        name = _clean_parts(name, entry)
    if len(name) > MAX_NAME or name.count("/") >= MAX_DEPTH:
        raise HeaderTooLarge(f"the path {name[:80]!r}... is too long or too deep", offset=entry.offset)
    return name


def _clean_parts(name: str, entry: Entry) -> str:
    if "\0" in name or not entry.name:
        raise InvalidArgument(f"an archive cannot have an entry named {entry.name!r}")
    parts = [part for part in name.split("/") if part and part != "."]
    if ".." in parts:
        raise InvalidArgument(
            f"the archive names {name!r}, which climbs out of a directory",
            hint="no honest archive does: do not trust it",
        )
    return "/".join(parts)
