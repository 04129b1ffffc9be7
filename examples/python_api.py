"""orlop from a Python program: make an image, run it, talk to it, clean up.

Run it as root: `python examples/python_api.py`. It uses a temporary root: nothing that you have is touched.
"""

from __future__ import annotations

import sys
import tempfile
import threading

import orlop


def main() -> int:
    """Make a base image from this machine's shell, run two containers at once, and read what they wrote."""
    with tempfile.TemporaryDirectory(prefix="orlop-example-") as folder:
        with orlop.open(root=f"{folder}/root", run_root=f"{folder}/run") as engine:
            image = engine.images.from_host(orlop.FromHost(name="host/shell", programs=("sh", "cat", "sleep")))
            print(f"made {image.names[0]} ({image.size} bytes)")

            def greet(name: str) -> None:
                engine.containers.run(
                    orlop.CreateContainer(
                        image="host/shell", name=name, command=("sh", "-c", f"echo hello from {name}"), network="none"
                    )
                )

            threads = [threading.Thread(target=greet, args=(name,)) for name in ("starboard", "larboard")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

            for name in ("starboard", "larboard"):
                code = engine.containers.wait(name)
                text = b"".join(line.data for line in engine.containers.logs(orlop.Logs(container=name)))
                print(f"{name} ended with {code} and wrote {text.decode().strip()!r}")

            try:
                engine.containers.inspect("bowsprit")
            except orlop.OrlopError as error:
                print(f"as expected: {error} ({error.kind})")

            removed = engine.system.prune(orlop.Prune(all=True))
            print(f"pruned: {len(removed.actions)} things, {removed.reclaimed} bytes")
        return 0


if __name__ == "__main__":
    sys.exit(main())
