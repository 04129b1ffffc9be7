"""Image configurations (image-spec v1.1, config.md; Docker's image JSON, which is its superset).

Reading and writing again loses nothing: what is not understood is kept in `extra` (top level), `config_extra` (inside
"config") and `History.extra`. Writing is deterministic: keys in one order, sets and maps sorted as Go sorts them.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.oci import jsontext
from orlop.oci.descriptor import string, string_map, strings
from orlop.oci.digest import Digest
from orlop.oci.platform import Platform
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 8 * 1024 * 1024
"""Bytes; docker accepts up to this much (its distribution code reads at most 8 MiB of config)."""

_TOP = frozenset(
    ("created", "author", "architecture", "variant", "os", "os.version", "os.features", "config", "rootfs", "history")
)
_CONFIG = frozenset(
    (
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "Healthcheck",
        "Shell",
        "OnBuild",
        "ArgsEscaped",
    )
)
_HISTORY = frozenset(("created", "created_by", "author", "comment", "empty_layer"))
_HEALTH_TIMES = (
    ("interval", "Interval"),
    ("timeout", "Timeout"),
    ("start_period", "StartPeriod"),
    ("start_interval", "StartInterval"),
    ("retries", "Retries"),
)


class History(Value):
    """How one layer, or one change of the configuration (`empty_layer`), came about."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False
    extra: dict[str, Any] = jsontext.EMPTY

    @classmethod
    def from_json(cls, value: Any, *, what: str) -> History:
        """From one element of "history"."""
        if not isinstance(value, dict):
            raise InvalidArgument(f"{what} is not an object")
        return cls(
            created=string(value, "created", what),
            created_by=string(value, "created_by", what),
            author=string(value, "author", what),
            comment=string(value, "comment", what),
            empty_layer=_boolean(value, "empty_layer", what),
            extra={key: value[key] for key in value if key not in _HISTORY},
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object, empty fields left out."""
        value: dict[str, Any] = {}
        for key in ("created", "created_by", "author", "comment"):
            text = getattr(self, key)
            if text:
                value[key] = text
        if self.empty_layer:
            value["empty_layer"] = True
        return value | self.extra


class Healthcheck(Value):
    """Docker's health check. Times are nanoseconds; 0 means the default."""

    test: tuple[str, ...] = ()  # () inherits; ("NONE",), ("CMD", ...) or ("CMD-SHELL", text)
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0
    extra: dict[str, Any] = jsontext.EMPTY

    @classmethod
    def from_json(cls, value: Any, *, what: str = "healthcheck") -> Healthcheck:
        """From Docker's "Healthcheck" object."""
        if not isinstance(value, dict):
            raise InvalidArgument(f"{what} is not an object")
        numbers: dict[str, int] = {}
        for field, key in _HEALTH_TIMES:
            number = value.get(key)
            number = 0 if number is None else number
            if isinstance(number, float) and number.is_integer():
                number = int(number)
            if not isinstance(number, int) or isinstance(number, bool):
                raise InvalidArgument(f"{what}: {key} is not a whole number")
            numbers[field] = number
        known = {"Test", *(key for _, key in _HEALTH_TIMES)}
        return cls(
            test=strings(value, "Test", what) or (),
            extra={key: value[key] for key in value if key not in known},
            **numbers,
        )

    def to_json(self) -> dict[str, Any]:
        """Docker's object, zeros left out."""
        value: dict[str, Any] = {}
        if self.test:
            value["Test"] = list(self.test)
        for field, key in _HEALTH_TIMES:
            if getattr(self, field):
                value[key] = getattr(self, field)
        return value | self.extra


class ImageConfig(Value):
    """What an image is and how its program starts.

    `env`, `entrypoint`, `cmd`, `shell` are None where the image says nothing, which is not the same as () (an empty
    entrypoint clears an inherited one). `exposed_ports` ("80/tcp") and `volumes` (paths) are sorted. `labels`, `extra`
    and `config_extra` are read-only by agreement: change them with `replace`.
    """

    platform: Platform
    created: str = ""  # RFC 3339
    author: str = ""
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    working_dir: str = ""
    labels: dict[str, str] = jsontext.EMPTY
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] = ()
    args_escaped: bool = False
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    extra: dict[str, Any] = jsontext.EMPTY
    config_extra: dict[str, Any] = jsontext.EMPTY

    @classmethod
    def parse(cls, raw: bytes, *, what: str = "the image's configuration") -> ImageConfig:
        """From the bytes of a config blob."""
        return cls.from_json(jsontext.loads(raw, what=what, limit=MAX_BYTES), what=what)

    @classmethod
    def from_json(cls, value: Any, *, what: str = "the image's configuration") -> ImageConfig:
        """From its JSON object; InvalidArgument names the field that is wrong."""
        if not isinstance(value, dict):
            raise InvalidArgument(f"{what} is a JSON {jsontext.kind_of(value)}, not an object")
        config = value.get("config")
        config = {} if config is None else config
        if not isinstance(config, dict):
            raise InvalidArgument(f"{what}: config is not an object")
        health = config.get("Healthcheck")
        return cls(
            platform=Platform.from_json(value, what=what),
            created=string(value, "created", what),
            author=string(value, "author", what),
            env=strings(config, "Env", what),
            entrypoint=_words(config, "Entrypoint", what),
            cmd=_words(config, "Cmd", what),
            user=string(config, "User", what),
            working_dir=string(config, "WorkingDir", what),
            labels=string_map(config, "Labels", what) or {},
            exposed_ports=_set(config, "ExposedPorts", what),
            volumes=_set(config, "Volumes", what),
            stop_signal=string(config, "StopSignal", what),
            healthcheck=None if health is None else Healthcheck.from_json(health, what=f"{what}: Healthcheck"),
            shell=strings(config, "Shell", what),
            on_build=strings(config, "OnBuild", what) or (),
            args_escaped=_boolean(config, "ArgsEscaped", what),
            diff_ids=_diff_ids(value, what),
            history=_history(value, what),
            extra={key: value[key] for key in value if key not in _TOP},
            config_extra={key: config[key] for key in config if key not in _CONFIG},
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object: deterministic, empty fields left out, unknown ones kept at the end of their object."""
        value: dict[str, Any] = {}
        if self.created:
            value["created"] = self.created
        if self.author:
            value["author"] = self.author
        value |= self.platform.to_json()
        value["config"] = self.config_json()
        value["rootfs"] = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in self.diff_ids]}
        if self.history:
            value["history"] = [entry.to_json() for entry in self.history]
        return value | self.extra

    def config_json(self) -> dict[str, Any]:
        """The "config" part: what docker inspect shows as .Config."""
        config: dict[str, Any] = {}
        if self.user:
            config["User"] = self.user
        if self.exposed_ports:
            config["ExposedPorts"] = {port: {} for port in sorted(self.exposed_ports)}
        for key, words in (("Env", self.env), ("Entrypoint", self.entrypoint), ("Cmd", self.cmd)):
            if words is not None:
                config[key] = list(words)
        if self.volumes:
            config["Volumes"] = {path: {} for path in sorted(self.volumes)}
        if self.working_dir:
            config["WorkingDir"] = self.working_dir
        if self.labels:
            config["Labels"] = dict(sorted(self.labels.items()))
        if self.stop_signal:
            config["StopSignal"] = self.stop_signal
        if self.args_escaped:
            config["ArgsEscaped"] = True
        if self.healthcheck is not None:
            config["Healthcheck"] = self.healthcheck.to_json()
        if self.on_build:
            config["OnBuild"] = list(self.on_build)
        if self.shell is not None:
            config["Shell"] = list(self.shell)
        return config | self.config_extra

    def to_bytes(self) -> bytes:
        """The bytes of a config blob."""
        return jsontext.dumps(self.to_json())


def _boolean(value: dict[str, Any], key: str, what: str) -> bool:
    found = value.get(key)
    if found is None:
        return False
    if not isinstance(found, bool):
        raise InvalidArgument(f"{what}: {key} is a {jsontext.kind_of(found)}, not true or false")
    return found


def _words(value: dict[str, Any], key: str, what: str) -> tuple[str, ...] | None:
    """Docker accepts one string where it means an array of one."""
    found = value.get(key)
    return (found,) if isinstance(found, str) else strings(value, key, what)


def _set(value: dict[str, Any], key: str, what: str) -> tuple[str, ...]:
    """Go writes a set as an object of empty objects."""
    found = value.get(key)
    if found is None:
        return ()
    if not isinstance(found, dict):
        raise InvalidArgument(f"{what}: {key} is not an object")
    return tuple(sorted(found))


def _diff_ids(value: dict[str, Any], what: str) -> tuple[Digest, ...]:
    rootfs = value.get("rootfs")
    if rootfs is None:
        return ()
    if not isinstance(rootfs, dict) or rootfs.get("type", "layers") != "layers":
        raise InvalidArgument(f"{what}: rootfs is not of type 'layers'")
    try:
        return tuple(Digest.parse(text) for text in strings(rootfs, "diff_ids", what) or ())
    except InvalidArgument as error:
        raise InvalidArgument(f"{what}: {error.message}") from error


def _history(value: dict[str, Any], what: str) -> tuple[History, ...]:
    found = value.get("history")
    if found is None:
        return ()
    if not isinstance(found, list):
        raise InvalidArgument(f"{what}: history is not an array")
    return tuple(History.from_json(entry, what=f"{what}: history[{at}]") for at, entry in enumerate(found))
