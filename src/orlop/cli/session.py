"""One run of the command line: the environment as it was, the engine once it is needed, and where words go."""

from __future__ import annotations

import sys

from orlop.errors import OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from orlop.cli.progress import Progress
    from orlop.engine.core import Engine
    from orlop.engine.settings import Settings
    from orlop.events import Event


class Session:
    """What a command works with. The engine is made when it is first asked for, and closed by `close`."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        root: str = "",
        run_root: str = "",
        namespace: str = "",
        debug: bool = False,
        engine: Callable[[Settings], Engine] | None = None,
        ending: bool = False,
    ) -> None:
        self.environ = environ
        self.debug = debug or environ.get("ORLOP_DEBUG", "") not in {"", "0"}
        self._places = (root, run_root)
        self._namespace = namespace
        self._make = engine
        self._engine: Engine | None = None
        self._settings: Settings | None = None
        self._ending = ending
        self._one_start = False

    @property
    def settings(self) -> Settings:
        """The environment and the global options as the engine's settings."""
        if self._settings is None:
            from orlop.engine.settings import from_environment, outer_uid

            environ = dict(self.environ)
            if self._namespace:
                environ["ORLOP_NAMESPACE"] = self._namespace
            self._settings = from_environment(
                environ,
                uid=outer_uid(self.environ),
                program=(sys.executable, "-P", "-m", "orlop"),
                root=self._places[0],
                run_root=self._places[1],
            )
            if self._ending:
                self._settings = self._settings.replace(ending=True, one_start=self._one_start)
        return self._settings

    def use_namespace(self, namespace: str) -> None:
        """Work in another namespace than the one the environment says. Only before the engine is first asked for."""
        assert self._engine is None
        self._namespace, self._settings = namespace, None

    def starts_one(self) -> None:
        """This command starts one container and no more: that one is quicker. Before the engine is first asked for."""
        assert self._engine is None
        self._one_start, self._settings = True, None

    @property
    def engine(self) -> Engine:
        """The engine of this root; nothing is touched on disk before its first verb."""
        if self._engine is None:
            if self._make is None:
                from orlop.engine.core import Engine

                self._make = Engine
            self._engine = self._make(self.settings)
        return self._engine

    def close(self) -> None:
        """Let go of the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def each(
        self, names: Iterable[str], verb: Callable[[str], object], *, forgiven: tuple[type[OrlopError], ...] = ()
    ) -> int:
        """Do `verb` to every name and print the name; a failure is told and the rest goes on. 1 if any failed.

        `forgiven` are kinds of errors that are told and count as no failure.
        """
        code = 0
        for name in names:
            try:
                verb(name)
            except OrlopError as error:
                tell(error)
                code = code if isinstance(error, forgiven) else 1
            else:
                print(name)
        return code

    def reporting(self, *, quiet: bool = False, stream: int = 2, mode: str = "auto") -> Reporting:
        """What draws a verb's events on descriptor `stream`: `with session.reporting() as report:`.

        With `quiet` only warnings are told. `mode` is "auto" (live on a terminal), "plain" or "tty".
        """
        return Reporting(self.environ, stream, "quiet" if quiet else mode)


class Reporting:
    """A verb's report. What draws is made by the first event: most runs have none."""

    def __init__(self, environ: Mapping[str, str], stream: int, mode: str) -> None:
        self._about = (environ, stream, mode)
        self._progress: Progress | None = None

    def __call__(self, event: Event) -> None:
        """Tell one event. Safe to call from any thread."""
        progress = self._progress
        if progress is None:
            from orlop.cli.progress import choose

            progress = self._progress = choose(*self._about)
        progress.tell(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.close(failed=error is not None)


def tell(error: OrlopError) -> None:
    """An error for a person, on standard error."""
    sys.stdout.flush()
    print(f"orlop: {printable(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {printable(error.hint)}", file=sys.stderr)


def warn(text: str) -> None:
    """Something a person should know, on standard error."""
    sys.stdout.flush()
    print(f"WARNING: {printable(text)}", file=sys.stderr)


def display(text: str, template: str = "") -> None:
    """Print what was found in images, labels or events; on a terminal without what that would act on.

    Whoever wrote such marks into the `template` himself wants the terminal to act, and gets everything as it is.
    """
    print(printable(text) if sys.stdout.isatty() and printable(template) == template else text, end="")


def printable(text: str) -> str:
    """Without what a terminal would act on: names and reasons come from images and registries, too."""
    return text if text.isprintable() else "".join(one if one.isprintable() or one in "\n\t" else "?" for one in text)
