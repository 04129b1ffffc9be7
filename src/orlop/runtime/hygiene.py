"""What a forked interpreter must give up before it joins anything of a container.

From then on it is a process of ours that walks among things an image chose: nothing from there may be loaded into
it, and nobody in there may look into it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` would load enum
import codecs
import fcntl
import gc
import os
import sys

from orlop.linux import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# looked up now, so that no codec has to be found later, when the search would go through the image
for _name in ("utf-8", "ascii"):
    codecs.lookup(_name)
for _name in ("strict", "surrogateescape", "replace", "backslashreplace", "ignore"):
    codecs.lookup_error(_name)


def seal(keep: Iterable[int], *, hidden: bool = True) -> None:
    """Make this (forked) process fit to enter a container: no imports, no open descriptors but `keep`, no onlookers.

    Irreversible: afterwards the process may only end in execve or os._exit. With `hidden` off, who has at least its
    capabilities may still look into it.
    """
    gc.disable()
    gc.freeze()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()
    sys.path_importer_cache.clear()
    sys.dont_write_bytecode = True
    if hidden:
        process.set_dumpable(False)
    process.close_fds_except(keep)


def new_session() -> None:
    """Leave the caller's session and terminal; a process that has done so before is let be."""
    if os.getsid(0) != os.getpid():
        os.setsid()


def default_signals() -> None:
    """Every signal at its default and none blocked: Python ignores SIGPIPE and SIGXFSZ, which would survive execve."""
    for number in _signal.valid_signals():
        try:
            if _signal.getsignal(number) not in (_signal.SIG_DFL, None):
                _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # SIGKILL, SIGSTOP, and those libc keeps for itself
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def above_standard(fd: int) -> int:
    """A copy of `fd` that is none of the standard streams' numbers, when it is one; -1 stays -1."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) if 0 <= fd <= 2 else fd


def take_stdio(streams: tuple[int, int, int]) -> None:
    """Make `streams` our standard streams; -1 leaves what is there. They may be each other's numbers."""
    sources = [fd if fd == number else above_standard(fd) for number, fd in enumerate(streams)]
    for number, fd in enumerate(sources):
        if fd == number:
            os.set_inheritable(fd, True)
        elif fd >= 0:
            os.dup2(fd, number)


def null_stdio() -> None:
    """Standard input, output and error at /dev/null."""
    fd = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        if fd != number:
            os.dup2(fd, number)
    if fd > 2:
        os.close(fd)
