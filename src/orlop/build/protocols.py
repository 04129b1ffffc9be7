"""What the build asks of rooms it does not know, and the values that cross these borders. The engine hands them in."""

from __future__ import annotations

from orlop.layers.snapshots import Snapshot
from orlop.oci.digest import Digest
from orlop.oci.image import ImageConfig
from orlop.store.images import LayerRef
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from orlop.oci.platform import Platform
    from orlop.oci.reference import Reference


class BaseImage(Value):
    """An image to build upon or copy from. The blobs of its layers are kept, or they are unpacked."""

    reference: str
    config: ImageConfig
    layers: tuple[LayerRef, ...]
    manifest: Digest


class StepMount(Value):
    """Something that is put into a RUN step's root, and is gone afterwards.

    `kind` is "bind" (`source` is a file or folder of this machine) or "tmpfs" (`size` in bytes, 0: no limit). `target`
    is an absolute path in the root. It is made where it is missing (a file for a file), and the build removes it again.
    """

    kind: str
    target: str
    source: str = ""
    readonly: bool = False
    size: int = 0


class ExecStep(Value):
    """One RUN. `snapshot` is its root, not mounted yet; `env` is complete; `user` is a spec as in USER.

    `network` is "default", "none" or "host". `name` is for people: "base 3/7".
    """

    snapshot: Snapshot
    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str = ""
    mounts: tuple[StepMount, ...] = ()
    network: str = "default"
    hostname: str = "buildkitsandbox"
    name: str = ""


if TYPE_CHECKING:

    class Resolve(Protocol):
        """Finds an image by its reference. Called from several threads."""

        def __call__(self, reference: Reference, platform: Platform) -> BaseImage:
            """The image for `platform`. Raises NotFound, Unavailable, Unauthenticated..."""

    class Execute(Protocol):
        """Runs one RUN step in isolation. Called from several threads at once."""

        def __call__(self, step: ExecStep, output: Callable[[bytes], None]) -> int:
            """Run it to its end; `output` gets what it writes, as it comes. The exit code (128 + signal if killed)."""

    class Check(Protocol):
        """Looks at each layer that a step made, before it is kept."""

        def __call__(self, layer: LayerRef, created_by: str, /) -> None:
            """Raise an OrlopError to stop the build."""
