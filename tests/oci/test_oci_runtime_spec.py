"""The laws of runtime_spec.validate."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop.oci.runtime_spec import validate, validate_process

if TYPE_CHECKING:
    from pathlib import Path

SPEC: dict[str, Any] = {
    "ociVersion": "1.0.2-dev",
    "process": {
        "terminal": True,
        "user": {"uid": 0, "gid": 0, "additionalGids": [1]},
        "args": ["sh"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "h",
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
    "hooks": {"prestart": [{"path": "/bin/true", "args": ["true"], "timeout": 3}]},
    "annotations": {"a": "b"},
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}],
            "memory": {"limit": -1, "swap": 1},
            "cpu": {"shares": 2, "quota": -1, "cpus": "0-1"},
            "unified": {"memory.high": "1"},
        },
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "1", "kernel/msgmax": "2"},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}],
                }
            ],
        },
        "maskedPaths": ["/proc/kcore"],
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438}],
    },
    "x-unknown": {"anything": [1]},
}


def test_a_full_spec_is_valid() -> None:
    """What docker, podman and crun write passes; unknown fields and nulls do, too."""
    validate(SPEC)
    validate(SPEC | {"hooks": None, "annotations": None})
    validate_process(SPEC["process"])


@pytest.mark.peer
@pytest.mark.parametrize("program", ["runc", "crun"])
def test_what_peers_write_is_valid(program: str, tmp_path: Path) -> None:
    """The default specs of other runtimes, root's and rootless, pass."""
    assert shutil.which(program)
    for flags in ([], ["--rootless"]):
        subprocess.run([program, "spec", *flags], cwd=tmp_path, check=True)
        validate(json.loads((tmp_path / "config.json").read_text()))
        (tmp_path / "config.json").unlink()


def changed(path: str, value: object) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    *way, last = path.split("/")
    place: Any = spec
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    if isinstance(place, list):
        place[int(last)] = value
    elif value is ...:
        del place[last]
    else:
        place[last] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ociVersion", ...),
        ("ociVersion", "2.0.0"),
        ("ociVersion", "one"),
        ("root", ...),
        ("root/path", ""),
        ("process/cwd", "rel"),
        ("process/cwd", ...),
        ("process/args", []),
        ("process/args", ["a\0b"]),
        ("process/args", "sh"),
        ("process/env", ["=x"]),
        ("process/env/0", "A=\0"),
        ("process/user/uid", -1),
        ("process/user/uid", 1 << 32),
        ("process/user/uid", "root"),
        ("process/user/umask", 0o1777),
        ("process/oomScoreAdj", 1001),
        ("process/rlimits", [{"type": "RLIMIT_NOFILE", "hard": 1, "soft": 1}] * 2),
        ("process/rlimits/0/hard", -1),
        ("process/terminal", "yes"),
        ("mounts/0/destination", ...),
        ("mounts/0/options", "nosuid"),
        ("hooks/prestart/0/path", "true"),
        ("hooks/prestart/0/timeout", 0),
        ("annotations/a", 1),
        ("linux/namespaces", [{"type": "pid"}, {"type": "pid"}]),
        ("linux/namespaces/0/type", "what"),
        ("linux/namespaces", [{"type": "mount"}]),
        ("linux/uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}]),
        ("linux/sysctl", {"kernel.panic": "1"}),
        ("linux/sysctl", {"vm.overcommit_memory": "1"}),
        ("linux/sysctl", {"net..x": "1"}),
        ("linux/sysctl", {"user.max_user_namespaces": "1"}),
        ("linux/timeOffsets", {"monotonic": {"secs": 1}}),
        ("linux/resources/memory/swappiness", 101),
        ("linux/resources/unified/a", 1),
        ("linux/seccomp/defaultAction", "ALLOW"),
        ("linux/seccomp/syscalls/0/names", []),
        ("linux/seccomp/syscalls/0/args/0/index", 6),
        ("linux/devices/0/type", "x"),
        ("linux/devices/0/path", "dev/fuse"),
        ("linux/maskedPaths", ["proc/kcore"]),
        ("linux/rootfsPropagation", "most"),
    ],
)
def test_bad_specs_are_refused_by_field(path: str, value: object) -> None:
    """Every rule broken alone is InvalidArgument that names the field."""
    with pytest.raises(InvalidArgument) as caught:
        validate(changed(path, value))
    named = [word for word in path.split("/") if not word.isdigit()]
    assert any(word in caught.value.message for word in named + ["uts", "namespace"])  # noqa: RUF005  # reads better


@given(
    st.sampled_from(["process", "root", "mounts", "hooks", "linux", "process/user", "linux/seccomp", "linux/sysctl"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
)
def test_no_json_makes_validation_crash(path: str, value: object) -> None:
    """Whatever stands in a field: valid, or InvalidArgument."""
    try:
        validate(changed(path, value))
    except InvalidArgument:
        return
