"""What a container is, out of what was asked and what the image says."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.engine import limitrules, mounts, names, options, specs
from orlop.engine.mounts import MountPoint
from orlop.engine.requests import CreateContainer, Limits
from orlop.errors import InvalidArgument, OrlopError, Unimplemented
from orlop.linux.users import Identity

IMAGE: dict[str, Any] = {
    "config": {
        "Entrypoint": ["/bin/entry"],
        "Cmd": ["default"],
        "Env": ["PATH=/x", "A=1"],
        "WorkingDir": "/work",
        "User": "app",
        "Volumes": {"/data": {}, "/data/deep": {}},
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGINT",
    }
}


def asked(**given: Any) -> dict[str, Any]:
    return options.resolve(CreateContainer(image="app", **given), IMAGE)


def test_image_says_what_was_not_asked() -> None:
    """Whatever the request leaves open comes from the image's config."""
    config = asked()

    assert config["entrypoint"] + config["cmd"] == ["/bin/entry", "default"]
    assert (config["cwd"], config["user"], config["stop_signal"]) == ("/work", "app", "SIGINT")
    assert config["network"]["expose"] == ["80/tcp"]
    assert [mount["target"] for mount in config["mounts"]] == ["/data", "/data/deep"]


@pytest.mark.parametrize(
    ("given", "argv"),
    [
        ({"command": ("other",)}, ["/bin/entry", "other"]),
        ({"entrypoint": ("/bin/sh", "-c")}, ["/bin/sh", "-c"]),  # the image's Cmd belongs to its own Entrypoint
        ({"entrypoint": (), "command": ("ls", "-l")}, ["ls", "-l"]),
    ],
)
def test_entrypoint_and_command(given: dict[str, Any], argv: list[str]) -> None:
    """--entrypoint replaces the image's ENTRYPOINT and drops its CMD; a command replaces CMD."""
    config = asked(**given)

    assert config["entrypoint"] + config["cmd"] == argv


def test_nothing_to_run() -> None:
    """An image without a command needs one from the user, and the error says how."""
    with pytest.raises(InvalidArgument, match="nothing to run") as caught:
        options.resolve(CreateContainer(image="scratchy"), {})

    assert "orlop run scratchy COMMAND" in caught.value.hint


def test_environment_replaces_in_place() -> None:
    """Later entries win and keep the first one's place; PATH is there even if nobody said it."""
    assert options.environment(["A=1", "B=2"], ["A=3", "C="]) == [options.DEFAULT_PATH, "A=3", "B=2", "C="]
    assert options.environment([], [], tty=True)[1] == "TERM=xterm"


@pytest.mark.parametrize("entry", ["", "=x", "A\0=1"])
def test_bad_environment(entry: str) -> None:
    """An entry without a name, or with a NUL, is refused before anything is made."""
    with pytest.raises(InvalidArgument):
        options.environment([], [entry])


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(memory=1 << 20), "minimum of 6m"),
        (Limits(memory_swap=1 << 30), "needs --memory"),
        (Limits(memory=1 << 30, memory_swap=1 << 29), "less than --memory"),
        (Limits(memory=1 << 28, memory_reservation=1 << 29), "more than --memory"),
        (Limits(nano_cpus=10**9, cpu_quota=1000), "two ways"),
        (Limits(memory_reservation=1 << 20), "minimum of 6m"),
        (Limits(memory=-5), "--memory is -5"),
        (Limits(memory_swap=-2), "--memory-swap is -2"),
        (Limits(memory_swappiness=101), "--memory-swappiness is 101"),
        (Limits(nano_cpus=10**7 - 1), "--cpus is"),
        (Limits(nano_cpus=100_000 * 10**9), "this machine has"),
        (Limits(cpu_shares=-1), "--cpu-shares is -1"),
        (Limits(cpu_period=10), "--cpu-period is 10"),
        (Limits(cpu_quota=10), "--cpu-quota is 10"),
        (Limits(cpuset_cpus="a"), "--cpuset-cpus 'a'"),
        (Limits(cpuset_cpus="3-1"), "--cpuset-cpus '3-1'"),
        (Limits(cpuset_mems="0,"), "--cpuset-mems '0,'"),
        (Limits(blkio_weight=5), "--blkio-weight is 5"),
        (Limits(oom_score_adj=2000), "--oom-score-adj is 2000"),
        (Limits(shm_size=-1), "--shm-size is -1"),
    ],
)
def test_limits_that_contradict(limits: Limits, words: str) -> None:
    """Limits that no kernel could honour are refused by name."""
    with pytest.raises(InvalidArgument, match=words):
        asked(limits=limits)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(memory=6 << 20, memory_swap=-1, memory_swappiness=0),
        Limits(nano_cpus=10**7),
        Limits(cpu_quota=-1, cpu_period=100_000),
        Limits(cpuset_cpus="0,2-3", cpuset_mems="0"),
        Limits(oom_score_adj=-1000, blkio_weight=10),
    ],
)
def test_limits_that_docker_takes(limits: Limits) -> None:
    """What docker takes is taken, the edges too."""
    assert asked(limits=limits)["limits"]["memory"] == limits.memory


def test_all_cpus_of_the_machine_and_no_more() -> None:
    """--cpus goes up to what the machine has, as docker has it: more is a slip of the pen."""
    limitrules.check(Limits(nano_cpus=4 * 10**9), cpus=4)
    with pytest.raises(InvalidArgument, match="this machine has 4"):
        limitrules.check(Limits(nano_cpus=4 * 10**9 + 1), cpus=4)


