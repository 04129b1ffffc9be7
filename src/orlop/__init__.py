"""orlop: the whole container toolchain as one Python package.

>>> import orlop
>>> with orlop.open() as engine:  # doctest: +SKIP
...     engine.images.pull(orlop.Pull(reference="127.0.0.1:5000/app"))

Names are loaded when they are first used (PEP 562), because every start of every program imports this module.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop import errors
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
    from orlop.errors import Cancelled, NotFound, OrlopError
    from orlop.events import Event

__version__ = "0.1.0"

__all__ = [
    "Build",
    "Cancelled",
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
    "NotFound",
    "OrlopError",
    "Prune",
    "Pull",
    "Push",
    "RemoveImage",
    "Save",
    "Stdio",
    "__version__",
    "errors",
    "open",
]

_HOMES = {
    "Cancelled": "orlop.errors",
    "Engine": "orlop.engine.core",
    "Event": "orlop.events",
    "NotFound": "orlop.errors",
    "OrlopError": "orlop.errors",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'orlop' has no attribute {name!r}")
    from importlib import import_module

    if name == "errors":
        return import_module("orlop.errors")
    if name == "open":
        return import_module("orlop.engine.core").open_engine
    return getattr(import_module(_HOMES.get(name, "orlop.engine.requests")), name)


def __dir__() -> list[str]:
    return __all__
