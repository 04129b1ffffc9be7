"""Progress: plain lines everywhere, a live block on a terminal that leaves nothing behind."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.progress import Progress, Screen, choose
from orlop.events import Event


class Pipe:
    """A descriptor whose other end is read into text."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self._data = bytearray()
        self._reader = threading.Thread(target=self._drain)
        self._reader.start()

    def _drain(self) -> None:
        while block := os.read(self.read_end, 65536):
            self._data += block

    def text(self) -> str:
        """Everything that was written; ends the pipe."""
        os.close(self.write_end)
        self._reader.join()
        os.close(self.read_end)
        return self._data.decode()


def shown(text: str) -> list[str]:
    """What a terminal shows in the end: just enough of one for our own control sequences."""
    lines = [""]
    row = 0
    for part in text.replace("\r", "").split("\x1b["):
        if part is not text and part[:1] == "J":
            del lines[row + 1 :]
            lines[row] = ""
            part = part[1:]  # noqa: PLW2901  # what follows the sequence
        elif (end := next((at for at, mark in enumerate(part) if mark in "Am"), -1)) > 0 and part[:end].isdigit():
            if part[end] == "A":
                row -= int(part[:end])
            part = part[end + 1 :]  # noqa: PLW2901  # what follows the sequence
        for at, piece in enumerate(part.split("\n")):
            if at:
                row += 1
                if row == len(lines):
                    lines.append("")
            lines[row] += piece
    return [line for line in lines if line]


@pytest.fixture
def pipe() -> Pipe:
    """A descriptor to draw on."""
    return Pipe()


def _build(progress: Progress) -> None:
    progress.tell(Event(action="build.cached", subject="a/1", text="WORKDIR /x", current=1, total=3))
    progress.tell(Event(action="build.step", subject="a/2", text="RUN make\n  all", current=2, total=3))
    progress.tell(Event(action="build.output", subject="a/2", data=b"10%\r20%\rdone\x1b[31m\n"))
    progress.tell(Event(action="build.step", subject="a/3", text="RUN test", current=3, total=3))
    progress.tell(Event(action="build.output", subject="a/3", data=b"no end of line"))


def _masked(lines: list[str]) -> list[str]:
    """Times differ from run to run."""
    found = []
    for line in lines:
        words = line.split(" ")
        found.append(
            " ".join("T" if word.rstrip("s").replace(".", "").isdigit() and "." in word else word for word in words)
        )
    return found


def test_plain_build_lines_are_buildkits(pipe: Pipe) -> None:
    """Each step has a number; output has its prefix and is cleaned; what ended without a newline is not lost."""
    progress = Progress(pipe.write_end)
    _build(progress)
    progress.close()

    assert _masked(pipe.text().splitlines()) == [
        "#1 [a 1/3] WORKDIR /x",
        "#1 CACHED",
        "#2 [a 2/3] RUN make ...",
        "#2 T done�[31m",
        "#2 DONE T",
        "#3 [a 3/3] RUN test",
        "#3 T no end of line",
        "#3 DONE T",
    ]


def test_a_terminal_keeps_only_what_is_done(pipe: Pipe) -> None:
    """Live, a running step's output is shown below and goes when it is done; a line a step stays."""
    progress = Progress(pipe.write_end, screen=Screen(pipe.write_end, colour=True))
    _build(progress)
    progress.close()

    assert _masked(shown(pipe.text())) == [
        "#1 [a 1/3] WORKDIR /x  CACHED",
        "#2 [a 2/3] RUN make ...  T",
        "#3 [a 3/3] RUN test  T",
    ]


def test_a_failed_step_leaves_its_output(pipe: Pipe) -> None:
    """When a build fails, what the running steps printed stays on the terminal to be read."""
    progress = Progress(pipe.write_end, screen=Screen(pipe.write_end, colour=False))
    _build(progress)
    progress.close(failed=True)

    assert shown(pipe.text())[-2:] == ["#3 [a 3/3] RUN test", "#3 no end of line"]


