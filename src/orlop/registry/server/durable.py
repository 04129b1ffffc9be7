"""Files that are whole or absent: write beside, fsync, rename; and blobs as hard links."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress

from orlop.linux import wholefile
from orlop.linux.wholefile import sync_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.oci.digest import Digest


def content_path(root: str, digest: Digest) -> str:
    """Where the content with this digest lives, for all repositories."""
    return f"{root}/blobs/{digest.replace(':', '/')}"


def temporary(root: str) -> str:
    """A new path on the same file system, for something that is not whole yet."""
    return f"{root}/incoming/{os.urandom(16).hex()}"


def make_folder(path: str) -> None:
    """Make `path` and what is missing above it, durably."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_folder(parent)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    sync_folder(parent)


def write(root: str, path: str, data: bytes) -> None:
    """Put a small file at `path`, in place of any other: readers see the old one or the new one, also after a crash."""
    wholefile.write(path, data, durable=True, beside=temporary(root))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def point(root: str, path: str, target: str) -> None:
    """Make the symbolic link `path` point to `target`, atomically. The caller syncs the folder."""
    beside = temporary(root)
    os.symlink(target, beside)
    try:
        os.rename(beside, path)
    except BaseException:
        wholefile.forget(beside)
        raise


def keep(root: str, upload: str, digest: Digest, blob: str) -> None:
    """Make the whole and synced file `upload` the content `digest`, linked as `blob`; `upload` itself is left alone.

    Content that is there already is shared. It may vanish at any moment, because its last repository gave it up: then
    the upload takes its place.
    """
    content = content_path(root, digest)
    make_folder(os.path.dirname(content))
    while True:
        try:
            os.link(upload, content)
            sync_folder(os.path.dirname(content))
        except FileExistsError:
            _heal(root, upload, content)
        if link_blob(root, content, blob):
            return


def _heal(root: str, upload: str, content: str) -> None:
    """Replace kept content whose size is wrong (a broken disk, a restored backup) with what was just verified."""
    with suppress(FileNotFoundError):
        if os.stat(content).st_size != os.stat(upload).st_size:
            beside = temporary(root)
            os.link(upload, beside)
            os.rename(beside, content)


def link_blob(root: str, source: str, blob: str) -> bool:
    """Link `source` (the content, or another repository's blob) as `blob`, durably. False if it is gone."""
    folder = os.path.dirname(blob)
    make_folder(folder)
    try:
        os.link(source, blob)
    except FileExistsError:
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        content = f"{root}/blobs/" + "/".join(blob.split("/")[-2:])
        _copy(root, source, content)
        return link_blob(root, content, blob)
    sync_folder(folder)
    return True


def _copy(root: str, source: str, content: str) -> None:
    """Put a fresh copy where content has all the links a file may have (65000 on ext4); the next ones go to that."""
    beside = temporary(root)
    with open(source, "rb") as old, open(beside, "xb", opener=_private) as new:
        while os.copy_file_range(old.fileno(), new.fileno(), 1 << 30):
            pass
        os.fsync(new.fileno())
    os.rename(beside, content)


def drop_unlinked(content: str) -> None:
    """Remove content that no repository links to.

    A repository that links to it between the two calls keeps it alive by that link; only the sharing is lost.
    """
    with suppress(FileNotFoundError):
        if os.stat(content).st_nlink == 1:
            os.unlink(content)


def purge_temporary(root: str, older_than: float) -> int:
    """Remove what crashed writers left in incoming/ longer than `older_than` seconds ago; returns how many."""
    count = 0
    with os.scandir(f"{root}/incoming") as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - older_than:
                    os.unlink(entry.path)
                    count += 1
    return count
