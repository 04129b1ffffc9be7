"""Ratios against the peers on this machine: medians of alternating runs, one line a kind of work.

Absolute times drift from hour to hour; a ratio taken in one run holds.
Usage: `python benchmarks/run.py [--only WORD] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import engines
import inputs

PORT = 5891  # the loopback registry of this run


class Case:
    """One kind of work: how to do it once on an engine, and what must be undone before the next time (not timed)."""

    def __init__(
        self,
        name: str,
        goal: str,
        work: Callable[[engines.Engine], float],
        *,
        rounds: int = 5,
        peers: tuple[str, ...] = ("docker", "podman"),
    ) -> None:
        self.name = name
        self.goal = goal
        self.work = work
        self.rounds = rounds
        self.peers = peers


class Bench:
    """Everything that the cases share: engines, a registry, images."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        self.registry = f"127.0.0.1:{PORT}"
        self.pushes = 0
        self.server: subprocess.Popen[bytes] | None = None
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
        """A registry of ours; returns when it answers."""
        server = subprocess.Popen(
            self.orlop.command("registry", "serve", "--addr", address, "--root", str(root), "--anonymous"),
            env=self.orlop.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert server.stdout is not None
        for line in server.stdout:
            if b"listening on" in line:
                return server
        raise RuntimeError(f"the registry on {address} did not start")

    def peers(self) -> list[engines.Engine]:
        """The others."""
        return [engine for name, engine in self.engines.items() if name != "orlop"]

    def close(self) -> None:
        """Stop and remove everything."""
        if self.server:
            self.server.terminate()
            self.server.wait(timeout=30)
        for engine in self.engines.values():
            engine.close()

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
        server = self.serve(f"127.0.0.1:{port}", self.folder / f"registry-{port}")
        try:
            name = f"127.0.0.1:{port}/debian:1"
            engine.run("tag", f"{self.registry}/debian:1", name)
            took = engine.timed("push", name)
            engine.run("rmi", name)
        finally:
            server.terminate()
            server.wait(timeout=30)
        return took

    def build_cold(self, engine: engines.Engine) -> float:
        """The standard context, nothing cached."""
        return engine.timed("build", "--no-cache", "-t", "bench-built", str(self.cache / "context"))

    def build_again(self, engine: engines.Engine) -> float:
        """The standard context, nothing changed."""
        return engine.timed("build", "-t", "bench-built", str(self.cache / "context"))

    def save(self, engine: engines.Engine) -> float:
        """Save the Debian image to a file."""
        engine.run("pull", f"{self.registry}/debian:1")
        target = self.folder / f"{engine.name}.tar"
        target.unlink(missing_ok=True)
        return engine.timed("save", "-o", str(target), f"{self.registry}/debian:1")

    def cases(self) -> list[Case]:
        """All of them, cheap ones first."""
        return [
            Case("run --rm true, bridge", "<= 0.30", self.run_bridge, rounds=9),
            Case("run --rm true, no network", "<= 0.30", self.run_none, rounds=9),
            Case("exec true", "<= 0.80 docker", self.execute, rounds=9),
            Case("images", "<= 1.5 docker", self.images, rounds=9),
            Case("ps -a", "<= 1.5 docker", self.ps, rounds=9),
            Case("10 x run -d", "<= 0.40 podman", self.detached, rounds=3),
            Case("pull debian", "<= 0.60", self.pull, rounds=3),
            Case("push debian", "<= 0.35", self.push, rounds=3),
            Case("build, cold", "<= 0.35", self.build_cold, rounds=1),
            Case("build, nothing changed", "<= 0.5 s", self.build_again, rounds=3),
            Case("save debian", "<= 1.0", self.save, rounds=3),
        ]


def measure(bench: Bench, case: Case, rounds: int) -> dict[str, float]:
    """Median seconds by engine; the engines take turns, so that a slow minute hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in bench.engines}
    for _ in range(rounds or case.rounds):
        for name, engine in bench.engines.items():
            try:
                times[name].append(case.work(engine))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{case.name}: {name} failed: {error}", file=sys.stderr)
    return {name: statistics.median(taken) for name, taken in times.items() if taken}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only cases whose name holds this word")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each case (its own number if 0)")
    parser.add_argument("--cache", default="/var/tmp/orlop-bench", help="where inputs are kept between runs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="orlop-bench-", dir="/var/tmp"))
    bench = Bench(folder, Path(options.cache))
    try:
        bench.prepare()
        names = list(bench.engines)
        print(f"{'work':28}" + "".join(f"{name:>10}" for name in names) + f"{'ratio':>8}  goal")
        for case in bench.cases():
            if options.only not in case.name:
                continue
            found = measure(bench, case, options.rounds)
            others = [seconds for name, seconds in found.items() if name != "orlop"]
            ratio = f"{found['orlop'] / min(others):8.2f}" if others and "orlop" in found else f"{'-':>8}"
            cells = "".join(f"{found[name] * 1000:8.0f}ms" if name in found else f"{'-':>10}" for name in names)
            print(f"{case.name:28}{cells}{ratio}  {case.goal}", flush=True)
    finally:
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
