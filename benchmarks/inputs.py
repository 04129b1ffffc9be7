"""The two standard inputs, made deterministically: a Debian image and a build context."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

SEED = 20260101
DOCKERFILE = """\
FROM {base} AS work
COPY folders /src
RUN cat /src/*/* | wc -c > /size
RUN ls -R /src | wc -l > /count
COPY big /big

FROM {base}
COPY --from=work /src /app/src
COPY --from=work /size /count /app/
COPY start.sh /app/start.sh
RUN chmod 0755 /app/start.sh
RUN mkdir -p /var/data
ENV MODE=bench
WORKDIR /app
USER 1000
CMD ["/app/start.sh"]
"""


def build_context(folder: Path, base: str) -> Path:
    """5000 files of 200 to 8000 random bytes in 50 folders, one of 64 MiB, and a Dockerfile of two stages."""
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        numbers = random.Random(SEED)
        for number in range(5000):
            path = folder / f"folders/{number % 50:02d}/file{number:04d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(numbers.randbytes(numbers.randint(200, 8000)))
        with (folder / "big").open("wb") as big:
            for _ in range(64):
                big.write(numbers.randbytes(1 << 20))
        (folder / "start.sh").write_text("#!/bin/sh\nexec sleep 1000\n")
        (folder / "done").write_text("")
    (folder / "Dockerfile").write_text(DOCKERFILE.format(base=base))
    (folder / ".dockerignore").write_text("done\n")
    return folder


def touch(folder: Path) -> None:
    """Give all files of the context another time, so that nothing that was remembered of them counts."""
    for path in folder.rglob("*"):
        os.utime(path)


def debian_tar(folder: Path) -> Path:
    """A minimal Debian bookworm as one tar; from the machine's package mirror, once."""
    path = folder / "debian.tar"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part.tar")
        subprocess.run(
            ["mmdebstrap", "--variant=minbase", "bookworm", str(beside)],
            check=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
            stdout=subprocess.DEVNULL,
        )
        beside.rename(path)
    return path
