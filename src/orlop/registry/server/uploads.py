"""Uploads: files that grow until they are a blob. A killed server leaves nothing but an upload that can go on."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import OrderedDict
from contextlib import suppress

from orlop.oci.digest import hasher
from orlop.registry.server import durable
from orlop.registry.server.replies import digest_invalid, upload_unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.oci.digest import Digest, Hasher

_HASHES = 256
_PIECE = 1 << 20
_VECTOR = 512
"""Buffers in one writev; the kernel takes at most 1024."""


class Uploads:
    """The uploads of all repositories below `repositories`.

    A running hash cannot be moved between processes, so this process remembers those of the uploads it wrote to; when
    another process goes on with one, the hash is made from the file instead.
    """

    def __init__(self, repositories: str, root: str) -> None:
        self._repositories = repositories
        self.root = root
        self._hashes: OrderedDict[str, tuple[int, str, Hasher]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, name: str, algorithm: str) -> str:
        """Start an upload; returns its session."""
        session = os.urandom(16).hex()
        path = self._path(name, session)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
        except FileNotFoundError:
            durable.make_folder(os.path.dirname(path))
            file = os.open(path, flags, 0o600)
        os.close(file)
        self.remember(session, 0, algorithm, hasher(algorithm))
        return session

    def size(self, name: str, session: str) -> int:
        """The bytes an upload has; raises BLOB_UPLOAD_UNKNOWN."""
        try:
            return os.stat(self._path(name, session)).st_size
        except (FileNotFoundError, NotADirectoryError):
            raise upload_unknown(session) from None

    def resume(self, name: str, session: str) -> FileSession | None:
        """Take an upload for writing, or None while another request has it; raises BLOB_UPLOAD_UNKNOWN."""
        path = self._path(name, session)
        try:
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise upload_unknown(session) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        status = os.fstat(file)
        if status.st_nlink == 0:  # finished or cancelled between open and flock
            os.close(file)
            raise upload_unknown(session)
        return FileSession(self, name, session, file, status.st_size)

    def cancel(self, name: str, session: str) -> None:
        """Forget an upload; raises BLOB_UPLOAD_UNKNOWN."""
        self.recall(session)
        try:
            os.unlink(self._path(name, session))
        except (FileNotFoundError, NotADirectoryError):
            raise upload_unknown(session) from None

    def purge(self, name: str, older_than: float) -> int:
        """Forget a repository's uploads that nobody wrote to for `older_than` seconds."""
        count = 0
        with suppress(FileNotFoundError), os.scandir(f"{self._repositories}/{name}/_uploads") as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - older_than:
                    os.unlink(entry.path)
                    count += 1
        return count

    def remember(self, session: str, offset: int, algorithm: str, running: Hasher) -> None:
        """Keep the hash of an upload's first `offset` bytes for the next request."""
        with self._lock:
            self._hashes[session] = (offset, algorithm, running)
            while len(self._hashes) > _HASHES:
                self._hashes.popitem(last=False)

    def recall(self, session: str) -> tuple[int, str, Hasher] | None:
        """The hash kept for an upload, which is now the caller's."""
        with self._lock:
            return self._hashes.pop(session, None)

    def keep(self, name: str, session: str, digest: Digest) -> None:
        """Make a whole, synced upload a blob."""
        path = self._path(name, session)
        blob = f"{self._repositories}/{name}/_blobs/{digest.replace(':', '/')}"
        try:
            durable.keep(self.root, path, digest, blob)
            os.unlink(path)
        except FileNotFoundError:
            raise upload_unknown(session) from None  # cancelled meanwhile

    def discard(self, name: str, session: str) -> None:
        """Forget an upload whose content is wrong."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(name, session))

    def _path(self, name: str, session: str) -> str:
        return f"{self._repositories}/{name}/_uploads/{session}"


class FileSession:
    """One request's hold on an upload (`storage.Session`)."""

    def __init__(self, uploads: Uploads, name: str, session: str, file: int, offset: int) -> None:
        self.offset = offset
        self._uploads = uploads
        self._name = name
        self._session = session
        self._file = file
        self._running: Hasher | None = None
        self._algorithm = ""
        kept = uploads.recall(session)
        if kept is not None and kept[0] == offset:
            _, self._algorithm, self._running = kept

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append `pieces`, hashing them."""
        running, self._running = self._running, None  # not kept if the disk fails half-way
        for start in range(0, len(pieces), _VECTOR):
            some = pieces[start : start + _VECTOR]
            if running is not None:
                for piece in some:
                    running.update(piece)
            self._append(some)
        self._running = running

    def _append(self, pieces: Sequence[bytes]) -> None:
        wanted = sum(map(len, pieces))
        written = os.writev(self._file, pieces)
        self.offset += written
        if written < wanted:  # a disk that is nearly full: the rest says so, or fits
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                written = os.write(self._file, rest)
                self.offset += written
                rest = rest[written:]

    def finish(self, digest: Digest) -> None:
        """Make it a blob; raises DIGEST_INVALID, and forgets the upload, if it is not `digest`."""
        running = self._running
        if running is None or self._algorithm != digest.algorithm:
            running = self._hash_file(digest.algorithm)
        self._running = None
        got = f"{digest.algorithm}:{running.hexdigest()}"
        if got != digest:
            self._uploads.discard(self._name, self._session)
            raise digest_invalid(f"the content is {got}, not {digest}")
        os.fsync(self._file)
        self._uploads.keep(self._name, self._session, digest)

    def _hash_file(self, algorithm: str) -> Hasher:
        running = hasher(algorithm)
        at = 0
        while piece := os.pread(self._file, _PIECE, at):
            running.update(piece)
            at += len(piece)
        return running

    def close(self) -> None:
        """Let go of the upload; the hash so far is kept for the next request."""
        if self._running is not None:
            self._uploads.remember(self._session, self.offset, self._algorithm, self._running)
            self._running = None
        os.close(self._file)