def test_working_folder_is_absolute() -> None:
    """A relative working folder is refused in the option's words."""
    with pytest.raises(InvalidArgument, match="--workdir 'rel'"):
        asked(workdir="rel")


def test_primary_group_is_among_the_others() -> None:
    """The program's own group is in its list of groups too, so that no setgid program sheds it (CVE-2022-36109)."""
    assert specs.user(Identity(uid=5, gid=7, groups=(9,)), (8, 9))["additionalGids"] == [7, 9, 8]


def test_mount_of_a_relative_folder() -> None:
    """--mount takes ./folder, as -v does; a bare word could be a volume's name and is refused."""
    assert mounts.parse_mount("type=bind,src=./here,dst=/x").source == "./here"
    with pytest.raises(InvalidArgument, match="path of a source"):
        mounts.parse_mount("type=bind,src=here,dst=/x")


@pytest.mark.parametrize(
    "given",
    [
        {"restart": "sometimes"},
        {"restart": "always", "auto_remove": True},
        {"security": ("selinux=on",)},
        {"sysctls": ("net.x",)},
        {"network": "none", "publish": ("80:80",)},
        {"devices": ("null",)},
        {"log_options": ("max-size=big",)},
        {"volumes": ("/:/",)},
        {"volumes": ("a:/x", "b:/x")},
        {"volumes": ("a:b:c:d",)},
        {"volumes": ("/h:/c:weird",)},
        {"mounts": ("type=bind,source=rel,target=/x",)},
        {"mounts": ("type=cloud,target=/x",)},
        {"mounts": ("type=tmpfs,target=/x,source=/y",)},
        {"mounts": ("type=bind,source=/a,target=/b,colour=red",)},
    ],
)
def test_nonsense_is_refused(given: dict[str, Any]) -> None:
    """Every option that cannot be meant is an InvalidArgument that shows the text."""
    with pytest.raises(InvalidArgument):
        asked(**given)


def test_log_driver_that_is_not_there() -> None:
    """An unknown log driver is said to be missing, not ignored."""
    with pytest.raises(Unimplemented, match="syslog"):
        asked(log_driver="syslog")


def test_an_asked_mount_replaces_the_images_volume() -> None:
    """A mount at a VOLUME's path takes its place; parents come first."""
    config = asked(volumes=("/host:/data:ro",))

    assert config["mounts"][0] == {
        "kind": "bind",
        "target": "/data",
        "source": "/host",
        "read_only": True,
        "create_source": True,
    }


@given(
    st.builds(
        lambda target, source, ro, options: MountPoint(
            kind="bind", target="/" + target, source="/" + source, read_only=ro, options=tuple(options)
        ),
        st.text("abc/", min_size=1),
        st.text("abc"),
        st.booleans(),
        st.lists(st.text("ab", min_size=1)),
    )
)
def test_mounts_survive_the_record(mount: MountPoint) -> None:
    """A mount read back from the container's record is the mount that was written."""
    assert MountPoint.from_json(mount.to_json()) == mount


@given(st.text())
def test_parsers_raise_nothing_else(text: str) -> None:
    """Whatever a person types, the parsers answer with a value or an orlop error."""
    for parse in (mounts.parse_volume, mounts.parse_mount, mounts.parse_tmpfs, names.checked):
        with contextlib.suppress(OrlopError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "size"), [("200m", 200 << 20), ("1g", 1 << 30), ("1GiB", 1 << 30), ("512", 512), ("1.5k", 1536)]
)
def test_sizes(text: str, size: int) -> None:
    """Sizes of limits are powers of 1024, as docker's are."""
    assert options.size(text, what="--memory") == size


EVERY = ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, ["CAP_CHOWN"]),
        ({"cap_add": ("SYS_ADMIN",)}, ["CAP_CHOWN", "CAP_SYS_ADMIN"]),
        ({"cap_drop": ("ALL",), "cap_add": ("kill",)}, ["CAP_KILL"]),
        ({"cap_add": ("ALL",), "cap_drop": ("KILL",)}, ["CAP_CHOWN", "CAP_SYS_ADMIN"]),
        ({"privileged": True}, EVERY),
    ],
)
def test_capabilities(given: dict[str, Any], chosen: list[str]) -> None:
    """--cap-drop ALL empties the set, --cap-add ALL fills it, single names adjust it, --privileged is everything."""
    assert options.capabilities(asked(**given), ["CAP_CHOWN"], EVERY) == chosen


def test_unknown_capability() -> None:
    """A capability that the kernel does not know is refused by name."""
    with pytest.raises(InvalidArgument, match="CAP_FLY"):
        options.capabilities(asked(cap_add=("FLY",)), ["CAP_CHOWN"], EVERY)


def test_made_up_names_are_names() -> None:
    """Names and ids that the engine makes up pass its own check."""
    for _ in range(50):
        assert names.checked(names.made_up())
        assert len(names.container_id()) == 64


@pytest.mark.parametrize(
    ("text", "on"), [("no-new-privileges", True), ("no-new-privileges=true", True), ("no-new-privileges:false", False)]
)
def test_no_new_privileges_is_yes_or_no(text: str, *, on: bool) -> None:
    """The option is docker's; a value that is neither is refused, since it would be guessed at."""
    assert options.security([text])["no_new_privileges"] is on
    with pytest.raises(InvalidArgument, match="maybe"):
        options.security(["no-new-privileges=maybe"])
