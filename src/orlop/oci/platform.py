"""Platforms: what an image was built for (image-spec v1.1, image-index.md, "platform")."""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
    "aarch64": ("arm64", ""),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "armv5tejl": ("arm", "v5"),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "ppc64el": ("ppc64le", ""),
    "loongarch64": ("loong64", ""),
    "mips64el": ("mips64le", ""),
    "mipsel": ("mipsle", ""),
}
"""Other people's names (uname's, Debian's) for what Go, and so OCI, calls otherwise."""

KNOWN_ARCHITECTURES = frozenset(
    {
        *("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le"),
        *("riscv64", "s390x", "sparc64", "wasm"),
    }
)

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Platform(Value):
    """An operating system and an architecture, in OCI's words ("linux", "arm64", "v8")."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Platform:
        """The platform that "linux/arm64/v8", "linux/arm64" or "arm64" states.

        A lone word must be an architecture; the system is then Linux.
        """
        parts = text.strip().split("/")
        if len(parts) > 3 or not all(part and _WORD.issuperset(part) for part in parts):
            raise InvalidArgument(
                f"platform {text!r} is not os/architecture[/variant]", hint="for example linux/amd64 or linux/arm/v7"
            )
        if len(parts) == 1:
            word = parts[0].lower()
            architecture, variant = _ARCHITECTURES.get(word, (word, ""))
            if architecture in KNOWN_ARCHITECTURES:
                return cls(os="linux", architecture=architecture, variant=variant).normalized()
            raise InvalidArgument(
                f"platform {text!r} names no known architecture", hint="for example linux/amd64 or linux/arm/v7"
            )
        return cls(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "").normalized()

    @classmethod
    def of_machine(cls, machine: str) -> Platform:
        """The Linux platform of a machine that uname calls `machine` ("x86_64")."""
        return cls(os="linux", architecture=machine).normalized()

    @classmethod
    def from_json(cls, value: Any, *, what: str = "platform") -> Platform:
        """From a descriptor's or an image config's JSON object; missing words are empty."""
        if not isinstance(value, dict):
            raise InvalidArgument(f"{what} is not a JSON object")
        words = []
        for key in ("os", "architecture", "variant", "os.version"):
            word = value.get(key) or ""
            if not isinstance(word, str):
                raise InvalidArgument(f"{what}: {key} is not a string")
            words.append(word)
        features = value.get("os.features") or ()
        if not isinstance(features, (list, tuple)) or not all(isinstance(feature, str) for feature in features):
            raise InvalidArgument(f"{what}: os.features is not an array of strings")
        return cls(
            os=words[0], architecture=words[1], variant=words[2], os_version=words[3], os_features=tuple(features)
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object, in the order in which Go writes it."""
        value: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            value["os.version"] = self.os_version
        if self.os_features:
            value["os.features"] = list(self.os_features)
        if self.variant:
            value["variant"] = self.variant
        return value

    def normalized(self) -> Platform:
        """The one spelling of this platform: aarch64 becomes arm64, arm64/v8 arm64, arm arm/v7, amd64/v1 amd64."""
        system = self.os.lower()
        architecture = self.architecture.lower()
        variant = self.variant.lower()
        implied = ""
        if architecture in _ARCHITECTURES:
            architecture, implied = _ARCHITECTURES[architecture]
        variant = variant or implied
        if variant.isdigit():
            variant = "v" + variant
        if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
            variant = ""
        elif (architecture, variant) == ("arm", ""):
            variant = "v7"
        return self.replace(os="darwin" if system == "macos" else system, architecture=architecture, variant=variant)

    def runs(self) -> Iterator[Platform]:
        """All platforms whose programs run on this one, best first (as containerd's platforms.Only orders them).

        A 64-bit arm or x86 processor also runs the 32-bit programs of its family, a newer variant the older ones.
        """
        one = self.normalized()
        yield one
        name, number = one.architecture, one.variant[1:]
        level = int(number) if number.isdigit() and len(number) < 3 else 0
        if name == "amd64":
            for lower in range(level - 1, 0, -1):
                yield one.replace(variant=f"v{lower}").normalized()
            yield one.replace(architecture="386", variant="")
        elif name == "arm":
            for lower in range(level - 1, 4, -1):
                yield one.replace(variant=f"v{lower}")
        elif name == "arm64":
            for lower in range(level - 1, 7, -1):
                yield one.replace(variant=f"v{lower}").normalized()
            for lower in (8, 7, 6, 5):
                yield one.replace(architecture="arm", variant=f"v{lower}")

    def __str__(self) -> str:
        return "/".join(word for word in (self.os, self.architecture, self.variant) if word)


def best_match(wanted: Platform, offered: Sequence[Platform]) -> int | None:
    """The index of the offered platform that runs best on `wanted`, or None; the first one wins among equals.

    An operating system's version is compared only where both state one.
    """
    normal = [platform.normalized() for platform in offered]
    for choice in wanted.runs():
        for index, platform in enumerate(normal):
            if (platform.os, platform.architecture, platform.variant) != (
                choice.os,
                choice.architecture,
                choice.variant,
            ):
                continue
            if wanted.os_version and platform.os_version and wanted.os_version != platform.os_version:
                continue
            return index
    return None
