"""News of a program that its trampoline forks into a container's PID namespace.

The process that prepares the program has no number in that namespace, so nobody in there can look into it, trace it or
signal it. Its trampoline, executed with its rights already given up, forks the child that executes the program, sleeps
until that has happened (or failed), then tells the child's pid and ends.

The child has a copy of the socket until it executes the program, and so has whoever traces the child. A socket cannot
be opened through /proc/PID/fd as a pipe can, and the kernel signs each message with its sender's pid: only our own
child is believed what the pid is, and only the program's process, why it could not be executed. That end can be lied
about by whoever has that process in his hand; he could as well have killed it. Whether the socket ever closes is never
asked.
"""

from __future__ import annotations

import _socket
import os
import select
import sys

from orlop.errors import FailedPrecondition, Internal, ResourceExhausted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime import state as states

_UCRED = 12  # struct ucred: pid, uid, gid
_WORD = 4
_ENOMEM = 12
_SIGKILL = 9


class Arrival:
    """The socket: `fd` is the trampoline's end."""

    __slots__ = ("_before", "_ours", "_theirs")

    def __init__(self) -> None:
        kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
        self._ours, self._theirs = _socket.socketpair(_socket.AF_UNIX, kind)
        self._ours.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        self._before = _children()

    @property
    def fd(self) -> int:
        """The descriptor that the trampoline gets."""
        return self._theirs.fileno()

    def entrust(self) -> None:
        """The trampoline's process has its end now: close ours of it."""
        self._theirs.close()

    def wait(self, pid: int, container: states.Container) -> tuple[int, bytes]:
        """Wait for the trampoline in our child `pid`, which is reaped, also on failure.

        The program's process, now our child, and what it says of its failure (32 bits of errno; b"" for none).
        """
        said: dict[int, bytes] = {}
        try:
            number = self._listen(pid, said)
        except BaseException:
            self._abandon(pid)
            raise
        os.waitpid(pid, 0)
        if number < 0:
            raise _not_forked(-number, container)
        return number, said.get(number, b"")

    def _listen(self, pid: int, said: dict[int, bytes]) -> int:
        """What the trampoline says that clone returned; `said` gets the last words of everybody else."""
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.register(self._ours.fileno(), select.POLLIN)
            while True:
                # a message that was sent before its sender died is there before the death is
                ended = pidfd in dict(poll.poll())
                while message := self._message():
                    sender, word = message
                    if sender == pid and len(word) == _WORD:
                        return int.from_bytes(word, sys.byteorder, signed=True)
                    said[sender] = word
                if ended:
                    raise Internal("the process that enters the container died")
        finally:
            os.close(pidfd)

    def _message(self) -> tuple[int, bytes] | None:
        """The next message that is there, and who sent it. There is no room for descriptors, so none are taken."""
        flags = _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
        try:
            word, extra, _, _ = self._ours.recvmsg(_WORD, _socket.CMSG_LEN(_UCRED), flags)
        except (BlockingIOError, ConnectionResetError):
            return None
        for level, kind, content in extra:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_CREDENTIALS:
                return int.from_bytes(content[:4], sys.byteorder), word
        return None

    def _abandon(self, pid: int) -> None:
        """Kill our child `pid`, not reaped yet, and whom it may have forked meanwhile."""
        os.kill(pid, _SIGKILL)
        os.waitpid(pid, 0)
        for stray in _children() - self._before - {pid}:
            os.kill(stray, _SIGKILL)
            os.waitpid(stray, 0)

    def close(self) -> None:
        """Close what is open."""
        self._ours.close()
        self._theirs.close()


def _not_forked(code: int, container: states.Container) -> Exception:
    if code == _ENOMEM and not container.alive:  # a PID namespace whose first process has ended takes nobody in
        return FailedPrecondition(f"container {container.id} has just stopped")
    return ResourceExhausted(
        f"container {container.id} takes no more processes: {os.strerror(code)}",
        hint="end some of them, or raise --pids-limit or the ulimit nproc",
    )


def _children() -> set[int]:
    """Our children, while we have one thread; none where the kernel does not list them (CONFIG_PROC_CHILDREN)."""
    try:
        with open("/proc/thread-self/children", "rb") as file:
            return {int(word) for word in file.read().split()}
    except OSError:
        return set()
