"""What the server says: status, headers and error bodies (spec.md, "Error Codes")."""

from __future__ import annotations

from orlop.errors import Kind, OrlopError
from orlop.oci.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Headers: TypeAlias = list[tuple[bytes, bytes]]

API_VERSION = (b"docker-distribution-api-version", b"registry/2.0")
JSON = (b"content-type", b"application/json")
EMPTY = (b"content-length", b"0")


class Refusal(OrlopError):
    """An answer that is not a success: an HTTP status, one of the specification's codes, and a sentence."""

    kind = Kind.INVALID_ARGUMENT

    def __init__(self, status: int, code: str, message: str, *, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers: Headers = headers or []

    def body(self) -> bytes:
        """The error as the JSON of the specification."""
        return dumps({"errors": [{"code": self.code, "message": self.message}]})


def blob_unknown(digest: str) -> Refusal:
    """404 for a blob."""
    return Refusal(404, "BLOB_UNKNOWN", f"blob {digest} is not in this repository")


def manifest_unknown(reference: str) -> Refusal:
    """404 for a manifest, by tag or digest."""
    return Refusal(404, "MANIFEST_UNKNOWN", f"manifest {reference} is not in this repository")


def name_unknown(name: str) -> Refusal:
    """404 for a repository."""
    return Refusal(404, "NAME_UNKNOWN", f"repository {name} is not known")


def name_invalid(name: str) -> Refusal:
    """400 for a repository's name."""
    return Refusal(400, "NAME_INVALID", f"{name[:300]!r} is not a repository name")


def digest_invalid(message: str) -> Refusal:
    """400 for a digest, or for content that is not what its digest says."""
    return Refusal(400, "DIGEST_INVALID", message)


def manifest_invalid(message: str) -> Refusal:
    """400 for a manifest."""
    return Refusal(400, "MANIFEST_INVALID", message)


def upload_unknown(session: str) -> Refusal:
    """404 for an upload session."""
    return Refusal(404, "BLOB_UPLOAD_UNKNOWN", f"upload {session[:64]} is not known, or was finished or cancelled")


def method_not_allowed(method: str, allowed: str) -> Refusal:
    """405, with the methods that are."""
    return Refusal(
        405, "UNSUPPORTED", f"{method} is not supported here", headers=[(b"allow", allowed.encode("latin-1"))]
    )
