"""The log of a container: docker's json-file and CRI's text format, rotated by size.

Runs in the monitor's bare interpreter: nothing but built-in modules may be imported here.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

JSON_FILE = "json-file"
CRI = "cri"
NONE = "none"

CHUNK = 16 * 1024
"""Bytes. A line longer than this is logged in parts, as docker's copier and CRI do."""

_STREAMS = {1: b"stdout", 2: b"stderr"}

quote: Callable[[str], str]
try:
    from _json import encode_basestring as quote
except ImportError:  # another Python than CPython

    def quote(text: str, /) -> str:
        """`text` as a JSON string."""
        return '"' + "".join(_ESCAPES.get(one, one) if one > "\x1f" else f"\\u{ord(one):04x}" for one in text) + '"'


_ESCAPES = {'"': '\\"', "\\": "\\\\"}


class Stamp:
    """RFC 3339 times with nanoseconds, UTC. The calendar part is worked out once a second, not once a line."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def of(self, ns: int) -> bytes:
        """`ns` nanoseconds since the epoch as 2024-01-31T23:59:59.000000001Z."""
        second, rest = divmod(ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{rest:09d}Z".encode()


def json_entry(stream: int, line: bytes, stamp: bytes) -> bytes:
    """One record of docker's json-file: {"log":...,"stream":...,"time":...} and a newline. Bad UTF-8 becomes U+FFFD."""
    text = quote(line.decode("utf-8", "replace"))
    return b'{"log":%b,"stream":"%b","time":"%b"}\n' % (text.encode(), _STREAMS[stream], stamp)


def cri_entry(stream: int, line: bytes, stamp: bytes) -> bytes:
    """One record of CRI's format: time, stream, F for a full line or P for a part of one, the bytes as they are."""
    tag, text = (b"F", line[:-1]) if line.endswith(b"\n") else (b"P", line)
    return b"%b %b %b %b\n" % (stamp, _STREAMS[stream], tag, text)


_ENTRY = {JSON_FILE: json_entry, CRI: cri_entry}


class LogFile:
    """An open log. Whole lines are written as they come; the rest of a line waits until it ends, fills CHUNK, or flush.

    `max_size` is in bytes, 0 for no limit; `max_files` counts all files, the current one too (as docker's max-file). A
    disk that is full must not stop the container: what cannot be written is dropped, and `lost` counts its bytes.
    """

    __slots__ = ("_entry", "_fd", "_format", "_max_files", "_max_size", "_partial", "_path", "_size", "_stamp", "lost")

    def __init__(self, path: str, log_format: str, max_size: int = 0, max_files: int = 1) -> None:
        self._path = path
        self._format = log_format
        self._entry = _ENTRY.get(log_format)
        self._max_size = max_size
        self._max_files = max(max_files, 1)
        self._partial: dict[int, bytes] = {}
        self._stamp = Stamp()
        self._fd = -1
        self._size = 0
        self.lost = 0
        if self._entry is not None:
            self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: int, data: bytes, now: int) -> None:
        """Take `data` that came on `stream` (1 or 2) at `now`, nanoseconds since the epoch."""
        if self._entry is None:
            return
        data = self._partial.pop(stream, b"") + data
        lines = data.split(b"\n")
        rest = lines.pop()
        stamp = self._stamp.of(now)
        out: list[bytes] = []
        for line in lines:
            text = line + b"\n"
            while len(text) > CHUNK:
                out.append(self._entry(stream, text[:CHUNK], stamp))
                text = text[CHUNK:]
            out.append(self._entry(stream, text, stamp))
        while len(rest) >= CHUNK:
            out.append(self._entry(stream, rest[:CHUNK], stamp))
            rest = rest[CHUNK:]
        if rest:
            self._partial[stream] = rest
        self._append(b"".join(out))

    def flush(self, now: int) -> None:
        """Write the unfinished lines: the streams have ended."""
        if self._entry is not None:
            for stream, rest in sorted(self._partial.items()):
                self._append(self._entry(stream, rest, self._stamp.of(now)))
        self._partial.clear()

    def _append(self, data: bytes) -> None:
        if not data:
            return
        if self._max_size and self._size and self._size + len(data) > self._max_size:
            self._rotate()
        try:
            written = os.write(self._fd, data)
        except OSError:  # no space, an I/O error: the container goes on
            self.lost += len(data)
            return
        self.lost += len(data) - written
        self._size += written

    def _rotate(self) -> None:
        """Move log to log.1, that to log.2 and so on; the oldest is overwritten. With one file, it starts over."""
        try:
            if self._max_files == 1:
                os.ftruncate(self._fd, 0)
                self._size = 0
                return
            for index in range(self._max_files - 1, 0, -1):
                older = f"{self._path}.{index - 1}" if index > 1 else self._path
                try:
                    os.rename(older, f"{self._path}.{index}")
                except FileNotFoundError:
                    continue
            self.reopen()
        except OSError:
            self._size = 0  # try again only after another max_size bytes: the log grows, nothing is lost

    def reopen(self) -> None:
        """Go on in a new file at the same path (somebody moved the old one away, as the kubelet does)."""
        if self._entry is None:
            return
        old = self._fd
        self._open()
        os.close(old)

    def state(self) -> dict[str, Any]:
        """What `restore` needs in another interpreter; the file is opened again there."""
        return {
            "path": self._path,
            "format": self._format,
            "max_size": self._max_size,
            "max_files": self._max_files,
            "partial": self._partial,
            "lost": self.lost,
        }

    def close(self) -> None:
        """Close the file; unfinished lines that were not flushed are gone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def restore(state: dict[str, Any]) -> LogFile:
    """The LogFile whose `state()` this is."""
    log = LogFile(state["path"], state["format"], state["max_size"], state["max_files"])
    log._partial = dict(state["partial"])  # noqa: SLF001  # its own kind, in its own module
    log.lost = state["lost"]
    return log
