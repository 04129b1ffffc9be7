"""Between created and running: two FIFOs in the container's state folder.

`start.fifo` is what init waits on; one byte lets it go. `reply.fifo` is how it answers: its end closes by itself
when the program is executed, and before that it may say why that failed. Both are open in init before it enters the
container, so nothing in there is needed for them, and `start` may come from any later process.

A reply is either an encoded error, or which file is executed and its first bytes (they explain an exec that failed,
and the reader may be where the file cannot be seen), followed, when execve failed, by the errno from the
trampoline.
"""

from __future__ import annotations

import os
import select

from orlop.errors import FailedPrecondition, Internal
from orlop.runtime import errors, executable, trampoline

START = "start.fifo"
REPLY = "reply.fifo"
_READ = 65536
LIMIT = 1 << 20
"""Bytes of a reply that are read: a program of the container may have got hold of the other end."""


class Barrier:
    """Init's two ends. Both are read-write, so that init neither sees nor causes an end of file too early."""

    __slots__ = ("reply_fd", "start_fd")

    def __init__(self, start_fd: int, reply_fd: int) -> None:
        self.start_fd = start_fd
        self.reply_fd = reply_fd

    def wait(self) -> None:
        """Wait until somebody starts the container."""
        poll = select.poll()
        poll.register(self.start_fd, select.POLLIN)
        poll.poll()
        os.read(self.start_fd, 1)

    def close(self) -> None:
        """Close both ends (the maker's copies, once init has its own)."""
        os.close(self.start_fd)
        os.close(self.reply_fd)


def make(directory: str) -> Barrier:
    """Create the FIFOs and open init's ends."""
    fds = []
    for name in (START, REPLY):
        os.mkfifo(f"{directory}/{name}", 0o600)
        fds.append(os.open(f"{directory}/{name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    return Barrier(*fds)


def waiting(directory: str) -> bool:
    """Whether the container has not been started yet (given that its init lives)."""
    return os.path.exists(f"{directory}/{START}")


def prelude(path: str, head: bytes) -> bytes:
    """The reply that says which file is about to be executed."""
    name = os.fsencode(path)
    return b"P%b%b%b%b" % (len(name).to_bytes(2, "little"), len(head).to_bytes(2, "little"), name, head)


def release(directory: str, pidfd: int) -> None:
    """Let init go and wait until it has executed the program (or has failed to, which is raised here).

    `pidfd` is init's. Afterwards `waiting` is False. FailedPrecondition when the container was started before.
    """
    try:
        start = os.open(f"{directory}/{START}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        reply = os.open(f"{directory}/{REPLY}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FailedPrecondition("the container is not waiting to be started") from error
    try:
        os.write(start, b"\0")
        said = collect(reply, pidfd)
    finally:
        os.close(start)
        os.close(reply)
    os.unlink(f"{directory}/{START}")
    os.unlink(f"{directory}/{REPLY}")
    check(said)


def collect(reply: int, pidfd: int) -> bytes:
    """Everything init says until its end of the FIFO closes, or it dies."""
    poll = select.poll()
    poll.register(reply, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    said = b""
    while len(said) < LIMIT:
        events = dict(poll.poll())
        if reply in events:
            data = b""
            if events[reply] & select.POLLIN:
                data = os.read(reply, _READ)
                said += data
            if not data:
                return said
        elif pidfd in events:
            return said
    return said


def check(said: bytes) -> None:
    """Raise what a whole reply reports; nothing when the program was executed."""
    if not said.startswith(b"P"):
        raise errors.decode(said) if said else Internal("init died before it could execute the program")
    name_size, head_size = (int.from_bytes(said[at : at + 2], "little") for at in (1, 3))
    name, head = said[5 : 5 + name_size], said[5 + name_size : 5 + name_size + head_size]
    code = said[5 + name_size + head_size :]
    if code.startswith(b"{"):
        raise errors.decode(code)
    if code:
        number = int.from_bytes(code[:4], "little")
        if number & trampoline.SECCOMP_FAILED:
            raise Internal(f"the seccomp filter cannot be installed: {os.strerror(number & 0xFFFF)}")
        if number & trampoline.TERMINAL_FAILED:
            raise Internal(f"the terminal cannot become the program's own: {os.strerror(number & 0xFFFF)}")
        raise executable.explain(os.fsdecode(name), number, head)
