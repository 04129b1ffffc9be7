"""Containers as `inspect` and `ps` show them: docker's names and types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import orlop
from orlop.engine import inspection, journal
from orlop.engine.requests import Filter, ListContainers, Prune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orlop.engine.core import Engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine with an image `app` of one file."""
    (tmp_path / "file").write_text("x")
    with orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run")) as opened:
        text = "FROM scratch\nCOPY file /bin/app\nEXPOSE 81\nVOLUME /made\n"
        opened.builds.build(orlop.Build(context=str(tmp_path), dockerfile_text=text, tags=("app",)))
        yield opened


def made(engine: Engine, **asked: Any) -> dict[str, Any]:
    """A container that was created and never ran, inspected."""
    given = {"image": "app", "command": ("/bin/app", "say two words", "x"), "name": "web"} | asked
    return engine.containers.inspect(engine.containers.create(orlop.CreateContainer(**given)))


def test_ports_have_dockers_shape(engine: Engine) -> None:
    """PortBindings maps a container's port to host addresses; what is published is exposed, too."""
    found = made(engine, publish=("8080:80", "127.0.0.1:5300:53/udp", "90", "9000-9001:70"))

    assert found["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5300"}],
        "90/tcp": [{"HostIp": "", "HostPort": ""}],
        "70/tcp": [{"HostIp": "", "HostPort": "9000-9001"}],
    }
    assert set(found["Config"]["ExposedPorts"]) == {"81/tcp", "80/tcp", "53/udp", "90/tcp", "70/tcp"}


def test_mounts_have_dockers_shape(engine: Engine, tmp_path: Path) -> None:
    """Only what nobody named is in Config.Volumes; folders have a propagation, volumes a name and a driver."""
    found = made(engine, volumes=(f"{tmp_path}:/host:ro", "data:/data"), tmpfs=("/scratch:size=1m",))
    by_target = {mount["Destination"]: mount for mount in found["Mounts"]}

    assert found["Config"]["Volumes"] == {"/made": {}}
    assert found["HostConfig"]["Tmpfs"] == {"/scratch": "size=1m"}
    assert by_target["/host"] == {
        "Type": "bind", "Source": str(tmp_path), "Destination": "/host", "Mode": "ro", "RW": False,
        "Propagation": "rprivate",
    }  # fmt: skip
    assert (by_target["/data"]["Name"], by_target["/data"]["Driver"]) == ("data", "local")
    assert "/scratch" not in engine.containers.summaries()[0].mounts


def test_options_come_back(engine: Engine) -> None:
    """What was asked for with docker's options is found under docker's names."""
    found = made(
        engine, security=("no-new-privileges", "seccomp=unconfined"), groups=("7",), cgroup_parent="/deck",
        limits=orlop.Limits(memory=64 << 20, ulimits=("nofile=5:9", "core=-1")), log_options=("max-size=1m",),
        devices=("/dev/null:/dev/x:r",),
    )["HostConfig"]  # fmt: skip

    assert found["SecurityOpt"] == ["no-new-privileges", "seccomp=unconfined"]
    assert found["Ulimits"] == [{"Name": "nofile", "Hard": 9, "Soft": 5}, {"Name": "core", "Hard": -1, "Soft": -1}]
    assert (found["Memory"], found["MemorySwap"], found["MemorySwappiness"]) == (64 << 20, 128 << 20, None)
    assert (found["GroupAdd"], found["CgroupParent"]) == (["7"], "/deck")
    assert found["LogConfig"]["Config"] == {"max-size": str(1 << 20), "max-file": "1"}
    assert found["Devices"] == [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]


def test_commands_with_blanks_are_quoted(engine: Engine) -> None:
    """`ps` shows arguments that have blanks in quotes, so that they can be told apart."""
    made(engine)

    assert engine.containers.summaries()[0].command == "/bin/app 'say two words' x"


@pytest.mark.parametrize(
    ("key", "value", "there"),
    [
        ("name", "/web", True), ("name", "^/web$", True), ("name", "^/eb", False), ("health", "none", True),
        ("expose", "81", True), ("expose", "80-90/tcp", True), ("expose", "8080", False), ("expose", "81/udp", False),
        ("is-task", "false", True), ("is-task", "true", False),
    ],
)  # fmt: skip
def test_filters_of_docker(engine: Engine, key: str, value: str, there: bool) -> None:
    """Docker's filters that ask for what every container has, or none."""
    made(engine, publish=("8080:80",))

    rows = engine.containers.list(ListContainers(all=True, filters=(Filter(key=key, value=value),)))

    assert bool(rows) is there


def test_events_say_it_as_old_clients_read_it(engine: Engine) -> None:
    """Events have status, id and from beside docker's newer fields."""
    found = made(engine)
    engine.containers.prune(Prune())

    events = [event for event in journal.read(engine.root) if event["Type"] == "container"]

    assert [(event["status"], event["id"], event["from"], event["scope"]) for event in events] == [
        ("create", found["Id"], "app", "local"),
        ("destroy", found["Id"], "app", "local"),
    ]


def test_ports_of_a_config() -> None:
    """Ranges are unrolled, and nothing is told twice."""
    config = {"network": {"expose": ["80-81/tcp", "80/tcp"], "publish": ["8080:80", "82"]}}

    assert inspection.exposed(config) == ["80/tcp", "81/tcp", "82/tcp"]
