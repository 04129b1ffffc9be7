"""The validation programs of OCI's runtime-tools, against orlop-runtime (docs/conformance.md says how they are built)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.peer, pytest.mark.slow]

# What fails here, and why it says nothing of the runtime.
EXCUSED = {
    "delete_resources": "compares the addresses of two numbers, not the numbers",
    "linux_cgroups_pids": "the same",
    "linux_cgroups_relative_pids": "the same",
    "linux_cgroups_memory": "wants limits of kernel memory, which Linux no longer has",
    "linux_cgroups_relative_memory": "the same",
    "linux_cgroups_blkio": "wants weights for block devices, which not every kernel has",
    "linux_cgroups_relative_blkio": "the same",
    "linux_cgroups_network": "wants the controllers net_cls and net_prio, which not every kernel has",
    "linux_cgroups_relative_network": "the same",
    "linux_process_apparmor_profile": "wants AppArmor, and a profile that nobody loaded",
    "misc_props": "runs a program that it has not put into the container",
    "pidfile": "kills a container that may have ended by itself",
    "process_capabilities": "wants capabilities that a machine may withhold from root",
    "process_capabilities_fail": "wants an error for an unknown capability, for which runtime-spec 1.1 wants a warning",
    "process_rlimits": "is told another limit than it asked for, when Go has raised its own",
    "start": "wants success where its own message, and the specification, want an error",
}


@pytest.mark.timeout(1800)
def test_the_specifications_own_programs(tmp_path: Path) -> None:
    """Every program passes, but those that cannot; ORLOP_RUNTIME_VALIDATION is the folder they were built in.

    A program has passed when it exits with 0 and no line of its output begins with "not ok".
    """
    place = os.environ.get("ORLOP_RUNTIME_VALIDATION", "")
    if not place:
        pytest.skip("ORLOP_RUNTIME_VALIDATION does not name a folder of runtime-tools with its programs built")
    programs = sorted(Path(place).glob("validation/*/*.t"))
    failed: dict[str, str] = {}
    for program in programs:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", str(program)],
            cwd=place,
            env={**os.environ, "RUNTIME": str(Path(sys.executable).parent / "orlop-runtime"), "TMPDIR": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=300,
        )
        said = done.stdout.decode(errors="replace")
        if done.returncode or any(line.startswith("not ok") for line in said.splitlines()):
            failed[program.stem] = said[-2000:]

    assert len(programs) >= 50, f"{place} has {len(programs)} programs: see docs/conformance.md"
    assert failed.keys() <= EXCUSED.keys(), {name: said for name, said in failed.items() if name not in EXCUSED}
    print(f"{len(programs) - len(failed)} of {len(programs)} programs pass")
