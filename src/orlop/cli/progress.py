"""A verb's events as lines: plain ones for pipes and logs, and a live block below them on a terminal.

The words are docker's (`abc: Pull complete`) and BuildKit's (`#5 [build 2/7] RUN make`). The live block is a few lines
of our own: rich would do it too, and costs 150 ms to import, longer than most of what it would draw takes.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock  # threading costs 2 ms more, for a lock

from orlop.cli import units
from orlop.cli.session import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.events import Event

_OFTEN = 0.1  # seconds between two drawings of the live block
_TAIL = 4  # lines of a running step's output in the live block
_KEPT = 200  # lines of it that are shown if the build fails


def choose(environ: Mapping[str, str], stream: int, mode: str) -> Progress:
    """What draws on descriptor `stream`. `mode`: "quiet", "plain", "tty", or "auto": live where a person looks."""
    if mode == "quiet":
        return Progress(stream, quiet=True)
    live = mode == "tty" or (mode == "auto" and os.isatty(stream) and environ.get("TERM", "dumb") != "dumb")
    if not live:
        return Progress(stream)
    colour = not environ.get("NO_COLOR") and environ.get("CLICOLOR", "1") != "0"
    return Progress(stream, screen=Screen(stream, colour=colour))


class Screen:
    """Lines that stay, and below them a block that is drawn anew."""

    def __init__(self, stream: int, *, colour: bool) -> None:
        self._stream = stream
        self._colour = colour
        self._height = 0  # lines of the block as it stands
        self._drawn = 0.0

    def dim(self, text: str) -> str:
        """Text that matters less."""
        return f"\x1b[2m{text}\x1b[0m" if self._colour else text

    def draw(self, said: Sequence[str], block: Sequence[str], *, now: bool = False) -> None:
        """Add the lines `said`, and draw the block again if there are any, or if it is time."""
        moment = time.monotonic()
        if not (said or now) and moment - self._drawn < _OFTEN:
            return
        self._drawn = moment
        columns, rows = self._size()
        shown = list(block)[-max(1, rows - 1) :]
        # up to where the block began, everything below it blank, in one write: no flicker
        text = (f"\x1b[{self._height}A" if self._height else "") + "\r\x1b[J"
        text += "".join(f"{line}\n" for line in said)
        text += "".join(f"{self.dim(line[: columns - 1])}\n" for line in shown)
        self._height = len(shown)
        _write(self._stream, text)

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24


class Progress:
    """Keeps what goes on, and says what is done. Safe to tell from any thread."""

    def __init__(self, stream: int, *, quiet: bool = False, screen: Screen | None = None) -> None:
        self._stream = stream
        self._quiet = quiet
        self._screen = screen
        self._lock = allocate_lock()
        self._going: dict[str, tuple[str, int, int]] = {}  # layer -> word, bytes, of bytes
        self._finished: set[tuple[str, str]] = set()
        self._steps = Steps()

    def tell(self, event: Event) -> None:
        """Draw one event."""
        with self._lock:
            if event.action == "warning":
                self._say([f"WARNING: {event.text}"], stream=2)
                return
            if self._quiet:
                return
            if event.action.startswith("build."):
                lines = self._steps.told(event, live=self._screen is not None)
            else:
                lines = self._transfer(event)
            self._say(lines)

    def close(self, *, failed: bool = False) -> None:
        """Take the live block away. What a step printed before a failure stays to be read."""
        with self._lock:
            lines = [] if self._quiet else self._steps.end(failed=failed, live=self._screen is not None)
            self._going.clear()
            if self._screen is not None:
                self._screen.draw([printable(line) for line in lines], [], now=True)
            else:
                self._say(lines)

    def _say(self, lines: list[str], stream: int = -1) -> None:
        lines = [printable(line) for line in lines]  # registries and Dockerfiles have their words in there
        if self._screen is not None:
            self._screen.draw(lines, [printable(line) for line in self._block()])
        elif lines:
            _write(self._stream if stream < 0 else stream, "".join(f"{line}\n" for line in lines))

    def _block(self) -> list[str]:
        layers = [_bar(name, *state) for name, state in self._going.items()]
        return layers + self._steps.block()

    def _transfer(self, event: Event) -> list[str]:
        """The lines of pull, push and load."""
        name = units.short_id(event.subject)
        if event.action == "pull.manifest":
            repository, digest, _ = event.subject.partition("@")
            if digest:
                return [f"{event.subject}: Pulling from {repository}"]
            repository, _, tag = event.subject.rpartition(":")
            return [f"{tag}: Pulling from {repository}"] if repository else [f"Pulling from {event.subject}"]
        if event.action == "push.manifest":
            return [f"{event.text.rpartition(':')[2]}: digest: {event.subject}"]
        if event.action == "status":
            return [event.text]
        if event.action in {"pull.layer", "push.layer", "load.layer"}:
            return self._layer(name, event)
        done = {
            "pull.exists": "Already exists",
            "pull.unpacked": "Pull complete",
            "push.exists": "Layer already exists",
        }.get(event.action)
        if done is None or (name, done) in self._finished:
            return []
        self._finished.add((name, done))
        self._going.pop(name, None)
        return [f"{name}: {done}"]

    def _layer(self, name: str, event: Event) -> list[str]:
        whole = bool(event.total) and event.current >= event.total
        pulls = event.action == "pull.layer"
        started = name not in self._going and (name, "started") not in self._finished
        self._finished.add((name, "started"))
        lines = []
        if started and self._screen is None and pulls:
            lines.append(f"{name}: Pulling fs layer")
        if not whole:
            word = "Downloading" if pulls else "Pushing" if event.action == "push.layer" else "Loading"
            self._going[name] = (word, event.current, event.total)
            return lines
        if (name, "whole") in self._finished:
            return lines
        self._finished.add((name, "whole"))
        if pulls:
            if self._screen is None:
                return [*lines, f"{name}: Download complete"]
            self._going[name] = ("Extracting", event.total, event.total)
            return lines
        self._going.pop(name, None)
        return [*lines, f"{name}: Pushed"] if event.action == "push.layer" else lines


class Steps:
    """The steps of a build, numbered as they come, with what each one prints."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._titles: dict[str, str] = {}
        self._started: dict[str, float] = {}  # the steps that run
        self._output: dict[str, list[str]] = {}
        self._rest: dict[str, bytes] = {}  # a line without its end

    def told(self, event: Event, *, live: bool) -> list[str]:
        """The lines to say for one event."""
        subject = event.subject
        number = self._numbers.setdefault(subject, len(self._numbers) + 1)
        if event.action == "build.output":
            return self._printed(subject, number, event.data, live=live)
        if event.action == "build.done":
            return self._done(subject, live=live, seconds=event.text)
        if event.action == "build.miss":
            return [f"#{number} not cached: {event.text}"]
        if event.action not in {"build.step", "build.cached"}:
            return []
        stage, _, _ = subject.rpartition("/")
        lines = self._end_of_stage(stage, live=live) if event.total else []
        place = f"{stage} {event.current}/{event.total}" if event.total else subject
        first, _, more = event.text.partition("\n")
        title = self._titles[subject] = f"#{number} [{place}] {first}{' ...' if more else ''}"
        if event.action == "build.cached":
            return [*lines, f"{title}  CACHED"] if live else [*lines, title, f"#{number} CACHED"]
        self._started[subject] = time.monotonic()
        return lines if live else [*lines, title]

    def block(self) -> list[str]:
        """The running steps, each with the last lines it printed."""
        lines = []
        for subject, started in self._started.items():
            lines.append(f"{self._titles[subject]}  {time.monotonic() - started:.1f}s")
            lines += [f"    {line}" for line in self._output.get(subject, ())[-_TAIL:]]
        return lines

    def end(self, *, failed: bool, live: bool) -> list[str]:
        """The build is over: what still ran is done, or its output explains the failure."""
        lines: list[str] = []
        for subject in list(self._started):
            number = self._numbers[subject]
            lines += self._printed(subject, number, b"\n" if self._rest.get(subject) else b"", live=live)
            if not failed:
                lines += self._done(subject, live=live)
            elif live:
                lines += [self._titles[subject], *(f"#{number} {line}" for line in self._output.get(subject, ()))]
        self._started.clear()
        return lines

    def _end_of_stage(self, stage: str, *, live: bool) -> list[str]:
        """The steps of a stage follow one another: where one starts, the one before it is done."""
        before = [subject for subject in self._started if subject.rpartition("/")[0] == stage]
        return [line for subject in before for line in self._done(subject, live=live)]

    def _done(self, subject: str, *, live: bool, seconds: str = "") -> list[str]:
        started = self._started.pop(subject, None)
        if started is None:
            return []
        took = seconds.removesuffix("s") or f"{time.monotonic() - started:.1f}"
        self._output.pop(subject, None)
        return [f"{self._titles[subject]}  {took}s"] if live else [f"#{self._numbers[subject]} DONE {took}s"]

    def _printed(self, subject: str, number: int, data: bytes, *, live: bool) -> list[str]:
        *whole, rest = (self._rest.pop(subject, b"") + data).split(b"\n")
        self._rest[subject] = rest
        lines = [_clean(line) for line in whole]
        if live:
            kept = self._output.setdefault(subject, [])
            kept += lines
            del kept[:-_KEPT]
            return []
        at = time.monotonic() - self._started.get(subject, time.monotonic())
        return [f"#{number} {at:.3f} {line}" for line in lines]


def _clean(line: bytes) -> str:
    """A program's line for our screen: what came after the last carriage return, without control characters."""
    text = line.decode(errors="replace").removesuffix("\r").rpartition("\r")[2].expandtabs()
    return "".join(mark if mark.isprintable() else "�" for mark in text)


def _bar(name: str, word: str, current: int, total: int) -> str:
    if not total:
        return f"{name}: {word}  {units.human_size(current)}"
    filled = 30 * current // total
    bar = "=" * filled + ">" * (filled < 30) + " " * (29 - filled)
    return f"{name}: {word} [{bar}] {units.human_size(current)}/{units.human_size(total)}"


def _write(stream: int, text: str) -> None:
    """All of it, past Python's buffers: a line of progress is worth nothing later."""
    data = text.encode(errors="surrogateescape")
    while data:
        data = data[os.write(stream, data) :]
