"""What the environment says, read once by a face and passed down frozen."""

from __future__ import annotations

import os

from orlop.errors import InvalidArgument
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Settings(Value):
    """Where things are and who asks.

    `environ` keeps only the variables that the engine may hand on (proxies, SOURCE_DATE_EPOCH): nothing below a face
    looks at the process' environment.
    """

    root: str
    run_root: str
    docker_config: str  # the folder of docker's config.json
    namespace: str = "default"
    runtime: str = ""  # an OCI runtime program; "" is orlop's own, inside this process
    snapshotter: str = ""  # "overlay" | "native"; "" chooses what works here
    insecure_registries: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    uid: int = 0  # as seen outside any user namespace of ours
    home: str = "/root"
    program: tuple[str, ...] = ()  # argv of this orlop, for what must run later (exit handlers)
    environ: tuple[tuple[str, str], ...] = ()
    ending: bool = False  # the process ends with this engine, as the command line's does
    one_start: bool = False  # it starts one container at most


OUTER_UID = "ORLOP_OUTER_UID"
"""Set for what runs later inside our user namespace, where every user is 0: who it is outside."""

_KEPT = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SOURCE_DATE_EPOCH", "PATH")


def from_environment(
    environ: Mapping[str, str], *, uid: int, program: tuple[str, ...], root: str = "", run_root: str = ""
) -> Settings:
    """Settings of a process.

    Explicit `root` and `run_root` beat ORLOP_ROOT and ORLOP_RUN_ROOT, which beat the defaults: /var/lib/orlop and
    /run/orlop for root, the XDG folders for others.
    """
    home = environ.get("HOME") or ("/root" if uid == 0 else f"/home/{uid}")
    if uid == 0:
        default_root, default_run = "/var/lib/orlop", "/run/orlop"
    else:
        default_root = (environ.get("XDG_DATA_HOME") or f"{home}/.local/share") + "/orlop"
        default_run = (environ.get("XDG_RUNTIME_DIR") or f"{home}/.cache/orlop-run") + "/orlop"
    namespace = environ.get("ORLOP_NAMESPACE") or "default"
    if not namespace.replace("-", "").replace(".", "").replace("_", "").isalnum():
        raise InvalidArgument(
            f"ORLOP_NAMESPACE is {namespace!r}, which is not a name", hint="use letters, digits, '-', '_', '.'"
        )
    return Settings(
        root=_absolute(root or environ.get("ORLOP_ROOT") or default_root),
        run_root=_absolute(run_root or environ.get("ORLOP_RUN_ROOT") or default_run),
        docker_config=environ.get("DOCKER_CONFIG") or f"{home}/.docker",
        namespace=namespace,
        runtime=environ.get("ORLOP_RUNTIME", ""),
        snapshotter=environ.get("ORLOP_SNAPSHOTTER", ""),
        insecure_registries=tuple(environ.get("ORLOP_INSECURE_REGISTRIES", "").replace(",", " ").split()),
        mirrors=tuple(environ.get("ORLOP_MIRRORS", "").replace(",", " ").split()),
        uid=uid,
        home=home,
        program=program,
        environ=tuple((name, environ[name]) for name in _KEPT if name in environ),
    )


def outer_uid(environ: Mapping[str, str]) -> int:
    """Our user id outside of the user namespace that orlop makes for those who are not root."""
    uid = os.getuid()
    told = environ.get(OUTER_UID, "")
    return int(told) if uid == 0 and told.isdigit() else uid


def _absolute(path: str) -> str:
    return os.path.abspath(path)
