"""What doctor says of this machine, and of machines that are not here, from their settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.engine import doctor
from orlop.engine.requests import Finding
from orlop.engine.settings import Settings

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def findings(uid: int, tmp_path: Path, path: str = _PATH) -> dict[str, Finding]:
    """By subject."""
    settings = Settings(
        root=str(tmp_path / "not/there/yet"),
        run_root=str(tmp_path / "run"),
        docker_config="",
        uid=uid,
        environ=(("PATH", path),),
    )
    return {one.subject: one for one in doctor.examine(settings)}


@pytest.mark.parametrize("uid", [0, 54321])
def test_every_trouble_has_a_remedy_and_nothing_is_made(tmp_path: Path, uid: int) -> None:
    """Whatever is not well comes with what to do, and looking leaves no trace."""
    for one in findings(uid, tmp_path).values():
        assert one.state in {"ok", "warn", "fail"}
        assert one.detail
        assert one.remedy if one.state != "ok" else True, one
    assert os.listdir(tmp_path) == []


def test_this_machine_does_for_root_what_the_tests_need(tmp_path: Path) -> None:
    """Here, as root, nothing fails: kernel, seccomp, user namespaces, overlay, cgroups."""
    found = findings(0, tmp_path)
    assert {found[name].state for name in ("kernel", "seccomp", "user namespaces", "overlay", "cgroups")} == {"ok"}
    assert "ids" not in found


def test_users_hear_of_ids_network_and_limits(tmp_path: Path) -> None:
    """A user without ranges: user namespaces work, limits and ids are warned of with commands that mend them."""
    found = findings(54321, tmp_path)
    assert found["user namespaces"].state == "ok"
    assert found["ids"].state == "warn"
    assert "usermod --add-subuids" in found["ids"].remedy
    assert found["ids"].remedy.endswith("orlop internal teardown")
    assert "firewall" not in found
    assert found["cgroups"].state == "warn"


def test_missing_programs_are_named(tmp_path: Path) -> None:
    """Without newuidmap and pasta on the PATH, the packages that have them are the remedy."""
    found = findings(54321, tmp_path, path=str(tmp_path))
    assert "apt install uidmap" in found["ids"].remedy
    assert "apt install passt" in found["network"].remedy


@pytest.mark.parametrize(
    ("setting", "value", "word", "remedy"),
    [
        ("kernel/unprivileged_userns_clone", "0", "only root", "kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor", "profile"),
        ("user/max_user_namespaces", "0", "max_user_namespaces", "max_user_namespaces=15000"),
    ],
)
def test_settings_that_forbid_user_namespaces(setting: str, value: str, word: str, remedy: str) -> None:
    """Debian's switch, Ubuntu's AppArmor restriction and the kernel's limit are each told with their own way out."""
    (finding,) = doctor.user_namespaces(lambda path: value if path == f"/proc/sys/{setting}" else "")
    assert finding.state != "ok"
    assert word in finding.detail
    assert remedy in finding.remedy


def test_settings_of_an_open_machine() -> None:
    """Settings that allow, and settings that a kernel does not have, are no trouble."""
    allowed = {"unprivileged_userns_clone": "1", "apparmor_restrict_unprivileged_userns": "0"}
    (finding,) = doctor.user_namespaces(lambda path: allowed.get(os.path.basename(path), ""))
    assert finding.state == "ok"


@given(st.lists(st.tuples(st.integers(0, 1 << 31), st.integers(1, 1 << 20))))
def test_suggested_range_is_free(taken: list[tuple[int, int]]) -> None:
    """The ids that the remedy asks for belong to nobody else."""
    first = doctor.free_range([f"somebody:{start}:{count}" for start, count in taken] + ["broken", "a:b:c"])
    assert first >= 100_000
    assert all(first >= start + count for start, count in taken)