def test_a_live_pull_ends_with_plain_lines(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars are drawn while bytes come, and gone when they are there."""
    monkeypatch.setattr("orlop.cli.progress._OFTEN", 0.0)
    progress = Progress(pipe.write_end, screen=Screen(pipe.write_end, colour=False))
    progress.tell(Event(action="pull.manifest", subject="localhost:5000/app:1"))
    for current in range(0, 101, 10):
        progress.tell(Event(action="pull.layer", subject="sha256:" + "1" * 64, current=current, total=100))
    progress.tell(Event(action="pull.unpacked", subject="sha256:" + "1" * 64))
    progress.tell(Event(action="pull.exists", subject="sha256:" + "2" * 64))
    progress.close()

    text = pipe.text()
    assert "Downloading [===============>              ] 50B/100B" in text
    assert "Extracting [==============================] 100B/100B" in text
    assert shown(text) == [
        "1: Pulling from localhost:5000/app",
        "111111111111: Pull complete",
        "222222222222: Already exists",
    ]


def test_push_lines(pipe: Pipe) -> None:
    """A push says what was sent, what was there, and the digest."""
    progress = Progress(pipe.write_end)
    for current in (0, 5, 10, 10):
        progress.tell(Event(action="push.layer", subject="sha256:" + "1" * 64, current=current, total=10))
    progress.tell(Event(action="push.exists", subject="sha256:" + "2" * 64))
    progress.tell(Event(action="push.manifest", subject="sha256:" + "3" * 64, text="localhost:5000/app:1"))
    progress.close()

    assert pipe.text().splitlines() == [
        "111111111111: Pushed",
        "222222222222: Layer already exists",
        f"1: digest: sha256:{'3' * 64}",
    ]


def test_quiet_still_warns(pipe: Pipe, capfd: pytest.CaptureFixture[str]) -> None:
    """-q silences progress, not warnings."""
    progress = choose({}, pipe.write_end, "quiet")
    _build(progress)
    progress.tell(Event(action="warning", text="careful"))
    progress.close()

    assert pipe.text() == ""
    assert capfd.readouterr().err == "WARNING: careful\n"


@pytest.mark.parametrize(
    ("environ", "mode", "live", "colour"),
    [
        ({"TERM": "xterm"}, "auto", True, True),
        ({"TERM": "dumb"}, "auto", False, False),
        ({}, "auto", False, False),
        ({"TERM": "xterm"}, "plain", False, False),
        ({"TERM": "dumb"}, "tty", True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "auto", True, False),
        ({"TERM": "xterm", "CLICOLOR": "0"}, "auto", True, False),
    ],
)
def test_what_a_terminal_gets(environ: dict[str, str], mode: str, live: bool, colour: bool) -> None:
    """Live only where a person looks and the terminal can; colour unless NO_COLOR or CLICOLOR=0 says no."""
    reader, terminal = os.openpty()
    try:
        progress = choose(environ, terminal, mode)
        screen = progress._screen
        assert (screen is not None) is live
        if screen is not None:
            assert screen.dim("x") == ("\x1b[2mx\x1b[0m" if colour else "x")
    finally:
        os.close(reader)
        os.close(terminal)


def test_pipes_never_get_control_sequences(pipe: Pipe) -> None:
    """What is no terminal gets plain lines, whatever TERM says."""
    progress = choose({"TERM": "xterm"}, pipe.write_end, "auto")
    _build(progress)
    progress.close()

    assert "\x1b" not in pipe.text()


_EVENTS = st.builds(
    Event,
    action=st.sampled_from(
        "build.step build.cached build.output build.done build.miss pull.layer pull.unpacked pull.exists pull.manifest "
        "push.layer push.exists push.manifest load.layer status other.thing".split()
    ),
    subject=st.sampled_from(["", "a/1", "a/2", "b/1", "2/7", "sha256:" + "1" * 64, "app", "app:1"]),
    text=st.text(max_size=8),
    current=st.integers(0, 20),
    total=st.integers(0, 10),
    data=st.binary(max_size=10),
)


@given(st.lists(_EVENTS, max_size=20), st.booleans(), st.booleans())
def test_any_events_can_be_drawn(events: list[Event], live: bool, failed: bool) -> None:
    """Events in any order, also nonsense, are drawn without an error, and the live block is gone in the end."""
    pipe = Pipe()
    progress = Progress(pipe.write_end, screen=Screen(pipe.write_end, colour=True) if live else None)
    for event in events:
        progress.tell(event)
    progress.close(failed=failed)
    assert progress._screen is None or progress._screen._height == 0
    assert isinstance(pipe.text(), str)


def test_many_threads_never_mix_lines(pipe: Pipe) -> None:
    """Layers are reported from several threads; each line stays whole."""
    progress = Progress(pipe.write_end)

    def work(number: int) -> None:
        for _ in range(50):
            progress.tell(Event(action="status", text=f"{number}" * 50))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.close()

    lines = pipe.text().splitlines()
    assert len(lines) == 400
    assert all(len(set(line)) == 1 and len(line) == 50 for line in lines)
