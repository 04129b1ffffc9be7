"""The engines that are compared, each over a root of its own: orlop, and the peers that this machine has."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


def cgroup_parents() -> set[Path]:
    """The cgroups that engines make for all their containers, as far as they are there; engines do not remove them."""
    top = Path("/sys/fs/cgroup")
    places = [top, *(path for path in top.iterdir() if path.is_dir())]
    return {
        place / name for place in places for name in ("docker", "libpod_parent", "orlop") if (place / name).is_dir()
    }


class Engine:
    """One engine's command line."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.environ = {**os.environ, "HOME": str(self.folder), "DOCKER_BUILDKIT": "0", "DOCKER_CLI_HINTS": "false"}
        # What pip installs is compiled; with this variable, everything would be compiled again for each command.
        self.environ.pop("PYTHONDONTWRITEBYTECODE", None)

    @staticmethod
    def available() -> bool:
        """Whether it is installed."""
        return True

    def command(self, *arguments: str) -> list[str]:
        """The argument list of one command."""
        raise NotImplementedError

    def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run one command that must succeed; its output."""
        done = subprocess.run(
            self.command(*arguments), env=self.environ, input=stdin, capture_output=True, check=False, timeout=180
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} {' '.join(arguments)}: {done.returncode}\n{said}")
        return done.stdout.decode(errors="replace")

    def timed(self, *arguments: str) -> float:
        """Seconds that one command takes."""
        started = time.perf_counter()
        self.run(*arguments)
        return time.perf_counter() - started

    def monitor_memory(self, names: list[str]) -> float:
        """MiB (PSS) of the process that watches over a container, the mean of several."""
        total = 0
        for name in names:
            pid = int(self.run("inspect", "--format", "{{.State.Pid}}", name))
            watcher = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            lines = Path(f"/proc/{watcher}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024 / len(names)

    def close(self) -> None:
        """Stop what was started, remove what was made."""


class Orlop(Engine):
    """This project, from the same environment as the benchmark."""

    name = "orlop"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.program = str(Path(sys.executable).parent / "orlop")
        self.environ |= {
            "ORLOP_ROOT": str(self.folder / "root"),
            "ORLOP_RUN_ROOT": str(self.folder / "run"),
            "DOCKER_CONFIG": str(self.folder / "docker"),
        }

    def command(self, *arguments: str) -> list[str]:
        return [self.program, *arguments]

    def close(self) -> None:
        names = self.run("ps", "-aq").split()
        if names:
            self.run("rm", "-f", *names)
        self.run("internal", "teardown")


class Podman(Engine):
    """podman over a private root; needs v1's hugetlb hierarchy and small ulimits on machines like ours."""

    name = "podman"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.mounted = False
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and not os.path.ismount("/sys/fs/cgroup/hugetlb"):
            Path("/sys/fs/cgroup/hugetlb").mkdir(exist_ok=True)
            mount = ["mount", "-t", "cgroup", "-o", "hugetlb", "none", "/sys/fs/cgroup/hugetlb"]
            self.mounted = subprocess.run(mount, check=False).returncode == 0
        config = self.folder / "containers.conf"
        config.write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
        )
        (self.folder / "registries.conf").write_text('[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n')
        (self.folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.environ |= {
            "CONTAINERS_CONF": str(config),
            "CONTAINERS_REGISTRIES_CONF": str(self.folder / "registries.conf"),
        }

    @staticmethod
    def available() -> bool:
        return shutil.which("podman") is not None

    def command(self, *arguments: str) -> list[str]:
        base = ["podman", "--root", str(self.folder / "root"), "--runroot", str(self.folder / "run")]
        if arguments[0] in {"pull", "push", "login"}:
            arguments = (arguments[0], "--tls-verify=false", *arguments[1:])
        return [*base, *arguments]

    def close(self) -> None:
        subprocess.run(self.command("rm", "-fa"), env=self.environ, capture_output=True, check=False)
        subprocess.run(self.command("system", "reset", "-f"), env=self.environ, capture_output=True, check=False)
        if self.mounted:
            for path, _, _ in os.walk("/sys/fs/cgroup/hugetlb", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            subprocess.run(["umount", "/sys/fs/cgroup/hugetlb"], check=False)


class Docker(Engine):
    """docker with a dockerd of its own."""

    name = "docker"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.socket = f"unix://{self.folder}/docker.sock"
        log = (self.folder / "dockerd.log").open("wb")
        self.daemon = subprocess.Popen(
            [
                "dockerd", "--data-root", str(self.folder / "root"), "--exec-root", str(self.folder / "run"),
                "--pidfile", str(self.folder / "pid"), "-H", self.socket,
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
        for _ in range(300):
            if subprocess.run(self.command("version"), capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        self.close()
        raise RuntimeError(f"dockerd did not start: see {self.folder}/dockerd.log")

    @staticmethod
    def available() -> bool:
        return shutil.which("dockerd") is not None and shutil.which("docker") is not None

    def command(self, *arguments: str) -> list[str]:
        program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
        return [program, "-H", self.socket, *arguments]

    def close(self) -> None:
        self.daemon.terminate()
        try:
            self.daemon.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()


ENGINES: tuple[type[Engine], ...] = (Orlop, Docker, Podman)
