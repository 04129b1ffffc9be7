"""Images by name and id: list, tag, remove, inspect, history, prune; and the doors to pull, push, save and load."""

from __future__ import annotations

from orlop.engine import journal, moments
from orlop.engine.requests import Filter, HistoryRow, ImageSummary, ListImages, Prune, Removed, RemoveImage
from orlop.errors import Conflict, InvalidArgument, NotFound
from orlop.events import Event, ignore, serialised
from orlop.oci.digest import HEX
from orlop.oci.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable
    from typing import Any, BinaryIO

    from orlop.engine.core import Engine
    from orlop.engine.filters import Maker
    from orlop.engine.requests import FromHost, Load, Pull, Push, Save
    from orlop.events import Report
    from orlop.layers.tarentry import Buffer
    from orlop.store.containers import ContainerRecord
    from orlop.store.images import ImageRecord

POLICIES = ("always", "missing", "never")
_SHORT_ID = 12  # digits, as `images` prints them: shorter ones are rather a name
_KEEP_PARTIAL = 86400.0  # seconds for which an interrupted download waits to be resumed


class Images:
    """The verbs on images, in the engine's namespace."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._namespace = engine.settings.namespace

    def pull(self, request: Pull, report: Report = ignore) -> ImageSummary:
        """Fetch an image and unpack it. Afterwards its name points at it and every byte of it is verified and kept."""
        return self.summary(self.obtain(request, report))

    def obtain(self, request: Pull, report: Report = ignore, *, announce: bool = False) -> ImageRecord:
        """The image, fetched as `request.policy` says: "always", only where it is "missing" here, or "never".

        InvalidArgument for another word, NotFound where it is not here and must not be fetched. With `announce`, that
        it is missing here is reported.
        """
        if request.policy not in POLICIES:
            raise InvalidArgument(
                f"{request.policy!r} does not say when to pull", hint=f"use one of: {', '.join(POLICIES)}"
            )
        report = serialised(report)
        if request.policy != "always" and not request.all_tags:
            try:
                return self.find(request.reference)
            except NotFound as error:
                if request.policy == "never":
                    raise NotFound(
                        f"image {request.reference} is not here, and --pull never forbids to fetch it",
                        hint=f"orlop pull {request.reference}, or orlop images to see what there is",
                    ) from error
            if announce:
                report(Event(action="status", text=f"Unable to find image '{request.reference}' locally"))
        from orlop.engine import transfer

        return transfer.pull(self._engine, request, report)

    def push(self, request: Push, report: Report = ignore) -> str:
        """Send an image to the registry its name says; returns the manifest's digest."""
        from orlop.engine import transfer

        return transfer.push(self._engine, request, serialised(report))

    def save(self, request: Save, write: Callable[[Buffer], object]) -> None:
        """Write images as one archive, uncompressed, to `write`."""
        from orlop.engine import archive

        archive.save(self._engine, request, write)

    def load(self, request: Load, stream: BinaryIO, report: Report = ignore) -> tuple[str, ...]:
        """Read an archive; returns the familiar names (or ids, for what has none) that it brought."""
        from orlop.engine import archive

        return archive.load(self._engine, request, stream, serialised(report))

    def from_host(self, request: FromHost, report: Report = ignore) -> ImageSummary:
        """Make an image out of this machine's programs and the libraries they need."""
        from orlop.engine import host_image

        return self.summary(host_image.make(self._engine, request, report))

    def find(self, text: str) -> ImageRecord:
        """The image that a name, a digest or an id prefix means; NotFound otherwise."""
        return self._engine.root.state.images.find(self._namespace, text)

    def tag(self, source: str, target: str) -> None:
        """Give the image `source` the further name `target`; an image that had it loses it, and may become dangling."""
        record = self.find(source)
        self.name(record, Reference.parse(target))

    def name(self, record: ImageRecord, reference: Reference) -> None:
        """Point `reference` at `record`, and tell the journal."""
        if reference.digest:
            raise InvalidArgument(
                f"{reference.familiar} names a digest, which is not a tag", hint="tag with NAME:TAG instead"
            )
        images = self._engine.root.state.images
        images.tag(self._namespace, str(reference), record.manifest)
        self._engine.root.write_index()
        journal.record(self._engine.root, "image", "tag", record.config, {"name": reference.familiar})

    def list(self, request: ListImages = ListImages()) -> builtins.list[ImageSummary]:  # frozen
        """Images, newest first; each once, with all its names."""
        state = self._engine.root.state
        names = _names_by_manifest(state.images.names(self._namespace))
        used = _users(state.containers.all(self._namespace))
        rows = [
            _summary(record, names.get(record.manifest, []), len(used.get(record.manifest, ())))
            for record in state.images.all(self._namespace)
        ]
        if request.reference:
            rows = [row for row in (_only_matching(row, request.reference) for row in rows) if row]
        if request.filters:
            rows = list(filter(_list_test(request.filters, rows), rows))
        return sorted(rows, key=lambda row: -row.created)

    def summary(self, record: ImageRecord) -> ImageSummary:
        """One image as a row of `list`."""
        state = self._engine.root.state
        used = _users(state.containers.all(self._namespace))
        names = list(state.images.names_of(self._namespace, record.manifest))
        return _summary(record, names, len(used.get(record.manifest, ())))

    def inspect(self, name: str) -> dict[str, Any]:
        """Everything about one image, in the shape of `docker inspect`."""
        record = self.find(name)
        row = self.summary(record)
        config = record.config_json
        return {
            "Id": record.config,
            "RepoTags": list(row.names),
            "RepoDigests": list(row.digests),
            "Parent": "",
            "Comment": (config.get("history") or [{}])[-1].get("comment", ""),
            "Created": config.get("created", "0001-01-01T00:00:00Z"),
            "DockerVersion": "",
            "Author": config.get("author", ""),
            "Config": config.get("config") or {},
            "Architecture": config.get("architecture", ""),
            "Variant": config.get("variant", ""),
            "Os": config.get("os", ""),
            "Size": record.size,
            "GraphDriver": {"Name": self._engine.snapshotter.name, "Data": None},
            "RootFS": {"Type": "layers", "Layers": [layer.diff_id for layer in record.layers]},
            "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
            "Descriptor": {"mediaType": record.media_type, "digest": record.manifest},
        }

    def history(self, name: str) -> builtins.list[HistoryRow]:
        """How an image came to be, newest step first; sizes are those of the unpacked layers."""
        record = self.find(name)
        sizes = iter(self._layer_sizes(record))
        rows = [
            HistoryRow(
                id="<missing>",
                created=moments.unix(step.get("created", "")),
                created_by=step.get("created_by", ""),
                size=0 if step.get("empty_layer") else next(sizes, 0),
                comment=step.get("comment", ""),
            )
            for step in record.config_json.get("history") or ()
        ]
        rows.reverse()
        if rows:
            rows[0] = rows[0].replace(id=record.config, tags=self.summary(record).names)
        return rows

    def _layer_sizes(self, record: ImageRecord) -> builtins.list[int]:
        """Unpacked size of each layer, lowest first; a layer that is not unpacked counts with its blob's size."""
        known = {layer.diff_id: layer.size for layer in self._engine.root.state.layers.all()}
        return [known.get(layer.diff_id, layer.size) for layer in record.layers]

    def remove(self, request: RemoveImage) -> Removed:
        """Untag, and delete what has no name left. Conflict while a container uses the image (`force` untags even so).

        An image that a container uses is never deleted: forced, it stays as a dangling image.
        """
        root, images = self._engine.root, self._engine.root.state.images
        record, by_id = images.match(self._namespace, request.image)
        names = [Reference.parse(name) for name in images.names_of(self._namespace, record.manifest)]
        dropped = [name for name in names if by_id or name == Reference.parse(request.image)]
        users = _users(root.state.containers.all(self._namespace)).get(record.manifest, [])
        last = len(dropped) == len([name for name in names if not name.digest]) or not names or by_id
        if by_id and len([name for name in names if not name.digest]) > 1 and not request.force:
            raise Conflict(
                f"image {record.config.short} has several names: {', '.join(name.familiar for name in names)}",
                hint="remove it by one of its names, or use --force to remove them all",
            )
        if last and users and not request.force:
            raise Conflict(
                f"image {request.image} is used by container {users[0].name} ({users[0].id[:12]})",
                hint=f"remove the container first: orlop rm {users[0].name}; or use --force to untag only",
            )
        if last and request.force and any(self._is_running(user) for user in users) and by_id:
            raise Conflict(
                f"image {request.image} is used by the running container {users[0].name}",
                hint=f"stop it first: orlop rm -f {users[0].name}",
            )
        actions: builtins.list[tuple[str, str]] = []
        for name in names if last else dropped:
            images.untag(self._namespace, str(name))
            actions.append(("untagged", name.familiar))
            journal.record(root, "image", "untag", record.config, {"name": name.familiar})
        reclaimed = 0
        if last and not users:
            reclaimed = self._delete([record], actions)
        root.write_index()
        return Removed(actions=tuple(actions), reclaimed=reclaimed)

    def prune(self, request: Prune = Prune()) -> Removed:  # frozen
        """Delete dangling images, or with `all` (or the filter dangling=false) every image that no container uses."""
        state = self._engine.root.state
        named = _names_by_manifest(state.images.names(self._namespace))
        used = _users(state.containers.all(self._namespace))
        from orlop.engine.filters import boolean

        doomed_by = _prune_test(request.filters)
        dangling = [boolean(one.key, one.value) for one in request.filters if one.key == "dangling"]
        everything = request.all or not all(dangling)
        doomed = [
            record
            for record in state.images.all(self._namespace)
            if record.manifest not in used
            and (everything or not [name for name in named.get(record.manifest, []) if "@" not in name])
            and doomed_by(record)
        ]
        actions: builtins.list[tuple[str, str]] = []
        for record in doomed:
            for name in named.get(record.manifest, []):
                state.images.untag(self._namespace, name)
                actions.append(("untagged", Reference.parse_plain(name).familiar))
        reclaimed = self._delete(doomed, actions)
        self._engine.root.write_index()
        return Removed(actions=tuple(actions), reclaimed=reclaimed)

    def _delete(self, records: Iterable[ImageRecord], actions: builtins.list[tuple[str, str]]) -> int:
        """Drop records, then collect what nothing else needs. Returns the bytes that came free."""
        from orlop.store.collect import collect

        root = self._engine.root
        for record in records:
            root.state.images.delete(self._namespace, record.manifest)
            actions.append(("deleted", record.config))
            journal.record(root, "image", "delete", record.config)
        collected = collect(root, keep_partial_seconds=_KEEP_PARTIAL)
        actions += [("deleted", digest) for digest in collected.layers]
        return collected.bytes

    def _is_running(self, record: ContainerRecord) -> bool:
        return self._engine.containers.status(record).running

    def add(self, record: ImageRecord, names: Iterable[Reference]) -> None:
        """Record an image whose content is whole, then name it. AlreadyExists is impossible: names move."""
        state = self._engine.root.state
        with state.writing():  # one wait for the disk; and no `rmi` between the image and its name
            state.images.put(record)
            for name in names:
                state.images.tag(self._namespace, str(name), record.manifest)
        self._engine.root.write_index()


