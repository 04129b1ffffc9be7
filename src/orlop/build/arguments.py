"""Arguments with a grammar of their own: EXPOSE's ports and RUN --mount, once variables are replaced."""

from __future__ import annotations

from posixpath import basename, join, normpath

from orlop.build import lint
from orlop.build.dockerfile.source import DockerfileError, DockerfileUnimplemented, did_you_mean
from orlop.build.steps import Mount
from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.build.dockerfile.instructions import MountFlag
    from orlop.build.dockerfile.source import Finding, Source, Span

PROTOCOLS = ("tcp", "udp", "sctp")
MAX_PORTS = 65536
_KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_TRUE = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_FOR = {  # options that only some kinds have
    "size": ("tmpfs",),
    "sharing": ("cache",),
    "required": ("secret", "ssh"),
    "mode": ("cache", "secret", "ssh"),
    "uid": ("cache", "secret", "ssh"),
    "gid": ("cache", "secret", "ssh"),
    "env": ("secret",),
    "id": ("cache", "secret", "ssh"),
    "from": ("bind", "cache"),
}


def ports(text: str, span: Span, findings: list[Finding]) -> list[str]:
    """`80`, `80/udp`, `8000-8010/tcp` as "80/tcp" words. An address or host port is reported and left out.

    Raises InvalidArgument.
    """
    spec, slash, protocol = text.partition("/")
    lowered = protocol.lower() if slash else "tcp"
    if lowered not in PROTOCOLS:
        raise InvalidArgument(
            f"{text!r} has an unknown protocol{did_you_mean(lowered, PROTOCOLS)}", hint="it is tcp, udp or sctp"
        )
    if protocol != protocol.lower():
        findings.append(lint.finding("ExposeProtoCasing", span, text))
    host, colon, spec = spec.rpartition(":")
    if colon:
        findings.append(lint.finding("ExposeInvalidFormat", span, text))
        del host
    first, dash, last = spec.partition("-")
    bounds = [first, last if dash else first]
    if not all(bound.isascii() and bound.isdigit() and 0 < int(bound) < MAX_PORTS for bound in bounds):
        raise InvalidArgument(f"{text!r} is no port", hint="for example 80, 53/udp or 8000-8010")
    low, high = int(bounds[0]), int(bounds[1])
    if low > high:
        raise InvalidArgument(f"the range of ports {text!r} runs backwards")
    return [f"{port}/{lowered}" for port in range(low, high + 1)]


def mount(flag: MountFlag, *, expand: Callable[[str, Span], str], cwd: str, source: Source) -> Mount:
    """A RUN --mount flag as a Mount. Raises DockerfileError naming the option that is wrong."""
    return _MountReader(flag, expand, cwd, source).read()


class _MountReader:
    def __init__(self, flag: MountFlag, expand: Callable[[str, Span], str], cwd: str, source: Source) -> None:
        self.flag = flag
        self.cwd = cwd
        self.source = source
        self.values = {
            option.key: None if option.value is None else expand(option.value, flag.span) for option in flag.options
        }

    def fail(self, sentence: str, hint: str = "") -> DockerfileError:
        return DockerfileError(sentence, source=self.source, span=self.flag.span, hint=hint)

    def text(self, *keys: str) -> str:
        return next((self.values[key] or "" for key in keys if key in self.values), "")

    def boolean(self, key: str) -> bool:
        value = self.values[key]
        if value is None:
            return True
        if value.lower() not in _TRUE:
            raise self.fail(f"--mount option {key} is true or false, not {value!r}")
        return _TRUE[value.lower()]

    def number(self, key: str, base: int) -> int | None:
        if key not in self.values:
            return None
        try:
            value = int(self.text(key), base)
        except ValueError:
            value = -1
        if not 0 <= value < 1 << 32:
            raise self.fail(f"--mount option {key} is no number: {self.text(key)!r}")
        return value

    def read(self) -> Mount:
        kind = (self.text("type") or "bind").lower()
        if kind not in _KINDS:
            raise self.fail(f"--mount has no type {kind!r}{did_you_mean(kind, _KINDS)}")
        for key, kinds in _FOR.items():
            if key in self.values and kind not in kinds:
                raise self.fail(f"--mount option {key} does not go with type={kind}")
        if kind == "ssh":
            raise DockerfileUnimplemented(
                "RUN --mount=type=ssh is not supported yet", source=self.source, span=self.flag.span
            )
        target = self.text("target", "dst", "destination")
        fields: dict[str, Any] = {
            "kind": kind,
            "span": self.flag.span,
            "source": self.text("source", "src"),
            "origin": self.text("from"),
            "readonly": self._readonly(kind),
            "mode": self.number("mode", 8),
            "uid": self.number("uid", 10) or 0,
            "gid": self.number("gid", 10) or 0,
            "id": self.text("id"),
        }
        if kind == "secret":
            return self._secret(fields, target)
        if not target:
            raise self.fail(f"--mount of type {kind} needs a target", "for example target=/root/.cache")
        fields["target"] = self._absolute(target)
        if fields["target"] == "/":
            raise self.fail("--mount cannot have / as its target")
        if kind == "cache":
            fields["id"] = fields["id"] or fields["target"]
            fields["sharing"] = self.text("sharing").lower() or "shared"
            if fields["sharing"] not in _SHARING:
                raise self.fail(
                    f"sharing is shared, private or locked, not {self.text('sharing')!r}"
                    f"{did_you_mean(fields['sharing'], _SHARING)}"
                )
        if kind == "tmpfs":
            fields["size"] = self._size()
        return Mount(**fields)

    def _readonly(self, kind: str) -> bool:
        for key in ("readonly", "ro"):
            if key in self.values:
                return self.boolean(key)
        for key in ("readwrite", "rw"):
            if key in self.values:
                return not self.boolean(key)
        return kind in {"bind", "secret"}

    def _secret(self, fields: dict[str, Any], target: str) -> Mount:
        if fields["source"] and fields["id"]:
            raise self.fail("a secret has an id or a source, not both")
        name = fields["id"] or fields["source"] or basename(target)
        if not name:
            raise self.fail("a secret needs an id", "for example --mount=type=secret,id=token")
        env = self.text("env")
        if "env" in self.values and not env:
            env = name
        fields |= {
            "id": name,
            "source": "",
            "target": self._absolute(target or f"/run/secrets/{basename(name)}"),
            "required": "required" in self.values and self.boolean("required"),
            "env": env,
            "as_file": bool(target) or not env,
        }
        return Mount(**fields)

    def _size(self) -> int:
        text = self.text("size").strip().lower()
        if not text:
            return 0
        digits = text.rstrip("ibkmgt")
        unit = text[len(digits) :].removesuffix("ib").removesuffix("b")
        if not (digits.isascii() and digits.isdigit()) or unit not in _SIZES:
            raise self.fail(f"size is no size: {text!r}", "for example 64m or 1g")
        return int(digits) * _SIZES[unit]

    def _absolute(self, path: str) -> str:
        return "/" + normpath(join(self.cwd, path)).lstrip("/")
