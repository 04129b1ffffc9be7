"""The command line inside the test's process, over an engine in memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from enginetwin import Twin

from orlop.cli.program import run

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest


class Done:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


class Line:
    """`line("ps", "-a")` runs a command; `twin` is its engine."""

    def __init__(self, capfd: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.twin = Twin()
        self._capfd = capfd
        self._patch = patch

    def __call__(self, *words: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Done:
        self._patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        self._capfd.readouterr()
        make: Any = lambda _: self.twin  # noqa: E731  # the twin has the engine's shape, not its type
        code = run(list(words), {} if environ is None else environ, engine=make)
        out, err = self._capfd.readouterr()
        return Done(code, out, err)

    def ok(self, *words: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> str:
        """The output of a command that must succeed."""
        done = self(*words, stdin=stdin, environ=environ)
        assert done.code == 0, done.err
        return done.out
