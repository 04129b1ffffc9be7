"""How a foreground program is joined to this process: which descriptors, which keys leave it."""

from __future__ import annotations

import os

from orlop.cli.options import Option, UsageError
from orlop.engine.requests import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.options import Given

DETACH_KEYS = Option("detach-keys", "", "text", "KEYS", "Keys that leave the program running", default="ctrl-p,ctrl-q")
SIG_PROXY = Option("sig-proxy", "", "flag", "", "Pass signals on to the program", default=True)


def check_terminal(*, stdin: bool, tty: bool) -> None:
    """Refuse to join a terminal program to what is no terminal: it would wait for ever for what cannot be typed."""
    if stdin and tty and not os.isatty(0):
        raise UsageError("the input device is not a TTY", hint="leave out -t, or run it from a terminal", exit_code=1)


def joined(given: Given, *, stdin: bool, streams: tuple[str, ...] = ()) -> Stdio:
    """The descriptors of this process for a foreground program; streams that `-a` does not name go nowhere."""
    nowhere = -1
    if streams and not {"stdout", "stderr"} <= set(streams):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    return Stdio(
        stdin=0 if stdin and (not streams or "stdin" in streams) else -1,
        stdout=1 if not streams or "stdout" in streams else nowhere,
        stderr=2 if not streams or "stderr" in streams else nowhere,
        detach_keys=given.text("detach-keys"),
        proxy_signals=given.flag("sig-proxy"),
    )
