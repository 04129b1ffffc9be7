"""What a shim is asked for: plain values, so that they can travel to another process as JSON."""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.oci import jsontext
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

VERSION = 1


class RootMount(Value):
    """How a container's root file system comes to be; made in the container's own mount namespace only.

    `fstype` "overlay" takes `lowers` (topmost first), `upper` and `work` ("" both: read-only); "bind" takes `source`;
    anything else is a file system of that type with `source`. `options` are those of mount(8).
    """

    fstype: str
    source: str = ""
    lowers: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""
    options: tuple[str, ...] = ()


class HealthProbe(Value):
    """A program that the monitor runs again and again; times in nanoseconds. Its exit code 0 means healthy.

    `changed_argv` is run whenever the health changes, with "healthy" or "unhealthy" as one more word.
    """

    argv: tuple[str, ...]
    interval: int = 30_000_000_000
    timeout: int = 30_000_000_000
    retries: int = 3
    start_period: int = 0
    start_interval: int = 0  # between probes while the start period runs; 0: as `interval`
    changed_argv: tuple[str, ...] = ()


class ShimRequest(Value):
    """One container to be created and watched.

    `bundle` holds config.json. `shim_dir` is an existing private folder for the socket (attach.sock) and the records
    (exit.json, health.json). `state_root` is the runtime's. `root` is mounted on the spec's root.path, or is None when
    the root file system is there already. `exit_argv` is run in a fresh process after the end, with `environment`,
    unless a foreground client settles. `runtime` is the command line of an external OCI runtime, () for our own.
    """

    id: str
    bundle: str
    state_root: str
    shim_dir: str
    root: RootMount | None = None
    terminal: bool = False
    console_size: tuple[int, int] = (0, 0)  # rows, columns
    open_stdin: bool = False
    stdin_once: bool = False  # the first client's end of input is the container's
    inherit_stdio: bool = False  # the container gets the caller's descriptors themselves; nothing is logged
    log_path: str = ""
    log_format: str = "json-file"  # json-file | cri | none
    log_max_size: int = 0  # bytes; 0: no limit
    log_max_files: int = 1
    exit_argv: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    runtime: tuple[str, ...] = ()
    health: HealthProbe | None = None

    def to_json(self) -> bytes:
        """The request as JSON text with its version."""
        fields: dict[str, Any] = {field: getattr(self, field) for field in self._fields}
        for name in ("root", "health"):
            inner = fields[name]
            if inner is not None:
                fields[name] = {field: getattr(inner, field) for field in inner._fields}
        return jsontext.dumps({"version": VERSION} | fields)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The request that `to_json` wrote; InvalidArgument for another version or other fields."""
        fields = jsontext.load_object(data, what="the shim request")
        if fields.pop("version", None) != VERSION:
            raise InvalidArgument("the shim request has another version", hint="restart the program that starts shims")
        try:
            if fields["root"] is not None:
                fields["root"] = RootMount(**_tuples(fields["root"]))
            if fields["health"] is not None:
                fields["health"] = HealthProbe(**_tuples(fields["health"]))
            return cls(**_tuples(fields))
        except (KeyError, TypeError) as error:
            raise InvalidArgument(f"the shim request is not one: {error}") from error


class ExecRequest(Value):
    """A program to be started in a running container. `process` is the runtime-spec's process object as JSON text."""

    container_id: str
    state_root: str
    process: bytes
    timeout: float = 0.0  # seconds; 0: none

    def process_object(self) -> dict[str, Any]:
        """The process object."""
        return jsontext.load_object(self.process, what="the process to be executed")

    def to_json(self) -> bytes:
        """The request as JSON text with its version."""
        fields = {"container_id": self.container_id, "state_root": self.state_root, "timeout": self.timeout}
        return jsontext.dumps({"version": VERSION, **fields, "process": self.process_object()})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The request that `to_json` wrote; InvalidArgument for another version or other fields."""
        fields = jsontext.load_object(data, what="the exec request")
        if fields.pop("version", None) != VERSION:
            raise InvalidArgument("the exec request has another version", hint="restart the program that starts shims")
        try:
            return cls(**fields | {"process": jsontext.dumps(fields["process"])})
        except (KeyError, TypeError) as error:
            raise InvalidArgument(f"the exec request is not one: {error}") from error


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON arrays back as the tuples they were."""
    return {name: _tuple(value) for name, value in fields.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value
