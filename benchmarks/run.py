"""Ratios against the peers on this machine: medians of alternating runs, one line a kind of work.

Absolute times drift from hour to hour; a ratio taken in one run holds. All runs in namespaces of its own (network,
mounts, processes), so that nothing stays behind, whatever happens.
Usage: `python benchmarks/run.py [--only WORD] [--rounds N] [--minutes N]`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import engines
import inputs
import serving

PORT = 5891  # the loopback registry of this run


class Case:
    """One kind of work: how to do it once on an engine. `unit` is what `work` returns, "ms" for seconds."""

    def __init__(
        self,
        name: str,
        goal: str,
        work: Callable[[engines.Engine], float],
        *,
        rounds: int = 5,
        unit: str = "ms",
    ) -> None:
        self.name = name
        self.goal = goal
        self.work = work
        self.rounds = rounds
        self.unit = unit

    def shown(self, value: float | None) -> str:
        """One measurement as a column."""
        if value is None:
            return f"{'-':>10}"
        return f"{value * 1000:8.0f}ms" if self.unit == "ms" else f"{value:7.1f}{self.unit}"


class Bench:
    """Everything that the cases share: engines, a registry, images."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        self.registry = f"127.0.0.1:{PORT}"
        self.pushes = 0
        self.server: subprocess.Popen[bytes] | None = None
        self.cgroups = engines.cgroup_parents()
        self.engines: dict[str, engines.Engine] = {}
        for kind in engines.ENGINES:
            if kind.available():
                try:
                    self.engines[kind.name] = kind(folder)
                except RuntimeError as error:
                    print(f"without {kind.name}: {error}", file=sys.stderr)

    @property
    def orlop(self) -> engines.Engine:
        """Ours."""
        return self.engines["orlop"]

    def prepare(self) -> None:
        """The images that every engine gets, and a registry with the Debian image."""
        base = self.folder / "base"
        base.mkdir()
        shutil.copy("/bin/busybox", base / "busybox")
        (base / "Dockerfile").write_text(
            'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\nCMD ["sh"]\n'
        )
        self.orlop.run("build", "-q", "-t", "localhost/busybox", str(base))
        self.orlop.run("save", "-o", str(self.folder / "busybox.tar"), "localhost/busybox")
        for engine in self.peers():
            engine.run("load", "-i", str(self.folder / "busybox.tar"))
        self.server = self.serve(self.registry, self.folder / "registry")
        debian = self.folder / "debian"
        debian.mkdir()
        shutil.copy(inputs.debian_tar(self.cache), debian / "rootfs.tar")
        (debian / "Dockerfile").write_text('FROM scratch\nADD rootfs.tar /\nCMD ["bash"]\n')
        self.orlop.run("build", "-q", "-t", f"{self.registry}/debian:1", str(debian))
        self.orlop.run("push", f"{self.registry}/debian:1")
        inputs.build_context(self.cache / "context", "localhost/busybox")

    def serve(self, address: str, root: Path) -> subprocess.Popen[bytes]:
        """A registry of ours; returns when it answers. Its output goes to a file: nobody would read a pipe."""
        log = root.with_suffix(".log")
        command = self.orlop.command("registry", "serve", "--addr", address, "--root", str(root), "--anonymous")
        with log.open("wb") as output:
            server = subprocess.Popen(command, env=self.orlop.environ, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            if b"listening on" in log.read_bytes():
                return server
            time.sleep(0.02)
        serving.stop(server)
        raise RuntimeError(f"the registry on {address} did not start: {log.read_text(errors='replace')[-500:]}")

    def peers(self) -> list[engines.Engine]:
        """The others."""
        return [engine for name, engine in self.engines.items() if name != "orlop"]

    def close(self) -> None:
        """Stop and remove everything; one that fails to does not keep the others from it."""
        if self.server:
            serving.stop(self.server)
        for engine in self.engines.values():
            try:
                engine.close()
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"{engine.name} was not closed: {error}", file=sys.stderr)
        for path in engines.cgroup_parents() - self.cgroups:
            with contextlib.suppress(OSError):  # somebody else uses it meanwhile
                path.rmdir()

    # --- the work

    def run_bridge(self, engine: engines.Engine) -> float:
        """`run --rm IMAGE true` on the default bridge."""
        return engine.timed("run", "--rm", "localhost/busybox", "true")

    def run_none(self, engine: engines.Engine) -> float:
        """The same without a network."""
        return engine.timed("run", "--rm", "--network", "none", "localhost/busybox", "true")

    def execute(self, engine: engines.Engine) -> float:
        """`exec` in a container that runs."""
        if not engine.run("ps", "-q", "-f", "name=bench-exec").strip():
            engine.run("run", "-d", "--name", "bench-exec", "localhost/busybox", "sleep", "100000")
        return engine.timed("exec", "bench-exec", "true")

    def detached(self, engine: engines.Engine) -> float:
        """Ten containers started in the background, one after the other."""
        started = time.perf_counter()
        names = [f"bench-d{number}" for number in range(10)]
        for name in names:
            engine.run("run", "-d", "--name", name, "localhost/busybox", "sleep", "100000")
        took = time.perf_counter() - started
        engine.run("rm", "-f", *names)
        return took

    def memory(self, engine: engines.Engine) -> float:
        """What watching over an idle container takes."""
        names = [f"bench-m{number}" for number in range(4)]
        try:
            for name in names:
                engine.run("run", "-d", "--name", name, "localhost/busybox", "sleep", "100000")
            time.sleep(1)  # our monitor becomes small once its container runs
            return engine.monitor_memory(names)
        finally:
            engine.run("rm", "-f", *names)

    def images(self, engine: engines.Engine) -> float:
        """`images`."""
        return engine.timed("images")

    def ps(self, engine: engines.Engine) -> float:
        """`ps -a`."""
        return engine.timed("ps", "-a")

    def pull(self, engine: engines.Engine) -> float:
        """Pull the Debian image into a store that has none of it."""
        remove = engine.command("rmi", "-f", f"{self.registry}/debian:1")
        subprocess.run(remove, env=engine.environ, capture_output=True, check=False)
        if engine.name == "orlop":  # its build cache would keep the layers, and the pull would be none
            engine.run("builder", "prune", "-a", "-f")
        return engine.timed("pull", f"{self.registry}/debian:1")

    def push(self, engine: engines.Engine) -> float:
        """Push the Debian image to a registry that is empty."""
        engine.run("pull", f"{self.registry}/debian:1")
        port = PORT + 1 + self.pushes
        self.pushes += 1
        root = self.folder / f"registry-{port}"
        server = self.serve(f"127.0.0.1:{port}", root)
        try:
            name = f"127.0.0.1:{port}/debian:1"
            engine.run("tag", f"{self.registry}/debian:1", name)
            took = engine.timed("push", name)
            engine.run("rmi", name)
        finally:
            serving.stop(server)
            shutil.rmtree(root, ignore_errors=True)
        return took

    def build_cold(self, engine: engines.Engine) -> float:
        """The standard context, nothing cached: not what files hash to, either."""
        inputs.touch(self.cache / "context")
        return engine.timed("build", "--no-cache", "-t", "bench-built", str(self.cache / "context"))

    def build_again(self, engine: engines.Engine) -> float:
        """The standard context, nothing changed."""
        if not engine.run("images", "-q", "bench-built").strip():
            engine.run("build", "-t", "bench-built", str(self.cache / "context"))
        return engine.timed("build", "-t", "bench-built", str(self.cache / "context"))

    def saved(self, engine: engines.Engine) -> Path:
        """Where an engine's own archive of the Debian image is, or comes to be."""
        return self.folder / f"save-{engine.name}.tar"

    def save(self, engine: engines.Engine) -> float:
        """The Debian image as an archive."""
        engine.run("pull", f"{self.registry}/debian:1")
        self.saved(engine).unlink(missing_ok=True)
        return engine.timed("save", "-o", str(self.saved(engine)), f"{self.registry}/debian:1")

    def load(self, engine: engines.Engine) -> float:
        """The archive that the engine itself has saved, when the image is there: as BASELINES' peers did it."""
        if not self.saved(engine).exists():
            self.save(engine)
        return engine.timed("load", "-i", str(self.saved(engine)))

    def cases(self) -> list[Case]:
        """All of them, cheap ones first."""
        return [
            Case("run --rm true, bridge", "<= 0.25", self.run_bridge, rounds=9),
            Case("run --rm true, no network", "<= 0.30", self.run_none, rounds=9),
            Case("exec true", "<= 0.80 docker", self.execute, rounds=9),
            Case("images", "<= 1.5 docker", self.images, rounds=9),
            Case("ps -a", "<= 1.5 docker", self.ps, rounds=9),
            Case("10 x run -d", "<= 0.40 podman", self.detached, rounds=3),
            Case("memory of an idle monitor", "<= 8 MiB", self.memory, rounds=1, unit="MiB"),
            Case("pull debian", "<= 0.35", self.pull, rounds=3),
            Case("push debian", "<= 0.35", self.push, rounds=3),
            Case("build, cold", "<= 0.35", self.build_cold, rounds=3),
            Case("build, nothing changed", "<= 300 ms", self.build_again, rounds=3),
            Case("save debian", "<= 1.0", self.save, rounds=3),
            Case("load debian", "<= 1.0", self.load, rounds=3),
        ]


