"""The engine itself: settings, one root, and the nouns, each loaded when it is first used."""

from __future__ import annotations

import os
from _thread import RLock

from orlop.errors import FailedPrecondition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from orlop.engine.builds import Builds
    from orlop.engine.containers import Containers
    from orlop.engine.images import Images
    from orlop.engine.networks import Networks
    from orlop.engine.registries import Registries
    from orlop.engine.settings import Settings
    from orlop.engine.system import System
    from orlop.engine.volumes import Volumes
    from orlop.layers.snapshots import Snapshotter
    from orlop.runtime.spawner import Spawner
    from orlop.store.root import Root


class Engine:
    """All verbs, over one root. Cheap to make: the root is opened by the first verb that needs it.

    Safe to share between threads: whatever is made on first use is made once. Close it (or use `with`) to let go of
    the root's lock and databases; a closed engine stays closed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._root: Root | None = None
        self._snapshotter: Snapshotter | None = None
        self._spawner: Spawner | None = None
        self._nouns: dict[str, Any] = {}
        self._lock = RLock()  # of what is made on first use; reentrant, because the snapshotter asks for the root
        self._closed = False

    @property
    def root(self) -> Root:
        """The open root; opening checks its version and its file system. FailedPrecondition once it is closed."""
        found = self._root
        if found is not None:
            return found
        with self._lock:
            if self._root is None:
                from orlop.store.root import Root

                self._enter()
                self._root = Root.open(self.settings.root, self.settings.run_root)
            return self._root

    def _enter(self) -> None:
        """Before anything is opened or forked: an engine that was closed stays so, and a user enters his namespaces."""
        if self._closed:
            raise FailedPrecondition("this engine is closed", hint="open another one: orlop.open() is cheap")
        if self.settings.uid and os.getuid():
            from orlop.engine.rootless import enter

            enter(self.settings)

    @property
    def snapshotter(self) -> Snapshotter:
        """What makes writable trees out of layers here: overlay where the kernel mounts it, else native copies."""
        found = self._snapshotter
        if found is not None:
            return found
        with self._lock:
            if self._snapshotter is None:
                from orlop.engine.storage import choose_snapshotter

                self._snapshotter = choose_snapshotter(self.root, self.settings)
            return self._snapshotter

    @property
    def spawner(self) -> Spawner:
        """What starts shims: a process of its own, forked here while this process has one thread."""
        found = self._spawner
        if found is not None:
            return found
        with self._lock:
            if self._spawner is None:
                self._enter()  # what it forks must be where we are
                from orlop.engine.spawning import choose_spawner

                self._spawner = choose_spawner(self.disconnect, once=self.settings.one_start)
            return self._spawner

    @property
    def images(self) -> Images:
        """Images by name and id."""
        return self._noun("images", "Images")  # type: ignore[no-any-return]

    @property
    def builds(self) -> Builds:
        """Dockerfile builds."""
        return self._noun("builds", "Builds")  # type: ignore[no-any-return]

    @property
    def containers(self) -> Containers:
        """Containers: create, start, exec, stop, remove."""
        return self._noun("containers", "Containers")  # type: ignore[no-any-return]

    @property
    def registries(self) -> Registries:
        """Log in to registries and out of them."""
        return self._noun("registries", "Registries")  # type: ignore[no-any-return]

    @property
    def volumes(self) -> Volumes:
        """Named volumes."""
        return self._noun("volumes", "Volumes")  # type: ignore[no-any-return]

    @property
    def networks(self) -> Networks:
        """Container networks."""
        return self._noun("networks", "Networks")  # type: ignore[no-any-return]

    @property
    def system(self) -> System:
        """Disk usage, pruning, information, diagnosis."""
        return self._noun("system", "System")  # type: ignore[no-any-return]

    def _noun(self, module: str, name: str) -> Any:
        noun = self._nouns.get(module)
        if noun is None:
            # not importlib: it would load warnings, and cost every start half a millisecond
            found = __import__(f"orlop.engine.{module}", fromlist=(name,))
            with self._lock:
                noun = self._nouns.get(module) or self._nouns.setdefault(module, getattr(found, name)(self))
        return noun

    def disconnect(self) -> None:
        """Close the databases (they reopen when used): called before every fork."""
        if self._root is not None:
            self._root.disconnect()

    def close(self) -> None:
        """Let go of the root and of the spawner, for good. Running containers are not touched; twice is once."""
        with self._lock:
            self._closed = True
            if self._spawner is not None:
                self._spawner.close()
                self._spawner = None
            if self._root is not None:
                self._root.close(ending=self.settings.ending)
                self._root = None
                self._snapshotter = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(root: str = "", run_root: str = "", *, docker_config: str = "", namespace: str = "") -> Engine:
    """Open an engine for a Python program; this is `orlop.open()`.

    The environment is read here, once, as the command line reads it; arguments beat it. Nothing is touched on disk
    until the first verb.
    """
    import sys

    from orlop.engine.settings import from_environment, outer_uid

    settings = from_environment(
        os.environ,  # noqa: TID251  # orlop.open() is a face: it reads the environment once
        uid=outer_uid(os.environ),  # noqa: TID251  # the same reading
        program=(sys.executable, "-P", "-m", "orlop"),
        root=root,
        run_root=run_root,
    )
    if docker_config:
        settings = settings.replace(docker_config=docker_config)
    if namespace:
        settings = settings.replace(namespace=namespace)
    return Engine(settings)
