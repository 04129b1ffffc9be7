"""The `orlop` command over a private root, for tests of whole commands."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Orlop:
    """The `orlop` command over a private root."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.program = [sys.executable, "-m", "orlop"]
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ORLOP_ROOT": str(folder / "root"),
            "ORLOP_RUN_ROOT": str(folder / "run"),
            "DOCKER_CONFIG": str(folder / "docker"),
            **{key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")},
            **environ,
        }

    def run(
        self, *arguments: str, stdin: bytes | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """One command, its output as text; never raises for an exit code."""
        done = subprocess.run(
            [*self.program, *arguments],
            input=stdin,
            capture_output=True,
            env=self.environ,
            timeout=timeout,
            check=False,
            cwd=self.folder,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def __call__(self, *arguments: str, stdin: bytes | None = None, timeout: float = 240) -> str:
        """One command that must succeed; its standard output."""
        done = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"orlop {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def fails(self, *arguments: str, code: int | None = None) -> str:
        """One command that must fail; its standard error."""
        done = self.run(*arguments)
        assert done.returncode != 0, f"orlop {' '.join(arguments)} succeeded:\n{done.stdout}"
        assert "Traceback" not in done.stderr, done.stderr
        if code is not None:
            assert done.returncode == code, done.stderr
        return done.stderr