def measure(bench: Bench, case: Case, rounds: int, until: float) -> dict[str, float]:
    """Medians by engine; the engines take turns, so that a slow minute hits all alike. After `until` one round is all.

    What fails is tried once more: a machine that others share has bad moments, and a line that is lost to one is worth
    nothing. Both times are told.
    """
    values: dict[str, list[float]] = {name: [] for name in bench.engines}
    for number in range(rounds or case.rounds):
        if number and time.monotonic() > until:
            break
        for name, engine in bench.engines.items():
            for _ in range(2):
                try:
                    values[name].append(case.work(engine))
                    break
                except Exception:  # noqa: BLE001  # whatever it is, the other lines are still to come
                    print(f"{case.name}: {name} failed:\n{traceback.format_exc()[-1500:]}", file=sys.stderr)
    return {name: statistics.median(taken) for name, taken in values.items() if taken}


def machine() -> str:
    """What ran this, for whoever reads the numbers."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{os.cpu_count()} x {model.partition(':')[2].strip() or platform.machine()}, "
        f"{'SHA-NI' if 'sha_ni' in flags.split() else 'no SHA-NI'}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def engine_lines(bench: Bench, only: str, rounds: int, deadline: float) -> int:
    """Print the lines of engines; how many have no number of ours."""
    bench.prepare()
    names = list(bench.engines)
    print(f"{'work':28}" + "".join(f"{name:>10}" for name in names) + f"{'ratio':>8}  goal")
    lost = 0
    cases = [case for case in bench.cases() if only in case.name]
    for number, case in enumerate(cases):
        share = (deadline - time.monotonic()) / (len(cases) - number)
        found = measure(bench, case, rounds, time.monotonic() + share)
        others = [value for name, value in found.items() if name != "orlop"]
        ratio = f"{found['orlop'] / min(others):8.2f}" if others and "orlop" in found else f"{'-':>8}"
        lost += "orlop" not in found
        print(f"{case.name:28}{''.join(case.shown(found.get(name)) for name in names)}{ratio}  {case.goal}", flush=True)
    return lost


def registry_lines(bench: Bench, only: str) -> int:
    """Print the lines of registries; how many have no number of ours."""
    lost = 0

    def show(name: str, ours: float | None, theirs: float | None) -> None:
        nonlocal lost
        lost += ours is None
        if only in name or only in "registry":
            cells = "".join(f"{'-':>10}" if value is None else f"{value:10.0f}" for value in (ours, theirs))
            ratio = f"{'-':>8}" if ours is None or not theirs else f"{ours / theirs:8.2f}"
            print(f"{name:28}{cells}{'':10}{ratio}  {serving.LINES[name]}", flush=True)

    print(f"{'registry, 16 connections':28}{'orlop':>10}{'docker-r.':>10}{'':10}{'ratio':>8}  goal")
    for number in range(2):
        try:
            program = bench.orlop.command()[0]
            serving.compare(bench.folder / f"serving-{number}", program, PORT + 100 + 10 * number, show)
        except Exception:  # noqa: BLE001  # as in `measure`
            print(f"registries failed:\n{traceback.format_exc()[-1500:]}", file=sys.stderr)
        else:
            return lost
    return 1


def inside() -> None:
    """Go on in namespaces of our own; returns there. Where that is not permitted, go on as we are, and say so."""
    if os.environ.get("ORLOP_BENCH_INSIDE"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    alone = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        print("no namespaces of our own here: peers may leave bridges and firewall rules behind", file=sys.stderr)
        return
    os.environ["ORLOP_BENCH_INSIDE"] = "yes"
    sys.stdout.flush()
    os.execvp(alone[0], [*alone, sys.executable, *sys.argv])  # this program again


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only cases whose name holds this word")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each case (its own number if 0)")
    parser.add_argument("--minutes", type=float, default=8.0, help="after this time every case has but one round")
    parser.add_argument("--cache", default="/var/tmp/orlop-bench", help="where inputs are kept between runs")
    options = parser.parse_args()
    inputs.debian_tar(Path(options.cache))  # it may need the network, which there is none of inside
    inside()
    deadline = time.monotonic() + options.minutes * 60
    folder = Path(tempfile.mkdtemp(prefix="orlop-bench-", dir="/var/tmp"))
    print(machine(), flush=True)
    bench = Bench(folder, Path(options.cache))
    try:
        lost = 0
        if any(options.only in case.name for case in bench.cases()):
            lost += engine_lines(bench, options.only, options.rounds, deadline)
        if options.only in "registry" or any(options.only in name for name in serving.LINES):
            lost += registry_lines(bench, options.only)
    finally:
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
