"""Blobs by digest, in an OCI image layout (image-spec v1.1, image-layout.md).

    content/oci-layout, index.json          so that skopeo and friends can read it
    content/blobs/<algorithm>/<encoded>     immutable; whole and verified, or not there
    content/ingest/<name>                   what is being written; locked (flock) by who writes it

A blob appears by rename, after its bytes are on the disk. Two processes that bring the same one do not disturb each
other.
"""

from __future__ import annotations

import fcntl
import os

from orlop.errors import Conflict, ContentMismatch, FailedPrecondition, InvalidArgument, NotFound
from orlop.linux.wholefile import sync_folder
from orlop.oci.digest import HEX, LENGTHS, Digest, hasher
from orlop.store import faults
from orlop.store.locks import FileLock
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import BinaryIO, Self, TypeAlias

    from orlop.oci.descriptor import Descriptor
    from orlop.oci.digest import Hasher

    Buffer: TypeAlias = bytes | bytearray | memoryview

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_PIECE = 1 << 20


class Partial(Value):
    """One file in ingest/: content that is being written (`active`), or was when its writer stopped."""

    name: str
    path: str
    size: int  # bytes
    modified: float  # Unix seconds
    active: bool


class ContentStore:
    """The blobs below one folder. Safe to share between threads and processes.

    Whoever brings or relies on a blob holds it with a lease first (store.leases), or the next collection takes it.
    """

    def __init__(self, path: str) -> None:
        self.root = path

    def path(self, digest: str) -> str:
        """Where the blob is, or would be."""
        checked = Digest.parse(digest)
        return f"{self.root}/blobs/{checked.algorithm}/{checked.encoded}"

    def __contains__(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def size(self, digest: str) -> int:
        """Bytes of the blob; NotFound."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def open(self, digest: str) -> BinaryIO:
        """The blob as an unbuffered file; NotFound."""
        try:
            return open(self.path(digest), "rb", buffering=0)
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def read(self, digest: str, limit: int = 4 << 20) -> bytes:
        """The whole of a small blob, verified; InvalidArgument if it has more than `limit` bytes.

        ContentMismatch if the disk holds something else under that name.
        """
        with self.open(digest) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise InvalidArgument(f"blob {digest} has {size} bytes, more than the {limit} that are read at once")
            data = file.read()
        found = Digest.of(data, Digest.parse(digest).algorithm)
        if found != digest:
            raise ContentMismatch(wanted=digest, got=found)
        return data

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Keep a small blob that was made here; returns its descriptor."""
        from orlop.oci.descriptor import Descriptor  # who only looks blobs up needs none

        descriptor = Descriptor.of(data, media_type)
        self.ingest(descriptor, (data,))
        return descriptor

    def ingest(self, descriptor: Descriptor, chunks: Iterable[Buffer]) -> None:
        """Keep the blob that `chunks` are. Afterwards it is there; or ContentMismatch and no trace of it.

        `chunks` is not touched if the blob is there already.
        """
        digest = descriptor.digest
        if digest in self:
            return
        with self.begin(digest, resume=False, algorithm=digest.algorithm) as ingest:
            if digest in self:  # somebody else brought it while we waited for the lock
                return
            for chunk in chunks:
                ingest.write(chunk)
                if ingest.offset > descriptor.size:
                    raise ContentMismatch(wanted=f"{digest} ({descriptor.size} bytes)", got="longer")
            ingest.commit(descriptor)

    def begin(self, key: str, *, resume: bool = True, algorithm: str = "sha256", wait: bool = True) -> Ingest:
        """Start, or go on with, writing the content that the caller calls `key` (a digest, a URL).

        One writer a key: others wait, or get Conflict if not `wait`; who waited looks whether the content is there now.
        With `resume`, what an earlier writer left is gone on with (`Ingest.offset`), and what this one leaves is kept.
        """
        path = f"{self.root}/ingest/{Digest.of(key.encode(errors='surrogateescape')).encoded[:32]}"
        descriptor = _locked(path, wait=wait)
        if descriptor < 0:
            raise Conflict(f"another process is fetching {key} right now", hint="wait for it, or try again")
        try:
            return Ingest(self, path, descriptor, algorithm, resume=resume)
        except BaseException:
            os.close(descriptor)
            raise

    def delete(self, digest: str) -> int:
        """Remove the blob, whoever may need it; returns the bytes freed, 0 if it was not there."""
        path = self.path(digest)
        try:
            freed = os.stat(path).st_blocks * 512
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return freed

    def digests(self) -> Iterator[Digest]:
        """All blobs, in no order."""
        for algorithm in LENGTHS:
            try:
                names = os.listdir(f"{self.root}/blobs/{algorithm}")
            except FileNotFoundError:
                continue
            for name in names:
                if len(name) == LENGTHS[algorithm] and not name.strip(HEX):
                    yield Digest.parse(f"{algorithm}:{name}")

    def ingests(self) -> list[Partial]:
        """All unfinished content."""
        found = []
        with os.scandir(f"{self.root}/ingest") as listing:
            for entry in listing:
                try:
                    about = entry.stat(follow_symlinks=False)
                    active = _is_locked(entry.path)
                except FileNotFoundError:
                    continue
                found.append(
                    Partial(
                        name=entry.name, path=entry.path, size=about.st_size, modified=about.st_mtime, active=active
                    )
                )
        return found

    def discard_partial(self, name: str) -> bool:
        """Remove one unfinished content; whether it was free to be removed (nobody is writing it)."""
        path = f"{self.root}/ingest/{name}"
        descriptor = _locked(path, wait=False)
        if descriptor < 0:
            return False
        try:
            os.unlink(path)
        finally:
            os.close(descriptor)
        return True

    def verify(self, digest: str) -> None:
        """Read the blob again; ContentMismatch if the disk has changed it."""
        wanted = Digest.parse(digest)
        running = wanted.hasher()
        with self.open(wanted) as file:
            _take_in(running, file.fileno())
        got = Digest.from_hasher(wanted.algorithm, running)
        if got != wanted:
            raise ContentMismatch(wanted=wanted, got=got)


class Ingest:
    """Content on its way in. `with` it: leaving without `commit` removes what was written, unless it may be resumed."""

    def __init__(self, store: ContentStore, path: str, descriptor: int, algorithm: str, *, resume: bool) -> None:
        self._store = store
        self._path = path
        self._descriptor = descriptor
        self._algorithm = algorithm
        self._keep = resume
        self._running: Hasher = hasher(algorithm)
        if resume:
            self.offset = _take_in(self._running, descriptor)
        else:
            os.ftruncate(descriptor, 0)
            self.offset = 0
        """Bytes written so far; of a resumed content, those that are there already."""

    @property
    def digest(self) -> Digest:
        """The digest of what was written so far: what to hold with a lease before `commit` makes it visible."""
        return Digest.from_hasher(self._algorithm, self._running)

    def write(self, data: Buffer) -> None:
        """Append `data`."""
        self._running.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise faults.explained(error, "write content", self._path) from error
        self.offset += len(data)

    def commit(self, expected: Descriptor | None = None) -> tuple[Digest, int]:
        """Make the content a blob: durable, and visible under its digest. Returns digest and size.

        Unless it is what `expected` promises: then ContentMismatch, and nothing of it is kept.
        """
        if self._descriptor < 0:
            raise FailedPrecondition("this content was committed or aborted already")
        algorithm = self._algorithm if expected is None else expected.digest.algorithm
        if algorithm != self._algorithm:
            self._running, self._algorithm = hasher(algorithm), algorithm
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            _take_in(self._running, self._descriptor)
        digest = Digest.from_hasher(algorithm, self._running)
        if expected is not None:
            try:
                expected.check(self.offset, digest)
            except ContentMismatch:
                self.abort()
                raise
        self._publish(digest)
        return digest, self.offset

    def _publish(self, digest: Digest) -> None:
        target = self._store.path(digest)
        try:
            if os.path.exists(target):
                self.abort()
                return
            os.fchmod(self._descriptor, 0o444)
            os.fsync(self._descriptor)
            try:
                os.rename(self._path, target)
            except FileNotFoundError:  # the first blob of its algorithm
                os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
                os.rename(self._path, target)
            sync_folder(os.path.dirname(target))
        except OSError as error:
            raise faults.explained(error, "keep content", target) from error
        self._close()

    def abort(self) -> None:
        """Remove what was written. Nothing happens after `commit`."""
        if self._descriptor < 0:
            return
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        finally:
            self._close()

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor < 0:
            return
        if self._keep and self.offset and not isinstance(error, ContentMismatch):
            self._close()
        else:
            self.abort()


def _missing(digest: str) -> NotFound:
    return NotFound(f"blob {digest} is not in the store", hint="pull or build the image that needs it again")


def _take_in(running: Hasher, descriptor: int) -> int:
    """Hash a file from where it stands to its end; returns the bytes."""
    done = 0
    while piece := os.read(descriptor, _PIECE):
        running.update(piece)
        done += len(piece)
    return done


def _locked(path: str, *, wait: bool) -> int:
    """Open and lock an ingest's file, made if missing. -1 if it is locked and we shall not `wait`."""
    lock = FileLock(path, wait=wait, removable=True)
    try:
        lock.acquire()
    except Conflict:
        return -1
    return lock.detach()


def _is_locked(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
