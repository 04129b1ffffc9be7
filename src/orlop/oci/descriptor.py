"""Descriptors: typed, sized pointers to content (image-spec v1.1, descriptor.md)."""

from __future__ import annotations

from orlop.errors import ContentMismatch, InvalidArgument
from orlop.oci import jsontext
from orlop.oci.digest import Digest
from orlop.oci.platform import Platform
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

MAX_SIZE = (1 << 63) - 1
_KNOWN = frozenset(("mediaType", "digest", "size", "annotations", "platform", "urls", "artifactType", "data"))


class Descriptor(Value):
    """A typed, sized pointer to a blob.

    `data` is the blob itself where the descriptor carries it; `extra` holds the fields that this version does not know.
    """

    media_type: str
    digest: Digest
    size: int  # bytes
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""
    data: bytes | None = None
    extra: dict[str, Any] | None = None

    def __hash__(self) -> int:
        return hash((self.digest, self.size, self.media_type))

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Descriptor:
        """The descriptor of `data`."""
        return cls(media_type=media_type, digest=Digest.of(data), size=len(data))

    @classmethod
    def from_json(cls, value: Any, *, what: str = "descriptor") -> Descriptor:
        """From its JSON object; InvalidArgument starts with `what`. Embedded `data` is verified."""
        if not isinstance(value, dict):
            raise InvalidArgument(f"{what} is a JSON {jsontext.kind_of(value)}, not an object")
        media_type = string(value, "mediaType", what)
        size = value.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
            raise InvalidArgument(f"{what} has the size {size!r}, which is not a number of bytes")
        try:
            digest = Digest.parse(string(value, "digest", what))
        except InvalidArgument as error:
            raise InvalidArgument(f"{what}: {error.message}") from error
        platform = value.get("platform")
        extra = {key: value[key] for key in value if key not in _KNOWN}
        return cls(
            media_type=media_type,
            digest=digest,
            size=size,
            annotations=string_map(value, "annotations", what),
            platform=None if platform is None else Platform.from_json(platform, what=f"{what}: platform"),
            urls=strings(value, "urls", what) or (),
            artifact_type=string(value, "artifactType", what),
            data=_data(value, digest, size, what),
            extra=extra or None,
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object, fields in the specification's order, empty ones left out."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.data is not None:
            from binascii import b2a_base64  # rare, and a shared library to load

            value["data"] = b2a_base64(self.data, newline=False).decode()
        if self.platform is not None:
            value["platform"] = self.platform.to_json()
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        return value | (self.extra or {})

    def plain(self) -> Descriptor:
        """Only media type, digest and size."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)

    def verified(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass `chunks` through; raise ContentMismatch unless they are exactly this blob.

        Nothing is proven until the iterator is exhausted. Never more than `size` bytes are passed on.
        """
        running = self.digest.hasher()
        left = self.size
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise ContentMismatch(wanted=f"{self.digest} ({self.size} bytes)", got="longer")
            running.update(chunk)
            yield chunk
        self.check(self.size - left, Digest.from_hasher(self.digest.algorithm, running))

    def check(self, size: int, digest: Digest) -> None:
        """Raise ContentMismatch unless content of `size` bytes and `digest` is this blob."""
        if size != self.size:
            raise ContentMismatch(wanted=f"{self.digest} ({self.size} bytes)", got=f"{size} bytes")
        if digest != self.digest:
            raise ContentMismatch(wanted=self.digest, got=digest)


def _data(value: dict[str, Any], digest: Digest, size: int, what: str) -> bytes | None:
    text = string(value, "data", what)
    if not text:
        # Absent, or the empty blob, whose base64 is "".
        return b"" if size == 0 and "data" in value and value["data"] is not None else None
    from binascii import Error, a2b_base64  # rare, and a shared library to load

    try:
        data = a2b_base64(text, strict_mode=True)
    except (Error, ValueError) as error:
        raise InvalidArgument(f"{what}: data is not base64") from error
    if len(data) != size or Digest.of(data, digest.algorithm) != digest:
        raise InvalidArgument(f"{what}: data is not the content that the digest names")
    return data


def string(value: dict[str, Any], key: str, what: str) -> str:
    """The string at `key`; "" if it is missing or null."""
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InvalidArgument(f"{what}: {key} is a {jsontext.kind_of(found)}, not a string")
    return found


def strings(value: dict[str, Any], key: str, what: str) -> tuple[str, ...] | None:
    """The array of strings at `key`; None if it is missing or null."""
    found = value.get(key)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidArgument(f"{what}: {key} is not an array of strings")
    return tuple(found)


def string_map(value: dict[str, Any], key: str, what: str) -> dict[str, str] | None:
    """The object of strings at `key`; None if it is missing or null."""
    found = value.get(key)
    if found is None:
        return None
    if not isinstance(found, dict) or not all(isinstance(item, str) for item in found.values()):
        raise InvalidArgument(f"{what}: {key} is not an object of strings")
    return dict(found)
