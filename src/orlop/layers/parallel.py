"""A few tasks side by side, where the first failure ends all."""

from __future__ import annotations

import threading

from orlop.layers.streams import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Stop:
    """Tells tasks that one of them has failed."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._lock = threading.Lock()

    def fail(self, error: BaseException) -> None:
        """Note a failure; the first one counts."""
        with self._lock:
            if self.error is None:
                self.error = error

    def check(self) -> None:
        """Raise Stopped if something has failed: called between two pieces of work."""
        if self.error is not None:
            raise Stopped


def run(tasks: Sequence[Callable[[Stop], object]], *, width: int) -> None:
    """Run all tasks, at most `width` at once; each gets the Stop to check.

    Afterwards all have ended. Raises what the first failed one raised; tasks not begun by then never begin.
    """
    stop = Stop()
    if len(tasks) <= 1:
        for task in tasks:
            task(stop)
        return
    left = list(reversed(tasks))

    def work() -> None:
        while left and stop.error is None:
            try:
                task = left.pop()
            except IndexError:
                return
            try:
                task(stop)
            except BaseException as error:  # noqa: BLE001  # raised again where `run` was called
                stop.fail(error)

    threads = [
        threading.Thread(target=work, name=f"orlop-task-{number}", daemon=True)
        for number in range(min(width, len(tasks)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                stop.fail(error)
    if stop.error is not None:
        raise stop.error