def _names_by_manifest(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, manifest in names:
        found.setdefault(manifest, []).append(name)
    return found


def _users(containers: Iterable[ContainerRecord]) -> dict[str, list[ContainerRecord]]:
    found: dict[str, list[ContainerRecord]] = {}
    for container in containers:
        found.setdefault(container.image, []).append(container)
    return found


def _summary(record: ImageRecord, names: list[str], containers: int) -> ImageSummary:
    references = [Reference.parse_plain(name) for name in names]
    tagged = [reference for reference in references if not reference.digest]
    repositories = sorted({reference.familiar_name for reference in references})
    return ImageSummary(
        id=record.config,
        target=record.manifest,
        names=tuple(sorted(reference.familiar for reference in tagged)),
        digests=tuple(f"{repository}@{record.manifest}" for repository in repositories),
        created=moments.unix(record.config_json.get("created", "")),
        size=record.size,
        labels=(record.config_json.get("config") or {}).get("Labels") or {},
        containers=containers,
        platform=record.platform,
    )


def _only_matching(row: ImageSummary, wanted: str) -> ImageSummary | None:
    """`images NAME`: the row with only the names that match; a name without a tag means all its tags."""
    from fnmatch import fnmatchcase

    if wanted.startswith("sha256:") or (len(wanted) >= _SHORT_ID and not wanted.strip(HEX)):
        if row.id.removeprefix("sha256:").startswith(wanted.removeprefix("sha256:")):
            return row
        if wanted.startswith("sha256:"):
            return None
    if any(mark in wanted for mark in "*?["):
        kept = [name for name in row.names if fnmatchcase(name, wanted) or fnmatchcase(name.rpartition(":")[0], wanted)]
    else:
        reference = Reference.parse_plain(wanted)
        kept = [
            name
            for name in row.names
            if Reference.parse(name) == reference
            or (not reference.tag and Reference.parse(name).name == reference.name)
        ]
    return row.replace(names=tuple(kept)) if kept else None


def _list_test(filters: Iterable[Filter], rows: Iterable[ImageSummary]) -> Callable[[ImageSummary], bool]:
    from orlop.engine.filters import judge, labels, ordered, until, yes_or_no

    def created(key: str, name: str) -> float:
        found = [row.created for row in rows if _only_matching(row, name)]
        if not found:
            raise InvalidArgument(f"--filter {key}={name}: no such image", hint="name an image that `images` shows")
        return found[0]

    known: dict[str, Maker[ImageSummary]] = {
        **yes_or_no("dangling", lambda row: not row.names),
        "reference": lambda name: lambda row: _only_matching(row, name) is not None,
        **labels(lambda row: row.labels),
        **ordered(lambda row: row.created, created),
        **until(lambda row: row.created),
    }
    return judge(filters, known, what="images")


def _prune_test(filters: Iterable[Filter]) -> Callable[[ImageRecord], bool]:
    from orlop.engine.filters import judge, labels, until

    known: dict[str, Maker[ImageRecord]] = {
        "dangling": lambda _: lambda _: True,  # `prune` has looked at it already
        **labels(lambda record: (record.config_json.get("config") or {}).get("Labels")),
        **until(lambda record: moments.unix(record.config_json.get("created", ""))),
    }
    return judge(filters, known, what="prunes of images")
