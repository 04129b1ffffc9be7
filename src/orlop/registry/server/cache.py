"""Manifests in memory, never stale: each use asks the file system whether the file is still the same one."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from orlop.registry.server.replies import API_VERSION
from orlop.registry.server.storage import Stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.oci.digest import Digest

_ENTRY_LIMIT = 256 * 1024


class ManifestCache:
    """Manifests by path. Holds at most `limit` bytes, dropping what was used least recently.

    One stat (2 us) finds out about other processes' deletions and replacements; a path names content by its digest, so
    at most the media type can differ between two files of one path.
    """

    def __init__(self, limit: int = 16 << 20) -> None:
        self._limit = limit
        self._held = 0
        self._entries: OrderedDict[str, tuple[tuple[int, int, int], Stored]] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, path: str, digest: Digest) -> Stored:
        """The manifest in the file `path`; raises FileNotFoundError."""
        status = os.stat(path)
        identity = (status.st_ino, status.st_ctime_ns, status.st_size)
        found = self._entries.get(path)
        if found is not None and found[0] == identity:
            return found[1]
        with open(path, "rb") as file:
            media_type, _, raw = file.read().partition(b"\n")
        stored = Stored(
            digest=digest, media_type=media_type.decode("ascii"), raw=raw, headers=_headers(media_type, raw, digest)
        )
        if len(raw) <= _ENTRY_LIMIT:
            self._keep(path, identity, stored)
        return stored

    def _keep(self, path: str, identity: tuple[int, int, int], stored: Stored) -> None:
        with self._lock:
            old = self._entries.pop(path, None)
            if old is not None:
                self._held -= len(old[1].raw)
            self._entries[path] = (identity, stored)
            self._held += len(stored.raw)
            while self._held > self._limit:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._held -= len(dropped.raw)


def _headers(media_type: bytes, raw: bytes, digest: Digest) -> tuple[tuple[bytes, bytes], ...]:
    name = digest.encode("ascii")
    return (
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(raw)),
        (b"docker-content-digest", name),
        (b"etag", b'"%s"' % name),
        API_VERSION,
    )
