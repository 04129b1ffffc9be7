"""Rules a container's config.json must keep (runtime-spec v1.2, config.md and config-linux.md).

A spec stays the JSON object it is; `validate` checks what the programs that read it rely on: the types of all known
fields, that no text holds a NUL (the kernel would see something else than was checked), ranges of ids and numbers,
and the rules that a hostile spec may break. Unknown fields are allowed, as the specification demands. Whether a thing
exists on this machine (a capability, a path) is not known here.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.oci.jsontext import kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Check: TypeAlias = Callable[[object, str], None]

NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
SECCOMP_ACTIONS = (
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
)
SECCOMP_OPERATORS = (
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
)
PROPAGATIONS = ("shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_IPC_SYSCTL = (("fs", "mqueue"), ("kernel", "sem"))
_ID_LIMIT = 1 << 32


def validate(spec: Any) -> None:
    """Raise InvalidArgument, naming the field, unless `spec` is a config.json that can be meant."""
    _SPEC(spec, "")
    version = spec["ociVersion"].partition("-")[0].split(".")
    if len(version) != 3 or not all(part.isdecimal() for part in version):
        raise InvalidArgument(f"ociVersion {spec['ociVersion']!r} is not a version like 1.2.0")
    if version[0] != "1":
        raise InvalidArgument(f"ociVersion {spec['ociVersion']} is not one that orlop knows (1.x)")
    limits = [limit["type"] for limit in (spec.get("process") or {}).get("rlimits") or ()]
    for limit in limits:
        if limits.count(limit) > 1:
            raise InvalidArgument(f"process.rlimits has {limit!r} twice")
    linux = spec.get("linux") or {}
    _check_namespaces(spec, linux)


def _check_namespaces(spec: dict[str, Any], linux: dict[str, Any]) -> None:
    kinds = [entry["type"] for entry in linux.get("namespaces") or ()]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise InvalidArgument(f"linux.namespaces has {kind!r} twice")
    if (linux.get("uidMappings") or linux.get("gidMappings")) and "user" not in kinds:
        raise InvalidArgument("linux.uidMappings and gidMappings need a user namespace in linux.namespaces")
    # Neither is what `crun spec --rootless` writes: the runtime then maps its caller to root.
    if bool(linux.get("uidMappings")) != bool(linux.get("gidMappings")):
        raise InvalidArgument("linux.uidMappings and linux.gidMappings go together, and only one is there")
    if linux.get("timeOffsets") and "time" not in kinds:
        raise InvalidArgument("linux.timeOffsets needs a time namespace in linux.namespaces")
    if spec.get("hostname") and "uts" not in kinds:
        raise InvalidArgument("hostname needs a uts namespace in linux.namespaces: it would rename the host")
    if spec.get("domainname") and "uts" not in kinds:
        raise InvalidArgument("domainname needs a uts namespace in linux.namespaces: it would rename the host")
    _check_sysctl(linux.get("sysctl") or {}, kinds)


def validate_process(process: Any) -> None:
    """As `validate`, for a process object alone (`exec --process`)."""
    _PROCESS(process, "process")


def _check_sysctl(sysctl: dict[str, str], kinds: list[str]) -> None:
    """A sysctl that no namespace of the container's own holds would change the host."""
    for name in sysctl:
        # Both spellings are in use: net.ipv4.ip_forward and net/ipv4/ip_forward.
        words = name.replace("/", ".").split(".")
        if "" in words or len(words) < 2:
            raise InvalidArgument(f"linux.sysctl has the name {name!r}, which is not one")
        room = words[0]
        if room == "net":
            needed = "network"
        elif (room, words[1]) in _IPC_SYSCTL or (room == "kernel" and words[1].startswith(("shm", "msg"))):
            needed = "ipc"
        elif room == "kernel" and words[1] in ("hostname", "domainname"):
            needed = "uts"
        elif room == "user":
            needed = "user"
        else:
            raise InvalidArgument(f"sysctl {name} is not kept apart by any namespace: it would change the host")
        if needed not in kinds:
            raise InvalidArgument(f"sysctl {name} needs a {needed} namespace in linux.namespaces")


def _fail(path: str, value: object, wanted: str) -> InvalidArgument:
    shown = f"a {kind_of(value)}" if not isinstance(value, (str, int)) or isinstance(value, bool) else repr(value)
    return InvalidArgument(f"{path or 'config.json'} is {shown}, not {wanted}")


