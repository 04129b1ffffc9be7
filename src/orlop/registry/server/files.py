r"""Registry content in a folder: plain files, hard links and symbolic links, no database (docs/design/registry.md).

```
VERSION                                        layout of this folder
blobs/<algorithm>/<hex>                        content, shared by all repositories
repositories/<name>/_blobs/<algorithm>/<hex>   a hard link to it: this repository has this blob
repositories/<name>/_manifests/<alg.>/<hex>    "<media type>\n" and the manifest's bytes
repositories/<name>/_tags/<tag>                a symbolic link to ../_manifests/...
repositories/<name>/_referrers/<alg.>/<subject's hex>/<algorithm>-<hex>   a descriptor as JSON
repositories/<name>/_uploads/<session>         the bytes so far (uploads.py)
repositories/<name>/_lock                      held while manifests and tags change
incoming/                                      what is being written; renamed into place when it is whole
```

No part of a repository's name starts with `_`, so names cannot collide with these folders.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress

from orlop.errors import FailedPrecondition
from orlop.linux import wholefile
from orlop.oci.digest import Digest
from orlop.registry.server import durable
from orlop.registry.server.cache import ManifestCache
from orlop.registry.server.replies import Refusal, blob_unknown, manifest_unknown, name_unknown
from orlop.registry.server.storage import Stored
from orlop.registry.server.uploads import Uploads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orlop.registry.server.manifests import Needed, Pushed
    from orlop.registry.server.uploads import FileSession

LAYOUT = "1"
_MISSING = (FileNotFoundError, NotADirectoryError)
_PARTS = ("_blobs", "_manifests")


class FileStorage:
    """A `storage.Storage` in a folder. Any number of threads and processes may use one folder at once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._repositories = f"{root}/repositories"
        self._cache = ManifestCache()
        self._uploads = Uploads(self._repositories, root)

    @classmethod
    def open(cls, root: str) -> FileStorage:
        """The storage in `root`, made if it is not there. FailedPrecondition if this cannot be a registry's folder."""
        root = os.path.abspath(root)
        try:
            for folder in ("", "/blobs", "/repositories", "/incoming"):
                os.makedirs(root + folder, mode=0o700, exist_ok=True)
            _check_layout(root)
            _check_links(root)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot keep a registry in {root}: {error.strerror}",
                hint="choose a folder that this user may write, with --root",
            ) from error
        return cls(root)

    # Blobs

    def blob(self, name: str, digest: Digest) -> tuple[str, int]:
        """See `storage.Storage.blob`."""
        path = self._blob(name, digest)
        try:
            return path, os.stat(path).st_size
        except _MISSING:
            raise blob_unknown(digest) from None

    def mount(self, name: str, digest: Digest, source: str) -> bool:
        """See `storage.Storage.mount`."""
        content = durable.content_path(self.root, digest)
        if source and not os.path.exists(self._blob(source, digest)):
            return False
        blob = self._blob(name, digest)
        return durable.link_blob(self.root, content, blob) or bool(
            source and durable.link_blob(self.root, self._blob(source, digest), blob)
        )

    def delete_blob(self, name: str, digest: Digest) -> None:
        """See `storage.Storage.delete_blob`. Content that no repository has any more goes at once."""
        path = self._blob(name, digest)
        try:
            os.unlink(path)
        except _MISSING:
            raise blob_unknown(digest) from None
        wholefile.sync_folder(os.path.dirname(path))
        durable.drop_unlinked(durable.content_path(self.root, digest))

    # Manifests and tags

    def manifest(self, name: str, digest: Digest) -> Stored:
        """See `storage.Storage.manifest`."""
        path = self._manifest(name, digest)
        try:
            return self._cache.load(path, digest)
        except _MISSING:
            raise manifest_unknown(digest) from None

    def tagged(self, name: str, tag: str) -> Stored:
        """See `storage.Storage.tagged`."""
        try:
            digest = _pointed(os.readlink(f"{self._repositories}/{name}/_tags/{tag}"))
            return self._cache.load(self._manifest(name, digest), digest)
        except _MISSING:
            raise manifest_unknown(tag) from None

    def put_manifest(self, name: str, pushed: Pushed, tags: Sequence[str], *, sparse: bool = False) -> None:
        """See `storage.Storage.put_manifest`. A crash leaves a prefix of: referrer's entry, manifest, tags."""
        path = self._manifest(name, pushed.digest)
        durable.make_folder(os.path.dirname(path))
        with self._locked(name):
            if not sparse:
                self._check_needs(name, pushed.needs)
            if pushed.subject:
                folder = self._referrers(name, pushed.subject)
                durable.make_folder(folder)
                durable.write(self.root, f"{folder}/{pushed.digest.replace(':', '-')}", pushed.entry)
            durable.write(self.root, path, pushed.media_type.encode("ascii") + b"\n" + pushed.raw)
            if tags:
                folder = f"{self._repositories}/{name}/_tags"
                durable.make_folder(folder)
                for tag in tags:
                    durable.point(self.root, f"{folder}/{tag}", f"../_manifests/{pushed.digest.replace(':', '/')}")
                wholefile.sync_folder(folder)

    def delete_manifest(self, name: str, digest: Digest) -> None:
        """See `storage.Storage.delete_manifest`. Tags go first, so that no tag points to nothing."""
        path = self._manifest(name, digest)
        if not os.path.exists(path):
            raise manifest_unknown(digest)
        with self._locked(name):
            subject = self.manifest_subject(name, digest)
            folder = f"{self._repositories}/{name}/_tags"
            for tag in _listed(folder):
                with suppress(*_MISSING):
                    if _pointed(os.readlink(f"{folder}/{tag}")) == digest:
                        os.unlink(f"{folder}/{tag}")
            try:
                os.unlink(path)
            except _MISSING:
                raise manifest_unknown(digest) from None
            wholefile.sync_folder(os.path.dirname(path))
            if subject:
                with suppress(*_MISSING):
                    os.unlink(f"{self._referrers(name, subject)}/{digest.replace(':', '-')}")

    def delete_tag(self, name: str, tag: str) -> None:
        """See `storage.Storage.delete_tag`."""
        folder = f"{self._repositories}/{name}/_tags"
        try:
            os.unlink(f"{folder}/{tag}")
        except _MISSING:
            raise manifest_unknown(tag) from None
        wholefile.sync_folder(folder)

    def tags(self, name: str) -> list[str]:
        """See `storage.Storage.tags`."""
        if not self._exists(name):
            raise name_unknown(name)
        return _listed(f"{self._repositories}/{name}/_tags")

    def referrers(self, name: str, subject: Digest) -> list[bytes]:
        """See `storage.Storage.referrers`. An entry whose manifest is not (or no longer) there does not count."""
        folder = self._referrers(name, subject)
        entries = []
        for file in _listed(folder):
            digest = Digest.parse(file.replace("-", ":", 1))
            with suppress(*_MISSING):
                os.stat(self._manifest(name, digest))
                with open(f"{folder}/{file}", "rb") as entry:
                    entries.append(entry.read())
        return entries

    def manifest_subject(self, name: str, digest: Digest) -> Digest | None:
        """The subject of a kept manifest, None without one."""
        from orlop.registry.server import manifests  # only a deletion reads a kept manifest again

        stored = self.manifest(name, digest)
        return manifests.read(stored.raw, stored.media_type, digest).subject

    def repositories(self) -> list[str]:
        """See `storage.Storage.repositories`."""
        return sorted(name for name, parts in self._walk() if not parts.isdisjoint(_PARTS))

    # Uploads

    def begin(self, name: str, algorithm: str = "sha256") -> str:
        """See `storage.Storage.begin`."""
        return self._uploads.begin(name, algorithm)

    def upload_size(self, name: str, session: str) -> int:
        """See `storage.Storage.upload_size`."""
        return self._uploads.size(name, session)

    def resume(self, name: str, session: str) -> FileSession | None:
        """See `storage.Storage.resume`."""
        return self._uploads.resume(name, session)

    def cancel(self, name: str, session: str) -> None:
        """See `storage.Storage.cancel`."""
        self._uploads.cancel(name, session)

    def purge(self, older_than: float) -> int:
        """Forget uploads that nobody wrote to for `older_than` seconds; returns how many there were."""
        count = sum(self._uploads.purge(name, older_than) for name, parts in self._walk() if "_uploads" in parts)
        return count + durable.purge_temporary(self.root, older_than)

    # Paths

    def _blob(self, name: str, digest: Digest) -> str:
        return f"{self._repositories}/{name}/_blobs/{digest.replace(':', '/')}"

    def _manifest(self, name: str, digest: Digest) -> str:
        return f"{self._repositories}/{name}/_manifests/{digest.replace(':', '/')}"

    def _referrers(self, name: str, subject: Digest) -> str:
        return f"{self._repositories}/{name}/_referrers/{subject.replace(':', '/')}"

    def _exists(self, name: str) -> bool:
        return any(os.path.isdir(f"{self._repositories}/{name}/{part}") for part in _PARTS)

    def _walk(self) -> Iterator[tuple[str, set[str]]]:
        """Every folder that could be a repository, with the names of its own parts."""
        waiting = [""]
        while waiting:
            at = waiting.pop()
            parts = set()
            with suppress(*_MISSING), os.scandir(f"{self._repositories}/{at}") as entries:
                for entry in entries:
                    if entry.name.startswith("_"):
                        parts.add(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{at}/{entry.name}" if at else entry.name)
            if parts:
                yield at, parts

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Alone among all processes in changing this repository's manifests and tags."""
        lock = os.open(f"{self._repositories}/{name}/_lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _check_needs(self, name: str, needs: Sequence[Needed]) -> None:
        for needed in needs:
            size = self._size_of(name, needed)
            if size is None:
                what = "manifest" if needed.is_manifest else "blob"
                raise Refusal(
                    400, "MANIFEST_BLOB_UNKNOWN", f"the manifest refers to {what} {needed.digest}, which is not here"
                )
            if size != needed.size:
                raise Refusal(
                    400,
                    "MANIFEST_INVALID",
                    f"the manifest says that {needed.digest} has {needed.size} bytes, it has {size}",
                )

    def _size_of(self, name: str, needed: Needed) -> int | None:
        if needed.is_manifest:
            with suppress(*_MISSING):
                return len(self._cache.load(self._manifest(name, needed.digest), needed.digest).raw)
        with suppress(*_MISSING):
            return os.stat(self._blob(name, needed.digest)).st_size
        return None


def _pointed(target: str) -> Digest:
    """The digest that a tag's symbolic link points to; only we make these links."""
    _, algorithm, encoded = target.rsplit("/", 2)
    return Digest(f"{algorithm}:{encoded}")


def _listed(folder: str) -> list[str]:
    """What is in a folder, sorted; nothing if it is not there. Names are ASCII, so this is byte order."""
    try:
        return sorted(os.listdir(folder))
    except _MISSING:
        return []


def _check_layout(root: str) -> None:
    path = f"{root}/VERSION"
    try:
        with open(path, encoding="ascii") as file:
            found = file.read(16).strip()
    except FileNotFoundError:
        durable.write(root, path, LAYOUT.encode())
        return
    if found != LAYOUT:
        raise FailedPrecondition(
            f"{root} has registry layout {found!r}, this orlop knows {LAYOUT!r}", hint="use the newer orlop"
        )


def _check_links(root: str) -> None:
    """Hard and symbolic links must work here."""
    symbolic, hard = durable.temporary(root), durable.temporary(root)
    try:
        durable.point(root, symbolic, "../VERSION")
        os.link(f"{root}/VERSION", hard)
        os.unlink(symbolic)
        os.unlink(hard)
    except OSError as error:
        raise FailedPrecondition(
            f"the file system of {root} has no hard or symbolic links ({error.strerror})",
            hint="keep the registry on a Linux file system",
        ) from error
