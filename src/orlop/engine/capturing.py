"""What a program writes, handed to a function of the caller's: for Python programs that want output and no descriptors.

A thread reads two pipes, because whoever joins a container writes to them from the thread that waits for its end.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading

from orlop.engine.requests import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Output: TypeAlias = Callable[[str, bytes], object]

_BLOCK = 1 << 16


@contextlib.contextmanager
def captured(output: Output) -> Iterator[Stdio]:
    """Streams whose content `output` gets, as ("stdout" | "stderr", bytes), from one other thread.

    When the block is left, all that was written has been handed over; what `output` raised is raised then. Processes
    that stay behind with the streams (in the background of an exec) are not waited for.
    """
    with contextlib.ExitStack() as ends:
        pipes = []
        for _ in range(3):
            pair = os.pipe2(os.O_CLOEXEC)
            ends.callback(os.close, pair[0])
            pipes.append(pair)
        (out, out_end), (err, err_end), (stop, stop_end) = pipes
        reader = _Reader({out: "stdout", err: "stderr"}, stop, output)
        thread = threading.Thread(target=reader.run, name="orlop-output", daemon=True)
        thread.start()
        try:
            yield Stdio(stdin=-1, stdout=out_end, stderr=err_end, detach_keys="", proxy_signals=False)
        finally:
            for end in (out_end, err_end, stop_end):
                os.close(end)
            thread.join()
    if reader.failure is not None:
        raise reader.failure


class _Reader:
    """Reads until both streams have ended, or until it is told to stop and has read what is there."""

    def __init__(self, streams: dict[int, str], stop: int, output: Output) -> None:
        self._streams = streams
        self._stop = stop
        self._output = output
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Read; after a failure of `output` go on reading, so that the program is not stuck."""
        left = list(self._streams)
        for fd in left:
            os.set_blocking(fd, False)
        while left:
            ready = select.select([*left, self._stop], [], [])[0]
            last = self._stop in ready
            for fd in list(left):
                while (data := self._read(fd)) is not None:
                    if not data:
                        left.remove(fd)
                        break
                    self._tell(self._streams[fd], data)
            if last:
                return

    @staticmethod
    def _read(fd: int) -> bytes | None:
        """The next bytes, b"" at the end, None when there is nothing now."""
        try:
            return os.read(fd, _BLOCK)
        except BlockingIOError:
            return None

    def _tell(self, stream: str, data: bytes) -> None:
        if self.failure is not None:
            return
        try:
            self._output(stream, data)
        except BaseException as error:  # noqa: BLE001  # the caller's, and raised in the caller's thread
            self.failure = error
