"""Named volumes: folders that outlive containers."""

from __future__ import annotations

import os

from orlop.engine import journal, moments
from orlop.engine.mounts import volume_name
from orlop.engine.requests import Prune, Removed
from orlop.errors import Conflict, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.engine.filters import Maker
    from orlop.engine.requests import Filter

_ANONYMOUS = "com.docker.volume.anonymous"  # docker's label for a volume that nobody named


class Volumes:
    """The verbs on volumes. Only the local driver: a folder under the root."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._namespace = engine.settings.namespace

    def path(self, name: str) -> str:
        """The folder with a volume's content."""
        return f"{self._engine.root.path}/volumes/{self._namespace}/{name}/_data"

    def create(self, name: str = "", labels: Iterable[str] = ()) -> dict[str, Any]:
        """Make a volume (its name is random if ""); one that is there already is returned as it is."""
        anonymous = not name
        name = volume_name(name) if name else os.urandom(32).hex()
        known = self._engine.root.state.volumes.get(self._namespace, name)
        if known is not None:
            return self._shown(known)
        pairs = dict(text.partition("=")[::2] for text in labels)
        if anonymous:
            pairs[_ANONYMOUS] = ""
        path = self.path(name)
        if not os.path.isdir(path):
            os.makedirs(path, mode=0o755, exist_ok=True)
            os.chmod(path, 0o755)  # noqa: S103  # whatever our umask: its users are the container's; no others get there
        record = {"name": name, "labels": pairs, "created": _now(), "filled": False}
        self._engine.root.state.volumes.put(self._namespace, name, record)
        journal.record(self._engine.root, "volume", "create", name, {"driver": "local"})
        return self._shown(record)

    def list(self, filters: Iterable[Filter] = ()) -> builtins.list[dict[str, Any]]:
        """All volumes by name, in docker's shape."""
        from orlop.engine.filters import equal, judge, labels, matching, yes_or_no

        used = self.in_use()
        known: dict[str, Maker[dict[str, Any]]] = {
            **matching("name", lambda record: record["name"]),
            **labels(lambda record: record["labels"]),
            **yes_or_no("dangling", lambda record: record["name"] not in used),
            **equal("driver", lambda _: "local"),
        }
        fits = judge(filters, known, what="volumes")
        records = self._engine.root.state.volumes.all(self._namespace)
        return sorted((self._shown(record) for record in records if fits(record)), key=lambda one: str(one["Name"]))

    def inspect(self, name: str) -> dict[str, Any]:
        """One volume in docker's shape; NotFound if there is none."""
        return self._shown(self._get(name))

    def remove(self, name: str, force: bool = False) -> None:  # docker's word
        """Delete a volume and what is in it. Conflict while a container, running or not, mounts it."""
        try:
            self._get(name)
        except NotFound:
            if force:
                return
            raise
        user = self.in_use().get(name)
        if user:
            raise Conflict(
                f"volume {name} is used by container {user}", hint=f"remove the container first: orlop rm {user}"
            )
        self._delete(name)

    def prune(self, request: Prune = Prune()) -> Removed:  # frozen
        """Delete the anonymous volumes that no container uses; with `all`, or the filter all=true, named ones too."""
        from orlop.engine.filters import boolean, judge, labels

        known: dict[str, Maker[dict[str, Any]]] = {
            "all": lambda _: lambda _: True,  # looked at here
            **labels(lambda record: record["labels"]),
        }
        fits = judge(request.filters, known, what="prunes of volumes")
        everything = request.all or any(boolean(one.key, one.value) for one in request.filters if one.key == "all")
        used = self.in_use()
        doomed = [
            record
            for record in self._engine.root.state.volumes.all(self._namespace)
            if record["name"] not in used and (everything or _ANONYMOUS in record["labels"]) and fits(record)
        ]
        reclaimed = 0
        for record in doomed:
            reclaimed += self.size(record["name"])
            self._delete(record["name"])
        return Removed(actions=tuple(("deleted volume", record["name"]) for record in doomed), reclaimed=reclaimed)

    def in_use(self) -> dict[str, str]:
        """Volume name -> the name of a container that mounts it."""
        return {
            mount["source"]: record.name
            for record in self._engine.root.state.containers.all(self._namespace)
            for mount in record.config["mounts"]
            if mount["kind"] == "volume" and mount.get("source")
        }

    def size(self, name: str) -> int:
        """Bytes on disk; a file with several names counts once."""
        from orlop.linux.diskspace import below

        return below(self.path(name))

    def is_anonymous(self, name: str) -> bool:
        """Whether nobody named it."""
        record = self._engine.root.state.volumes.get(self._namespace, name)
        return record is not None and _ANONYMOUS in record["labels"]

    def is_filled(self, name: str) -> bool:
        """Whether the image's content has been copied in, or there was no need to."""
        return bool(self._get(name)["filled"])

    def mark_filled(self, name: str) -> None:
        """The image's content has been copied in: never do it again."""
        self._engine.root.state.volumes.put(self._namespace, name, self._get(name) | {"filled": True})

    def _get(self, name: str) -> dict[str, Any]:
        record = self._engine.root.state.volumes.get(self._namespace, name)
        if record is None:
            raise NotFound(f"there is no volume {name!r}", hint="see orlop volume ls")
        return record

    def _delete(self, name: str) -> None:
        from orlop.store.collect import discard

        self._engine.root.state.volumes.delete(self._namespace, name)
        discard(self._engine.root, os.path.dirname(self.path(name)))
        journal.record(self._engine.root, "volume", "destroy", name, {"driver": "local"})

    def _shown(self, record: dict[str, Any]) -> dict[str, Any]:
        return {
            "CreatedAt": moments.rfc3339(record["created"]),
            "Driver": "local",
            "Labels": record["labels"] or None,
            "Mountpoint": self.path(record["name"]),
            "Name": record["name"],
            "Options": None,
            "Scope": "local",
        }


def _now() -> int:
    import time

    return time.time_ns()
