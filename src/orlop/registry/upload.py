"""One blob on its way to a registry: not at all, by a mount, in one piece, or in as many as it takes."""

from __future__ import annotations

from orlop.errors import DataLoss, InvalidArgument
from orlop.registry import failures
from orlop.registry.headers import end_of_range
from orlop.registry.transport import PIECE, Request, Transport, joined_query, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from urllib3 import BaseHTTPResponse

    from orlop.errors import OrlopError
    from orlop.oci.descriptor import Descriptor
    from orlop.oci.digest import Digest

_CHUNK = 8 << 20
"""Bytes in one piece where a registry (or a proxy before it) refuses the whole blob at once."""


class Upload:
    """Brings blobs into one repository."""

    def __init__(self, transport: Transport, repository: str, name: str) -> None:
        self._transport = transport
        self._repository = repository
        self._name = name
        self._scopes: tuple[str, ...] = (f"repository:{repository}:pull,push",)
        self._least = 0  # bytes that the registry wants in a piece, at least

    def exists(self, digest: Digest) -> bool:
        """Whether the repository has the blob."""
        path = f"/v2/{self._repository}/blobs/{digest}"
        response = self._transport.request(Request(method="HEAD", path=path, scopes=self._scopes))
        body = read(response)
        if response.status == 404:
            return False
        if response.status != 200:
            raise self._refused(response, body, "look into")
        return True

    def send(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        mount_from: Sequence[str],
        progress: Callable[[int], None],
    ) -> str:
        """See `Client.upload`."""
        if self.exists(descriptor.digest):
            return "exists"
        location = ""
        for source in mount_from:
            if location:
                self._cancel(location)
            location = self._mount(descriptor.digest, source)
            if not location:
                return "mounted"
        self._transfer(descriptor, open_blob, progress, location)
        return "uploaded"

    def _mount(self, digest: Digest, source: str) -> str:
        """Mount the blob from another repository: "" if that worked, else where an upload was started instead."""
        path = joined_query(f"/v2/{self._repository}/blobs/uploads/", [("mount", str(digest)), ("from", source)])
        scopes = (*self._scopes, f"repository:{source}:pull")
        response = self._transport.request(Request(method="POST", path=path, scopes=scopes, body=lambda: b""))
        body = read(response)
        if response.status == 201:
            return ""
        if response.status == 202:
            return self._location(response)
        if response.status in (401, 403, 404):  # we may not read the source, or it is not there
            return self._begin(digest)
        raise self._refused(response, body, "push to")

    def _begin(self, digest: Digest) -> str:
        """Start an upload; returns where."""
        algorithm = "" if digest.algorithm == "sha256" else digest.algorithm
        path = joined_query(f"/v2/{self._repository}/blobs/uploads/", [("digest-algorithm", algorithm)])
        response = self._transport.request(Request(method="POST", path=path, scopes=self._scopes, body=lambda: b""))
        body = read(response)
        if response.status not in (200, 201, 202):
            raise self._refused(response, body, "push to")
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        self._least = int(least) if least.isdigit() else 0
        return self._location(response)

    def _transfer(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        progress: Callable[[int], None],
        location: str,
    ) -> None:
        """Send the bytes, going on where the registry says after a broken connection."""
        offset, whole, unsure = 0, True, False
        for attempt in range(1, self._transport.attempts + 1):
            try:
                if unsure:
                    location, offset = self._resumed(location)
                location = location or self._begin(descriptor.digest)
                if offset or not whole:
                    location, offset = self._chunks(location, descriptor, open_blob, progress, offset, whole=whole)
                self._finish(location, descriptor, open_blob, progress, offset)
            except failures.TooLarge:
                if not whole:
                    raise
                whole, unsure = False, False
                location, offset = "", 0
            except (failures.Interrupted, failures.RateLimited, failures.Unreachable):
                if attempt == self._transport.attempts:
                    raise
                self._transport.pause(attempt)
                unsure = bool(location)
            else:
                return

    def _resumed(self, location: str) -> tuple[str, int]:
        """Where to go on and from which byte; ("", 0) to start again."""
        response = self._transport.request(Request(method="GET", path=location, scopes=self._scopes, once=True))
        read(response)
        offset = end_of_range(response.headers.get("Range", ""))
        if response.status not in (200, 202, 204) or offset is None:
            return "", 0
        return self._location(response, location), offset

    def _chunks(
        self,
        location: str,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        progress: Callable[[int], None],
        offset: int,
        *,
        whole: bool,
    ) -> tuple[str, int]:
        """Send the bytes from `offset` on with PATCH: all at once if `whole`, else in pieces."""
        piece = descriptor.size if whole else max(_CHUNK, self._least)
        while offset < descriptor.size:
            size = min(piece, descriptor.size - offset)
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size),
                "Content-Range": f"{offset}-{offset + size - 1}",
            }
            source = _Source(open_blob, offset, size, progress)
            response, body = self._sent("PATCH", location, headers, source)
            if response.status == 416:  # what the registry has is not what we think
                raise failures.Interrupted(f"{self._transport.registry} has another part of the blob than we sent")
            if response.status not in (201, 202, 204):
                raise self._refused(response, body, "push to")
            location = self._location(response, location)
            offset += size
        return location, offset

    def _finish(
        self,
        location: str,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        progress: Callable[[int], None],
        offset: int,
    ) -> None:
        """Send the bytes from `offset` on, perhaps none, with the PUT that ends the upload."""
        size = descriptor.size - offset
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        if offset and size:
            headers["Content-Range"] = f"{offset}-{descriptor.size - 1}"
        path = joined_query(location, [("digest", str(descriptor.digest))])
        response, body = self._sent("PUT", path, headers, _Source(open_blob, offset, size, progress))
        if response.status == 404:
            raise failures.Interrupted(f"{self._transport.registry} has forgotten the upload")
        if response.status == 400 and failures.said(body)[0] == "DIGEST_INVALID":
            raise DataLoss(
                f"{self._transport.registry} did not get blob {descriptor.digest} as it is",
                hint="it was changed on the way, or here: retry, or pull or build the image again",
            )
        if response.status not in (200, 201, 202, 204):
            raise self._refused(response, body, "push to")

    def _sent(self, method: str, path: str, headers: dict[str, str], source: _Source) -> tuple[BaseHTTPResponse, bytes]:
        try:
            response = self._transport.request(
                Request(method=method, path=path, scopes=self._scopes, headers=headers, body=source.opened, once=True)
            )
        finally:
            source.close()
        return response, read(response)

    def _cancel(self, location: str) -> None:
        """Forget an upload; failures do not matter, the registry forgets it by itself some day."""
        try:
            read(self._transport.request(Request(method="DELETE", path=location, scopes=self._scopes, once=True)))
        except (failures.Interrupted, failures.Unreachable):
            return

    def _location(self, response: BaseHTTPResponse, before: str = "") -> str:
        from urllib.parse import urljoin

        found = response.headers.get("Location", "")
        if not found and not before:
            raise InvalidArgument(f"{self._transport.registry} started an upload but does not say where")
        return urljoin(self._transport.base(), found) if found else before

    def _refused(self, response: BaseHTTPResponse, body: bytes, verb: str) -> OrlopError:
        return failures.refused(
            response.status,
            body,
            response.headers,
            what=self._name,
            registry=self._transport.registry,
            user=self._transport.user,
            verb=verb,
        )


class _Source:
    """Part of a file as a request's body. Reports how many bytes of the whole have been handed to the connection."""

    def __init__(
        self, open_blob: Callable[[], BinaryIO], offset: int, size: int, progress: Callable[[int], None]
    ) -> None:
        self._open = open_blob
        self._offset = offset
        self._size = size
        self._left = size
        self._progress = progress
        self._file: BinaryIO | None = None

    def opened(self) -> _Source | bytes:
        """The body, at its start again."""
        self.close()
        if not self._size:
            return b""
        self._file = self._open()
        self._file.seek(self._offset)
        self._left = self._size
        return self

    def read(self, amount: int = PIECE) -> bytes:
        """The next bytes; DataLoss if the file is shorter than the blob."""
        assert self._file is not None
        piece = self._file.read(min(amount, self._left) if amount >= 0 else self._left)
        if not piece and self._left:
            raise DataLoss(f"the local copy of the blob ends {self._left} bytes early", hint="pull or build it again")
        self._left -= len(piece)
        if piece:
            self._progress(self._offset + self._size - self._left)
        return piece

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
