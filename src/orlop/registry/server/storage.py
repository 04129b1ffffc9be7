"""What the server asks of a place to keep content. `files.FileStorage` is one; an object store can be another.

Every method is safe to call from many threads and many processes at once. What `put_*`, `finish` and `mount` promise is
durable when they return: it survives a power cut.
"""

from __future__ import annotations

from orlop.oci.digest import Digest
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from orlop.registry.server.manifests import Pushed

    class Session(Protocol):
        """An upload that this request, and no other, may write to."""

        offset: int

        def write(self, pieces: Sequence[bytes]) -> None:
            """Append bytes (hashing them on the way); they survive the death of this process."""

        def finish(self, digest: Digest) -> None:
            """Make it a blob of its repository; raises DIGEST_INVALID if the bytes are not `digest`."""

        def close(self) -> None:
            """Let go of it; what was written stays, for a later request to go on."""

    class Storage(Protocol):
        """Blobs, manifests, tags and referrers, by repository. A repository sees only what is its own."""

        def blob(self, name: str, digest: Digest) -> tuple[str, int]:
            """The path and size in bytes of a blob; raises BLOB_UNKNOWN."""

        def mount(self, name: str, digest: Digest, source: str) -> bool:
            """Make a blob of repository `source` ("" for any) one of `name` too; False if there is none."""

        def delete_blob(self, name: str, digest: Digest) -> None:
            """Take a blob out of a repository; raises BLOB_UNKNOWN."""

        def manifest(self, name: str, digest: Digest) -> Stored:
            """A manifest by digest; raises MANIFEST_UNKNOWN."""

        def tagged(self, name: str, tag: str) -> Stored:
            """A manifest by tag; raises MANIFEST_UNKNOWN."""

        def put_manifest(self, name: str, pushed: Pushed, tags: Sequence[str], *, sparse: bool = False) -> None:
            """Keep a manifest under its digest and `tags`; raises MANIFEST_BLOB_UNKNOWN unless `sparse`."""

        def delete_manifest(self, name: str, digest: Digest) -> None:
            """Remove a manifest and all tags that point to it; raises MANIFEST_UNKNOWN."""

        def delete_tag(self, name: str, tag: str) -> None:
            """Remove a tag; raises MANIFEST_UNKNOWN."""

        def tags(self, name: str) -> list[str]:
            """The tags of a repository, sorted by their bytes; raises NAME_UNKNOWN."""

        def referrers(self, name: str, subject: Digest) -> list[bytes]:
            """The descriptors (as JSON) of manifests whose subject is `subject`, ordered by digest."""

        def repositories(self) -> list[str]:
            """The names of all repositories, sorted by their bytes."""

        def begin(self, name: str, algorithm: str = "sha256") -> str:
            """Start an upload; returns its session."""

        def upload_size(self, name: str, session: str) -> int:
            """The bytes an upload has; raises BLOB_UPLOAD_UNKNOWN."""

        def resume(self, name: str, session: str) -> Session | None:
            """Take an upload for writing, or None while another request has it; raises BLOB_UPLOAD_UNKNOWN."""

        def cancel(self, name: str, session: str) -> None:
            """Forget an upload; raises BLOB_UPLOAD_UNKNOWN."""


class Stored(Value):
    """A manifest as it is kept. `headers` are what every answer about it says, made once."""

    digest: Digest
    media_type: str
    raw: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
