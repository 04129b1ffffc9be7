"""`-v`, `--mount` and `--tmpfs` texts as mounts: what is put where, and how. Pure."""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
# accepted because docker's documentation tells people to write them; they mean nothing outside Docker Desktop
_CONSISTENCY = ("consistent", "cached", "delegated", "default")


class MountPoint(Value):
    """One thing to mount. `kind`: "bind" | "volume" | "tmpfs".

    `source` is a path, a volume's name ("": make one), or "" for a tmpfs.
    """

    kind: str
    target: str
    source: str = ""
    read_only: bool = False
    propagation: str = ""
    copy: bool = True  # a fresh volume takes the image's content at `target`
    recursive: bool = True
    create_source: bool = False  # -v makes a missing folder on the host, --mount does not
    options: tuple[str, ...] = ()  # tmpfs options, as mount(8) spells them
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the container's record."""
        return {
            field: getattr(self, field) for field in self._fields if getattr(self, field) != self._defaults.get(field)
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> MountPoint:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = dict(saved)
        for name in ("options", "labels"):
            fields[name] = tuple(fields.get(name, ()))
        return cls(**fields)


def parse_volume(text: str) -> MountPoint:
    """`-v [SOURCE:]TARGET[:OPTION,...]`."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument(f"volume {text!r} is not SOURCE:TARGET[:OPTIONS]", hint="e.g. -v /host/data:/data:ro")
    if len(parts) == 1:
        return MountPoint(kind="volume", target=_target(parts[0], text))
    source, target = parts[0], _target(parts[1], text)
    is_path = _is_path(source)
    flags: dict[str, Any] = {}
    for option in parts[2].split(",") if len(parts) == 3 else ():
        if option in {"ro", "rw", "readonly"}:
            flags["read_only"] = option != "rw"
        elif option in _PROPAGATION and is_path:
            flags["propagation"] = option
        elif option == "nocopy" and not is_path:
            flags["copy"] = False
        elif option not in (*_CONSISTENCY, "z", "Z"):  # z, Z: SELinux labels; without SELinux docker does nothing too
            raise InvalidArgument(
                f"volume {text!r} has the unknown option {option!r}",
                hint="use ro, rw, nocopy (volumes), z, Z or a propagation such as rslave (folders)",
            )
    if is_path:
        return MountPoint(kind="bind", source=source, target=target, create_source=True, **flags)
    return MountPoint(kind="volume", source=volume_name(source), target=target, **flags)


def _is_path(source: str) -> bool:
    return source.startswith(("/", "./", "../", "~/")) or source in {".", "..", "~"}


def parse_mount(text: str) -> MountPoint:
    """`--mount type=bind,source=/a,target=/b,readonly`."""
    fields: dict[str, str] = {}
    labels: list[str] = []
    for part in text.split(","):
        key, _, value = part.partition("=")
        key = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}.get(
            key.lower(), key.lower()
        )
        if key == "volume-label":
            labels.append(value)
        elif key in fields:
            raise InvalidArgument(f"--mount {text!r} says {key} twice")
        else:
            fields[key] = value
    kind = fields.pop("type", "volume")
    if kind not in {"bind", "volume", "tmpfs"}:
        raise InvalidArgument(f"--mount {text!r} has the unknown type {kind!r}", hint="use bind, volume or tmpfs")
    target = _target(fields.pop("target", ""), text)
    read_only = fields.pop("readonly", "false").lower() not in {"false", "0"}
    source = fields.pop("source", "")
    if kind == "tmpfs":
        return _tmpfs_mount(text, target, source, fields, read_only=read_only)
    if kind == "bind":
        if not _is_path(source):
            raise InvalidArgument(
                f"--mount {text!r} needs the path of a source", hint="a path starts with /, ./ or ../, e.g. source=/srv"
            )
        mount = MountPoint(
            kind=kind,
            source=source,
            target=target,
            read_only=read_only,
            propagation=fields.pop("bind-propagation", ""),
            recursive=fields.pop("bind-recursive", "enabled") != "disabled"
            and fields.pop("bind-nonrecursive", "false") not in {"", "true", "1"},
        )
        fields.pop("consistency", None)
    else:
        mount = MountPoint(
            kind=kind,
            source=volume_name(source) if source else "",
            target=target,
            read_only=read_only,
            copy=fields.pop("volume-nocopy", "false") not in {"", "true", "1"},
            labels=tuple(labels),
        )
    return _no_more(text, fields, mount)


def _tmpfs_mount(text: str, target: str, source: str, fields: dict[str, str], *, read_only: bool) -> MountPoint:
    if source:
        raise InvalidArgument(f"--mount {text!r}: a tmpfs has no source")
    options = []
    if "tmpfs-size" in fields:
        options.append(f"size={fields.pop('tmpfs-size')}")
    if "tmpfs-mode" in fields:
        options.append(f"mode={fields.pop('tmpfs-mode')}")
    return _no_more(text, fields, MountPoint(kind="tmpfs", target=target, read_only=read_only, options=tuple(options)))


def _no_more(text: str, fields: dict[str, str], mount: MountPoint) -> MountPoint:
    if fields:
        raise InvalidArgument(f"--mount {text!r} has the unknown field {next(iter(fields))!r}")
    if mount.propagation and mount.propagation not in _PROPAGATION:
        raise InvalidArgument(
            f"--mount {text!r} has the unknown propagation {mount.propagation!r}", hint=f"use {', '.join(_PROPAGATION)}"
        )
    return mount


def parse_tmpfs(text: str) -> MountPoint:
    """`--tmpfs /path[:size=64m,mode=1777]`."""
    target, _, options = text.partition(":")
    return MountPoint(kind="tmpfs", target=_target(target, text), options=tuple(o for o in options.split(",") if o))


def merge(image_volumes: Iterable[str], asked: Iterable[MountPoint]) -> list[MountPoint]:
    """The mounts of a container, parents first: what was asked for, and volumes for the image's VOLUMEs left over."""
    chosen: dict[str, MountPoint] = {}
    for mount in asked:
        if mount.target in chosen:
            raise InvalidArgument(f"two mounts have the target {mount.target}", hint="mount one thing in one place")
        chosen[mount.target] = mount
    for target in image_volumes:
        clean = _target(target, target)
        chosen.setdefault(clean, MountPoint(kind="volume", target=clean))
    return [chosen[target] for target in sorted(chosen, key=lambda path: (path.count("/"), path))]


def volume_name(name: str) -> str:
    """Check a volume's name (docker's rule: a letter or digit, then letters, digits, `_`, `.`, `-`)."""
    if (
        name[:1].isalnum()
        and name.isascii()
        and all(char.isalnum() or char in "_.-" for char in name)
        and len(name) < 256
    ):
        return name
    raise InvalidArgument(
        f"{name!r} is not a volume's name",
        hint="names hold letters, digits, '_', '.', '-'; a folder of the host starts with / or ./",
    )


def _target(path: str, text: str) -> str:
    """A clean absolute path inside the container."""
    if not path.startswith("/"):
        raise InvalidArgument(f"mount {text!r} needs an absolute path in the container", hint="e.g. -v name:/data")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in {"", "."}:
            parts.append(part)
    if not parts:
        raise InvalidArgument(f"mount {text!r} would hide the container's root", hint="choose another path than /")
    return "/" + "/".join(parts)
