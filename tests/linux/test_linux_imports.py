"""What the kernel room's modules may bring along: they are on the way of every `run` and `exec`."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "argparse",
    "asyncio",
    "dataclasses",
    "enum",
    "json",
    "logging",
    "pathlib",
    "re",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "typing",
    "urllib",
}
# ctypes costs 3 ms: what only reads files or names things does without, and so do `ps`, `images` and `run`
WITHOUT_CTYPES = (
    *("capabilities", "cgroups", "cgroupstats", "devices", "files", "hierarchy", "limits", "process", "safepath"),
    *("seccomp", "signals", "sockets", "terminal", "users"),
)
WITH_CTYPES = ("bpf", "mountoptions", "mounts", "namespaces")


@pytest.mark.parametrize("module", [*WITHOUT_CTYPES, *WITH_CTYPES])
def test_a_module_imports_nothing_heavy(module: str) -> None:
    """Importing it loads none of the heavy standard modules, and ctypes only where system calls need it."""
    program = f"import sys; sys.path[:0] = {sys.path!r}; import orlop.linux.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & HEAVY
    assert module in WITH_CTYPES or "ctypes" not in loaded
