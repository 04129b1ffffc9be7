"""crowsnest: a look at the world from inside a container.

A web server without dependencies. `/` shows host name, environment, memory limit and use, file system and checks as a
page; `/api` the same as JSON; `/healthy` and `/ready` are the probes; `/fs/...` lists and shows files. POST to
`/healthy/fail`, `/healthy/ok`, `/ready/fail`, `/ready/ok` to see what a probe does when it fails, and to
`/memory/allocate?mib=64` to see what a memory limit does.
"""

from __future__ import annotations

import html
import json
import os
import signal
import socket
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

STARTED = time.time()
HERE = Path(__file__).parent
SECRET_WORDS = ("PASSWORD", "SECRET", "TOKEN", "KEY")


def first_number(*paths: str) -> int | None:
    """The number in the first of these files that has one; "max" and v1's huge numbers mean no limit."""
    for path in paths:
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
        return None
    return None


def memory() -> dict[str, int | None]:
    """Limit and use in bytes, from cgroup v2's files or v1's."""
    base = "/sys/fs/cgroup"
    return {
        "limit": first_number(f"{base}/memory.max", f"{base}/memory/memory.limit_in_bytes"),
        "swap_limit": first_number(f"{base}/memory.swap.max", f"{base}/memory/memory.memsw.limit_in_bytes"),
        "usage": first_number(f"{base}/memory.current", f"{base}/memory/memory.usage_in_bytes"),
        "cpu_shares": first_number(f"{base}/cpu.weight", f"{base}/cpu/cpu.shares"),
    }


def shown(name: str, value: str) -> str:
    """An environment value, unless its name says that it is nobody's business."""
    return "(hidden)" if any(word in name.upper() for word in SECRET_WORDS) else value


class State:
    """What the probes answer, and memory that was asked to be used."""

    def __init__(self) -> None:
        self.healthy = True
        self.ready = True
        self.hoard: list[bytearray] = []

    def report(self) -> dict[str, object]:
        """Everything the page shows."""
        disk = os.statvfs("/")
        return {
            "hostname": socket.gethostname(),
            "version": (HERE / "VERSION").read_text(encoding="utf-8").strip(),
            "uptime_seconds": round(time.time() - STARTED, 1),
            "user": {"uid": os.getuid(), "gid": os.getgid()},
            "pid": os.getpid(),
            "memory": memory(),
            "environment": {name: shown(name, value) for name, value in sorted(os.environ.items())},
            "filesystem": {"total": disk.f_blocks * disk.f_frsize, "free": disk.f_bavail * disk.f_frsize},
            "mounts": [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()],
            "healthy": self.healthy,
            "ready": self.ready,
        }


STATE = State()


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    server_version = "crowsnest"
    sys_version = ""

    def do_GET(self) -> None:
        """Pages, files and probes."""
        path = urlsplit(self.path).path
        if path == "/":
            self.answer(page(STATE.report()), "text/html; charset=utf-8")
        elif path == "/api":
            self.answer(json.dumps(STATE.report(), indent=2), "application/json")
        elif path in {"/healthy", "/ready"}:
            fine = getattr(STATE, path[1:])
            self.answer("ok\n" if fine else "failing\n", status=200 if fine else 503)
        elif path.startswith("/fs"):
            self.files(unquote(path[3:]) or "/")
        else:
            self.answer("not found\n", status=404)

    def do_POST(self) -> None:
        """Change what the probes answer, or use memory."""
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        if len(parts) == 2 and parts[0] in {"healthy", "ready"} and parts[1] in {"ok", "fail"}:
            setattr(STATE, parts[0], parts[1] == "ok")
            self.answer(f"{parts[0]}: {parts[1]}\n")
        elif url.path == "/memory/allocate":
            mib = parse_qs(url.query).get("mib", ["16"])[0]
            if not mib.isdigit():
                self.answer("mib is a number\n", status=400)
                return
            STATE.hoard.append(bytearray(int(mib) << 20))
            self.answer(f"allocated {mib} MiB\n")
        elif url.path == "/memory/free":
            STATE.hoard.clear()
            self.answer("freed\n")
        else:
            self.answer("not found\n", status=404)

    def files(self, path: str) -> None:
        """A directory's names, or the first 64 KiB of a file."""
        here = Path(path)
        try:
            if here.is_dir():
                self.answer(
                    "".join(f"{entry.name}{'/' if entry.is_dir() else ''}\n" for entry in sorted(here.iterdir()))
                )
            else:
                with here.open("rb") as file:
                    self.answer(file.read(1 << 16).decode(errors="replace"))
        except OSError as error:
            self.answer(f"{error.strerror}\n", status=403 if isinstance(error, PermissionError) else 404)

    def answer(self, text: str, kind: str = "text/plain; charset=utf-8", status: int = 200) -> None:
        """Send one answer."""
        body = text.encode()
        self.send_response(HTTPStatus(status))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, template: str, *values: object) -> None:
        """One line a request, for `orlop logs`."""
        sys.stdout.write(f"{self.address_string()} {template % values}\n")
        sys.stdout.flush()


def page(report: dict[str, object]) -> str:
    """The report as HTML, in the page that the build put beside this file."""

    def table(value: object) -> str:
        if isinstance(value, dict):
            rows = "".join(f"<tr><th>{html.escape(str(key))}<td>{table(one)}" for key, one in value.items())
            return f"<table>{rows}</table>"
        if isinstance(value, list):
            return "<br>".join(html.escape(str(one)) for one in value)
        if isinstance(value, int) and not isinstance(value, bool) and value > 1 << 20:
            return f"{value} <small>({value / (1 << 20):.1f} MiB)</small>"
        return html.escape("none" if value is None else str(value))

    frame = (HERE / "page.html").read_text(encoding="utf-8")
    return frame.replace("{{hostname}}", html.escape(str(report["hostname"]))).replace("{{report}}", table(report))


def main() -> None:
    """Serve until SIGTERM."""
    port = int(os.environ.get("PORT", "8080"))
    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)

    def stop(number: int, _: object) -> None:
        sys.stdout.write(f"crowsnest: signal {number}, leaving\n")
        sys.stdout.flush()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    sys.stdout.write(f"crowsnest: looking out on port {port} as uid {os.getuid()}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
