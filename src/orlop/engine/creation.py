"""Make a container: everything that could be wrong is found here, and nothing runs yet."""

from __future__ import annotations

import os
import time

from orlop.engine import attaching, journal, modes, names, options, status
from orlop.engine.requests import CreateContainer, Pull
from orlop.engine.storage import unpack_image
from orlop.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound
from orlop.store.containers import ContainerRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.engine.core import Engine
    from orlop.events import Report
    from orlop.store.images import ImageRecord

_TRIES = 8  # made-up names that may be taken before we give up


def create(engine: Engine, request: CreateContainer, report: Report) -> ContainerRecord:
    """Record a container and prepare its writable tree; returns its record. Nothing of it runs.

    Interrupted at any moment, it leaves either a whole container or nothing that the next collection would not reclaim.
    """
    root = engine.root
    image = find_image(engine, request, report)
    check_architecture(image, request)
    config = options.resolve(request, image.config_json)
    attaching.check(config, rootless=engine.settings.uid != 0)
    _join_others(engine, config)
    if request.name:
        _check_name(engine, names.checked(request.name).removeprefix("/"))
    with root.lease() as lease:
        keys = unpack_image(engine, image, lease, report)
        container = names.container_id()
        config["mounts"] = [_with_source(engine, mount) for mount in config["mounts"]]
        lease.hold("snapshot", container)
        with root.state.database.relaxed():  # the commit of the container takes it along
            engine.snapshotter.prepare(keys, container)
        # What removes itself need not survive a crash of the machine: then nobody is left to run it.
        with root.state.database.relaxed(request.auto_remove):
            record = _add(engine, request, image, config, container)
    journal.record(root, "container", "create", container, {"name": record.name, "image": record.image_name})
    return record


def find_image(engine: Engine, request: CreateContainer, report: Report) -> ImageRecord:
    """The image to run: the local one, or pulled as `request.pull` ("always", "missing", "never") says."""
    wanted = Pull(reference=request.image, platform=request.platform, policy=request.pull)
    return engine.images.obtain(wanted, report, announce=True)


def check_architecture(image: ImageRecord, request: CreateContainer) -> None:
    """Refuse an image of another platform than the one asked for; the host's is checked on the binary itself."""
    if not request.platform:
        return
    from orlop.oci.platform import Platform

    if Platform.parse(request.platform).normalized() != Platform.parse(image.platform).normalized():
        raise InvalidArgument(
            f"image {request.image} is {image.platform}, not {request.platform}",
            hint=f"orlop pull --platform {request.platform} {request.image}",
        )


def _join_others(engine: Engine, config: dict[str, Any]) -> None:
    """Names of other containers in the config become ids; --volumes-from takes their mounts over."""
    for key in ("pid", "ipc"):
        if name := modes.container_of(config[key]):
            other = engine.containers.record(name)
            if key == "ipc" and other.config["ipc"] == "none":
                raise FailedPrecondition(
                    f"--ipc container:{other.name}: that container has no shared memory to share (--ipc none)",
                    hint="start it with --ipc shareable",
                )
            config[key] = modes.sharing(other.id)
    mode = config["network"]["mode"]
    if name := modes.container_of(mode):
        config["network"]["mode"] = modes.sharing(engine.containers.record(name).id)
    elif mode != "bridge" and modes.names_network(mode):
        config["network"]["mode"] = engine.networks.inspect(mode)["Name"]  # it may be the beginning of an id
    targets = {mount["target"] for mount in config["mounts"]}
    for text in config["volumes_from"]:
        name, _, access = text.partition(":")
        for mount in engine.containers.record(name).config["mounts"]:
            if mount["target"] not in targets and mount["kind"] != "tmpfs":
                config["mounts"].append(mount | {"read_only": access == "ro" or mount.get("read_only", False)})
                targets.add(mount["target"])
    config["mounts"].sort(key=lambda mount: (mount["target"].count("/"), mount["target"]))


def _with_source(engine: Engine, mount: dict[str, Any]) -> dict[str, Any]:
    """A mount whose volume exists, made now if need be; a folder is meant from where we are now, not at each start."""
    if mount["kind"] == "bind":
        source = mount["source"]
        if source == "~" or source.startswith("~/"):
            source = engine.settings.home + source[1:]
        return mount | {"source": os.path.abspath(source)}
    if mount["kind"] != "volume":
        return mount
    volume = engine.volumes.create(mount.get("source", ""), mount.get("labels", ()))
    return mount | {"source": volume["Name"]}


def _check_name(engine: Engine, name: str) -> None:
    try:
        other = engine.containers.record(name)
    except NotFound:
        return
    if other.name == name:
        raise taken(name, other.id)


def taken(name: str, by: str) -> Conflict:
    """The error for a container name in use."""
    return Conflict(
        f"the name {name} is in use by container {by[:12]}",
        hint=f"remove it (orlop rm {name}), rename it (orlop rename {name} OTHER), or choose another name",
    )


def _add(
    engine: Engine, request: CreateContainer, image: ImageRecord, config: dict[str, Any], container: str
) -> ContainerRecord:
    """Write the record; a made-up name that is taken is made up again."""
    labels = dict((image.config_json.get("config") or {}).get("Labels") or {})
    labels |= dict(text.partition("=")[::2] for text in request.labels)
    record = ContainerRecord(
        id=container,
        namespace=engine.settings.namespace,
        name=names.checked(request.name).removeprefix("/") if request.name else names.made_up(),
        image=image.manifest,
        image_name=request.image,
        sandbox="",
        created=time.time_ns(),
        labels=labels,
        config=config,
        state={},
    )
    for attempt in range(_TRIES):
        try:
            engine.root.state.containers.add(record)
        except AlreadyExists as error:
            if request.name or attempt == _TRIES - 1:
                raise taken(record.name, engine.containers.record(record.name).id) from error
            record = record.replace(name=names.made_up())
        else:
            return record
    raise AssertionError("the loop above returns or raises")


def remove(engine: Engine, record: ContainerRecord, *, volumes: bool = False, measure: bool = False) -> int:
    """Delete a container that does not run, with all that is its own; with `measure`, the bytes its tree took."""
    from orlop.store.collect import discard

    root = engine.root
    freed = engine.snapshotter.usage(record.id) if measure else 0
    anonymous = [
        mount["source"]
        for mount in record.config["mounts"]
        if volumes and mount["kind"] == "volume" and engine.volumes.is_anonymous(mount["source"])
    ]
    with root.state.database.relaxed(record.config["auto_remove"]):
        root.state.containers.delete(record.id)
        if record.config["restart"]["name"] != "no":
            from orlop.engine import restarting

            restarting.call_off(root, record.id)
    with root.state.database.relaxed():  # should a crash bring it back, it is nobody's: the next collection takes it
        engine.snapshotter.remove(record.id)
    if os.path.lexists(f"{root.run_path}/runtime/{record.id}"):
        from orlop.engine import settling

        settling.give_back(engine, record)  # a start was killed with all who would have undone it
    for folder in (status.run_dir(root, record.id), status.data_dir(root, record.id)):
        if os.path.lexists(folder):
            discard(root, folder)
    in_use = engine.volumes.in_use() if anonymous else {}
    for name in anonymous:
        if name not in in_use:
            engine.volumes.remove(name, force=True)
    journal.record(root, "container", "destroy", record.id, {"name": record.name, "image": record.image_name})
    return freed