def _text(value: object, path: str) -> None:
    if not isinstance(value, str):
        raise _fail(path, value, "a string")
    if "\0" in value:
        raise InvalidArgument(f"{path} holds a NUL character")


def _word(value: object, path: str) -> None:
    _text(value, path)
    if not value:
        raise InvalidArgument(f"{path} is empty")


def _absolute(value: object, path: str) -> None:
    _text(value, path)
    if not str(value).startswith("/"):
        raise _fail(path, value, "an absolute path")


def _variable(value: object, path: str) -> None:
    _text(value, path)
    if str(value).startswith("="):
        raise _fail(path, value, "NAME=value")


def _flag(value: object, path: str) -> None:
    if not isinstance(value, bool):
        raise _fail(path, value, "true or false")


def _whole(low: int, high: int) -> Check:
    def check(value: object, path: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _fail(path, value, "a whole number")
        if not low <= value <= high:
            raise _fail(path, value, f"between {low} and {high}")

    return check


def _one_of(words: tuple[str, ...]) -> Check:
    def check(value: object, path: str) -> None:
        if value not in words:
            raise _fail(path, value, f"one of {', '.join(words)}")

    return check


def _each(element: Check) -> Check:
    def check(value: object, path: str) -> None:
        if not isinstance(value, list):
            raise _fail(path, value, "an array")
        for index, item in enumerate(value):
            element(item, f"{path}[{index}]")

    return check


def _filled(element: Check) -> Check:
    inner = _each(element)

    def check(value: object, path: str) -> None:
        inner(value, path)
        if not value:
            raise InvalidArgument(f"{path} is an empty array")

    return check


def _mapping(element: Check) -> Check:
    def check(value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise _fail(path, value, "an object")
        for key, item in value.items():
            _text(key, path)
            element(item, f"{path}.{key}")

    return check


def _object(required: tuple[str, ...] = (), /, **fields: Check) -> Check:
    """An object whose `fields` hold; null counts as missing, as Go reads it."""

    def check(value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise _fail(path, value, "an object")
        dot = f"{path}." if path else ""
        for key in required:
            if value.get(key) is None:
                raise InvalidArgument(f"{dot}{key} is missing")
        for key, item in value.items():
            inner = fields.get(key)
            if inner is not None and item is not None:
                inner(item, dot + key)

    return check


def _anything(value: object, path: str) -> None:
    """Checked by whoever uses it."""


_ID = _whole(0, _ID_LIMIT - 1)
_INT = _whole(-(1 << 63), (1 << 63) - 1)
_UINT = _whole(0, (1 << 64) - 1)
_TEXTS = _each(_text)
_CAPABILITIES = _each(_word)
_MAPPINGS = _each(_object(("containerID", "hostID", "size"), containerID=_ID, hostID=_ID, size=_whole(1, _ID_LIMIT)))
_HOOK = _object(("path",), path=_absolute, args=_TEXTS, env=_each(_variable), timeout=_whole(1, 1 << 31))

_PROCESS = _object(
    ("cwd",),
    terminal=_flag,
    consoleSize=_object(("height", "width"), height=_UINT, width=_UINT),
    cwd=_absolute,
    env=_each(_variable),
    args=_filled(_text),
    commandLine=_text,
    rlimits=_each(_object(("type", "soft", "hard"), type=_word, soft=_UINT, hard=_UINT)),
    apparmorProfile=_text,
    capabilities=_object(
        effective=_CAPABILITIES,
        bounding=_CAPABILITIES,
        inheritable=_CAPABILITIES,
        permitted=_CAPABILITIES,
        ambient=_CAPABILITIES,
    ),
    noNewPrivileges=_flag,
    oomScoreAdj=_whole(-1000, 1000),
    scheduler=_object(("policy",), policy=_word, nice=_whole(-20, 19), priority=_INT, flags=_TEXTS, runtime=_UINT),
    selinuxLabel=_text,
    ioPriority=_object(("class",), priority=_whole(0, 7), **{"class": _word}),
    execCPUAffinity=_object(initial=_text, final=_text),
    user=_object(uid=_ID, gid=_ID, umask=_whole(0, 0o777), additionalGids=_each(_ID)),
)

_DEVICE_LIMITS = _each(
    _object(("major", "minor"), major=_INT, minor=_INT, rate=_UINT, weight=_whole(0, 1000), leafWeight=_whole(0, 1000))
)
_RESOURCES = _object(
    devices=_each(_object(("allow",), allow=_flag, type=_text, major=_INT, minor=_INT, access=_text)),
    memory=_object(
        limit=_INT,
        reservation=_INT,
        swap=_INT,
        kernel=_INT,
        kernelTCP=_INT,
        swappiness=_whole(0, 100),
        disableOOMKiller=_flag,
        useHierarchy=_flag,
        checkBeforeUpdate=_flag,
    ),
    cpu=_object(
        shares=_UINT,
        quota=_INT,
        burst=_UINT,
        period=_UINT,
        realtimeRuntime=_INT,
        realtimePeriod=_UINT,
        cpus=_text,
        mems=_text,
        idle=_INT,
    ),
    pids=_object(limit=_INT),
    blockIO=_object(
        weight=_whole(0, 1000),
        leafWeight=_whole(0, 1000),
        weightDevice=_DEVICE_LIMITS,
        throttleReadBpsDevice=_DEVICE_LIMITS,
        throttleWriteBpsDevice=_DEVICE_LIMITS,
        throttleReadIOPSDevice=_DEVICE_LIMITS,
        throttleWriteIOPSDevice=_DEVICE_LIMITS,
    ),
    hugepageLimits=_each(_object(("pageSize", "limit"), pageSize=_word, limit=_UINT)),
    network=_object(classID=_ID, priorities=_each(_object(("name", "priority"), name=_word, priority=_ID))),
    rdma=_mapping(_object(hcaHandles=_ID, hcaObjects=_ID)),
    unified=_mapping(_text),
)
_SECCOMP = _object(
    ("defaultAction",),
    defaultAction=_one_of(SECCOMP_ACTIONS),
    defaultErrnoRet=_whole(0, 4095),
    architectures=_each(_word),
    flags=_each(_word),
    listenerPath=_text,
    listenerMetadata=_text,
    syscalls=_each(
        _object(
            ("names", "action"),
            names=_filled(_word),
            action=_one_of(SECCOMP_ACTIONS),
            errnoRet=_whole(0, 65535),
            args=_each(
                _object(
                    ("index", "value", "op"),
                    index=_whole(0, 5),
                    value=_UINT,
                    valueTwo=_UINT,
                    op=_one_of(SECCOMP_OPERATORS),
                )
            ),
        )
    ),
)
_LINUX = _object(
    devices=_each(
        _object(
            ("type", "path"),
            type=_one_of(("c", "b", "u", "p")),
            path=_absolute,
            major=_INT,
            minor=_INT,
            fileMode=_whole(0, 0o7777777),
            uid=_ID,
            gid=_ID,
        )
    ),
    uidMappings=_MAPPINGS,
    gidMappings=_MAPPINGS,
    sysctl=_mapping(_text),
    cgroupsPath=_text,
    resources=_RESOURCES,
    rootfsPropagation=_one_of(("", *PROPAGATIONS)),
    seccomp=_SECCOMP,
    namespaces=_each(_object(("type",), type=_one_of(NAMESPACES), path=_text)),
    maskedPaths=_each(_absolute),
    readonlyPaths=_each(_absolute),
    mountLabel=_text,
    intelRdt=_object(closID=_text, l3CacheSchema=_text, memBwSchema=_text),
    personality=_object(("domain",), domain=_one_of(("LINUX", "LINUX32")), flags=_TEXTS),
    timeOffsets=_mapping(_object(secs=_INT, nanosecs=_whole(0, 999_999_999))),
)
_SPEC = _object(
    ("ociVersion", "root"),
    ociVersion=_word,
    process=_PROCESS,
    root=_object(("path",), path=_word, readonly=_flag),
    hostname=_text,
    domainname=_text,
    mounts=_each(
        _object(
            ("destination",),
            destination=_word,
            type=_text,
            source=_text,
            options=_TEXTS,
            uidMappings=_MAPPINGS,
            gidMappings=_MAPPINGS,
        )
    ),
    hooks=_object(**dict.fromkeys(HOOKS, _each(_HOOK))),
    annotations=_mapping(_text),
    linux=_LINUX,
    solaris=_anything,
    windows=_anything,
    vm=_anything,
    zos=_anything,
)
