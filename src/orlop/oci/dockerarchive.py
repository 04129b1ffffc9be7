"""docker's manifest.json: the table of an archive that `docker save` wrote (moby, image/spec/spec.md v1.2).

It is the archive's only document that is not OCI's, and as hostile as the rest: whatever is not of its shape is refused
with the place that is wrong.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.oci import jsontext
from orlop.oci.descriptor import string, strings
from orlop.oci.reference import Reference
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

NAME = "manifest.json"


class SavedImage(Value):
    """One image of the archive: the members that are its config and its layers (lowest first), and its names."""

    config: str
    layers: tuple[str, ...]
    names: tuple[Reference, ...] = ()

    @classmethod
    def from_json(cls, value: object, *, what: str) -> SavedImage:
        """The entry that `value` is; InvalidArgument names the field that is not as it must be."""
        if not isinstance(value, dict):
            raise InvalidArgument(f"{what} is a JSON {jsontext.kind_of(value)}, not an object")
        config = string(value, "Config", what)
        if not config:
            raise InvalidArgument(f"{what} has no Config")
        return cls(
            config=config,
            layers=strings(value, "Layers", what) or (),  # Go writes null for an empty list
            names=tuple(Reference.parse(name) for name in strings(value, "RepoTags", what) or ()),
        )

    def to_json(self) -> dict[str, Any]:
        """As docker writes it: null stands for no names."""
        return {
            "Config": self.config,
            "RepoTags": [name.familiar for name in self.names] or None,
            "Layers": list(self.layers),
        }


def parse(raw: bytes, *, what: str = NAME) -> tuple[SavedImage, ...]:
    """The images that a manifest.json lists. InvalidArgument for anything else than such a list."""
    value = jsontext.loads(raw, what=what)
    if not isinstance(value, list):
        raise InvalidArgument(f"{what} is a JSON {jsontext.kind_of(value)}, not an array")
    return tuple(SavedImage.from_json(entry, what=f"{what}[{number}]") for number, entry in enumerate(value))


def build(images: Iterable[SavedImage]) -> bytes:
    """The text of a manifest.json."""
    return jsontext.dumps([image.to_json() for image in images])
