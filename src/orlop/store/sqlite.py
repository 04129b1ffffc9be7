"""SQLite's C module, loaded without what it does not need.

`sqlite3` adds adapters for dates, and imports datetime for them: 2 ms of every command. `_sqlite3` itself asks
`functools` for `lru_cache`, to keep the statements of a connection, and for nothing else; but `functools` brings
`collections` along: another 2 ms. What `lru_cache` is made of is in C, and there at once.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


def load() -> ModuleType:
    """The module: `_sqlite3`, or `sqlite3` in another Python than CPython."""
    try:
        # where there are no threads, no other one can want the real functools meanwhile
        if {"functools", "threading"} & sys.modules.keys():
            return __import__("_sqlite3")
        sys.modules["functools"] = _without_collections()
        try:
            return __import__("_sqlite3")
        finally:
            del sys.modules["functools"]
    except ImportError:
        return __import__("sqlite3")


def _without_collections() -> ModuleType:
    """A stand-in for `functools`, for as long as `_sqlite3` takes to load."""
    stand_in = type(sys)("functools")
    vars(stand_in)["lru_cache"] = _lru_cache
    return stand_in


def _lru_cache(maxsize: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`functools.lru_cache(maxsize)`, but for the wrapper's name and documentation."""
    wrapper = __import__("_functools")._lru_cache_wrapper  # noqa: SLF001  # what functools itself takes from there
    return lambda function: wrapper(function, maxsize, False, tuple)
