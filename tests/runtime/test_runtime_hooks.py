"""Hooks: each kind at its point, in its namespaces, told the state; and what their failures do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orlop.errors import DeadlineExceeded, FailedPrecondition
from orlop.runtime import lifecycle

if TYPE_CHECKING:
    from orlop.runtime.testing import Box


def _note(box: Box, kind: str, more: str = "true") -> dict[str, Any]:
    """A hook that appends the state it gets, its kind and its hostname to a file."""
    script = f"{more}; (echo {kind}; hostname; cat; echo) >> {box.folder}/notes"
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin", "WHO=me"]}


def _notes(box: Box) -> list[tuple[str, str, dict[str, Any]]]:
    lines = (box.folder / "notes").read_text().splitlines()
    return [(lines[at], lines[at + 1], json.loads(lines[at + 2])) for at in range(0, len(lines), 3)]


def test_hooks_run_at_their_points(box: Box) -> None:
    """Each kind runs once, in order, in the namespaces it should, and sees the state of that moment."""
    box.spec["hostname"] = "inside"
    box.bind(box.folder, str(box.folder))
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    box.spec["hooks"] = {kind: [_note(box, kind)] for kind in kinds}
    (box.rootfs / "usr/bin").mkdir(parents=True)
    created = box.create("/bin/sleep", "100")
    assert [kind for kind, _, _ in _notes(box)] == ["prestart", "createRuntime", "createContainer"]
    box.start(created)
    assert [kind for kind, _, _ in _notes(box)][3:] == ["startContainer", "poststart"]
    box.kill(created)
    lifecycle.delete(created.container.id, state_root=box.state_root)

    notes = {kind: (host, state) for kind, host, state in _notes(box)}
    assert list(notes) == list(kinds)
    assert {kind: notes[kind][1]["status"] for kind in kinds} == {
        "prestart": "created",
        "createRuntime": "creating",
        "createContainer": "creating",
        "startContainer": "created",
        "poststart": "running",
        "poststop": "stopped",
    }
    assert notes["createRuntime"][1]["pid"] == created.container.pid
    assert notes["createRuntime"][1]["bundle"] == str(box.bundle)
    assert notes["createContainer"][0] == notes["startContainer"][0] == "inside"
    assert notes["prestart"][0] != "inside"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_stops_the_creation(box: Box, kind: str) -> None:
    """What a hook complains about is in the error, and nothing is left."""
    box.spec["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo it is broken >&2; exit 3"]}]}
    with pytest.raises(FailedPrecondition, match="exit code 3: it is broken"):
        box.create("/bin/true")
    assert box.leftovers() == []


def test_a_failing_start_hook_stops_the_start(box: Box) -> None:
    """StartContainer is looked up in the container, and its failure ends it before the program runs."""
    box.spec["hooks"] = {"startContainer": [{"path": "/bin/false"}]}
    created = box.create("/bin/sleep", "100")
    with pytest.raises(FailedPrecondition, match="startContainer hook /bin/false"):
        box.start(created)
    box.end(created)
    box.spec["hooks"] = {"startContainer": [{"path": "/not/there"}]}
    created = box.create("/bin/sleep", "100")
    with pytest.raises(FailedPrecondition, match="/not/there"):
        box.start(created)
    box.end(created)


def test_a_hook_that_hangs_is_killed(box: Box) -> None:
    """A hook that outlives its timeout is killed, and the container with it."""
    box.spec["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}
    with pytest.raises(DeadlineExceeded, match="1 seconds"):
        box.create("/bin/true")


@pytest.mark.parametrize("kind", ["poststart", "poststop"])
def test_late_hooks_only_warn(box: Box, kind: str) -> None:
    """What fails after the start, or after the end, is warned of and stops nothing; the other hooks still run."""
    box.spec["hooks"] = {kind: [{"path": "/bin/false"}, _note(box, kind)]}
    created = box.running("/bin/sleep", "100")
    box.kill(created)
    lifecycle.delete(created.container.id, state_root=box.state_root, warn=box.warnings.append)
    assert [name for name, _, _ in _notes(box)] == [kind]
    assert any("/bin/false" in text for text in box.warnings)


def test_a_hook_that_does_not_read_stops_nothing(box: Box) -> None:
    """A hook may ignore its input, and what it leaves running does not hold us up."""
    box.spec["annotations"] = {"long": "x" * 300_000}
    box.spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "sleep 0.2 & exit 0"]}]}
    assert box.sh("echo fine").out == "fine\n"


def test_the_environment_of_hooks_is_theirs(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook gets the environment that the spec gives it, and nothing of ours."""
    monkeypatch.setenv("SECRET", "ours")
    script = f"env > {box.folder}/env"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin", "A=1"]}
    box.spec["hooks"] = {"createRuntime": [hook]}
    box.create("/bin/true")
    text = (box.folder / "env").read_text()
    assert "A=1" in text
    assert "SECRET" not in text
