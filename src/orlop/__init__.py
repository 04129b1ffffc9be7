"""orlop: the whole container toolchain as one Python package.

>>> import orlop
>>> with orlop.open() as engine:  # doctest: +SKIP
...     engine.images.pull(orlop.Pull(reference="127.0.0.1:5000/app"))

Names are loaded when they are first used (PEP 562), because every start of every program imports this module.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.core import Engine
    from orlop.engine.core import open_engine as open  # noqa: A004  # orlop.open() reads as the builtin does
    from orlop.engine.requests import (
        Build,
        CreateContainer,
        Exec,
        Filter,
        FromHost,
        Limits,
        ListContainers,
        ListImages,
        Load,
        Login,
        Logs,
        Prune,
        Pull,
        Push,
        RemoveImage,
        Save,
        Stdio,
    )
    from orlop.errors import OrlopError
    from orlop.events import Event

__version__ = "0.1.0"

__all__ = [
    "Build",
    "CreateContainer",
    "Engine",
    "Event",
    "Exec",
    "Filter",
    "FromHost",
    "Limits",
    "ListContainers",
    "ListImages",
    "Load",
    "Login",
    "Logs",
    "OrlopError",
    "Prune",
    "Pull",
    "Push",
    "RemoveImage",
    "Save",
    "Stdio",
    "__version__",
    "open",
]

_HOMES = {"Engine": "orlop.engine.core", "Event": "orlop.events", "OrlopError": "orlop.errors"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'orlop' has no attribute {name!r}")
    from importlib import import_module

    if name == "open":
        return import_module("orlop.engine.core").open_engine
    return getattr(import_module(_HOMES.get(name, "orlop.engine.requests")), name)


def __dir__() -> list[str]:
    return __all__
