"""Digests: the names of content (image-spec v1.1, descriptor.md, "Digests")."""

from __future__ import annotations

from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Hasher(Protocol):
        """A running hash, as hashlib makes them."""

        def update(self, data: bytes | bytearray | memoryview, /) -> None:
            """Take in more bytes."""

        def hexdigest(self) -> str:
            """The hash so far, as lower-case hexadecimal."""


LENGTHS = {"sha256": 64, "sha512": 128, "sha384": 96}
"""Hexadecimal digits by algorithm. sha384 is not registered by the specification, but go-digest accepts it."""

HEX = "0123456789abcdef"
_SMALL = 1 << 16


class Digest(str):
    """`<algorithm>:<encoded>`. Only `parse` and `of` make one, so that every Digest is valid and safe as a path."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest that `text` states; raises InvalidArgument saying what is wrong with it."""
        if isinstance(text, cls):
            return text
        algorithm, colon, encoded = text.partition(":")
        length = LENGTHS.get(algorithm)
        if length is not None and len(encoded) == length and not encoded.strip(HEX):
            return cls(text)
        raise InvalidArgument(_complaint(text, algorithm, colon, encoded, length))

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        running = _small_sha256() if algorithm == "sha256" and len(data) <= _SMALL else hasher(algorithm)
        running.update(data)
        return cls(f"{algorithm}:{running.hexdigest()}")

    @classmethod
    def from_hasher(cls, algorithm: str, running: Hasher) -> Digest:
        """The digest of all that `running` (made by `hasher(algorithm)`) has taken in."""
        return cls(f"{algorithm}:{running.hexdigest()}")

    @property
    def algorithm(self) -> str:
        """The part before the colon: "sha256"."""
        return self[: self.index(":")]

    @property
    def encoded(self) -> str:
        """The part after the colon: lower-case hexadecimal."""
        return self[self.index(":") + 1 :]

    @property
    def short(self) -> str:
        """The first 12 digits, as people see ids."""
        return self.encoded[:12]

    def hasher(self) -> Hasher:
        """A new running hash of this digest's algorithm."""
        return hasher(self.algorithm)


def hasher(algorithm: str = "sha256") -> Hasher:
    """A new running hash; raises InvalidArgument for an algorithm that is not supported."""
    if algorithm not in LENGTHS:
        raise InvalidArgument(f"digest algorithm {algorithm!r} is not supported ({', '.join(LENGTHS)} are)")
    import hashlib  # loads OpenSSL (2 ms): the fast one, for content; names of small things do without

    return hashlib.new(algorithm)


def _complaint(text: str, algorithm: str, colon: str, encoded: str, length: int | None) -> str:
    if not colon:
        return f"{text!r} is not a digest: it has no algorithm (sha256:...)"
    if length is None:
        return f"digest {text!r} has the algorithm {algorithm!r}, which is not supported ({', '.join(LENGTHS)} are)"
    if encoded.strip("0123456789abcdefABCDEF"):
        return f"digest {text!r} has something else than hexadecimal digits after {algorithm}:"
    if len(encoded) != length:
        return f"digest {text!r} has {len(encoded)} digits, {algorithm} has {length}"
    return f"digest {text!r} has upper-case digits, only lower case is allowed"


def _small_sha256() -> Hasher:
    """CPython's own sha256: slower a byte than OpenSSL's, but there at once. OpenSSL's in a Python built without it.

    Looked for at each call, because most commands make no digest at all.
    """
    for name in ("_sha2", "_sha256"):  # since 3.12, and before
        try:
            found: Hasher = __import__(name).sha256()
        except (ImportError, AttributeError):
            continue
        return found
    return hasher("sha256")
