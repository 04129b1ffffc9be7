"""Images from the command line: build, tag, list, save, load, remove, prune."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command import Orlop

MULTI_STAGE = """\
FROM busybox AS build
ARG WHAT=nothing
RUN mkdir /out && echo "made with $WHAT" > /out/result
FROM busybox
COPY --from=build /out/result /result
COPY app/ /app/
ENV MODE=prod
WORKDIR /app
USER 65534
LABEL org.example.kind="test"
EXPOSE 8080
CMD ["cat", "/result", "/app/main.txt"]
"""


def test_multi_stage_build_runs(orlop: Orlop, busybox: str, context: Callable[..., Path]) -> None:
    """Stages, arguments, COPY, and the image's own command, end to end."""
    folder = context(MULTI_STAGE, app__main__txt="", **{"app__main.txt": "main\n", "app__secret.key": "no"})
    (folder / ".dockerignore").write_text("**/*.key\n")
    orlop("build", "-t", "app", "--build-arg", "WHAT=love", str(folder))

    assert orlop("run", "--rm", "app") == "made with love\nmain\n"
    assert "secret.key" not in orlop("run", "--rm", "app", "ls", "-R", "/app")
    shown = json.loads(orlop("inspect", "app"))[0]["Config"]
    assert shown["Env"][-1] == "MODE=prod"
    assert shown["User"] == "65534"
    assert shown["ExposedPorts"] == {"8080/tcp": {}}
    assert shown["Labels"] == {"org.example.kind": "test"}


def test_cached_build_gives_the_same_image(orlop: Orlop, busybox: str, context: Callable[..., Path]) -> None:
    """A build in which nothing changed gives the same id; a changed file makes only what follows it anew."""
    folder = context("FROM busybox\nRUN date +%N > /stamp\nCOPY f /f\nRUN date +%N > /after\n", f="1")
    first = orlop("build", "-q", "-t", "c", str(folder))
    assert orlop("build", "-q", "-t", "c", str(folder)) == first
    stamp = orlop("run", "--rm", "c", "cat", "/stamp")
    (folder / "f").write_text("2")
    second = orlop("build", "-q", "-t", "c", str(folder))

    assert second != first
    assert orlop("run", "--rm", "c", "cat", "/stamp", "/f") == stamp + "2"
    assert orlop("images", "-q", "-f", "dangling=true").strip(), "the old image stays, dangling, until it is pruned"
    assert orlop("build", "-q", "--no-cache", "-t", "c", str(folder)) != second


def test_failed_step_shows_its_line(orlop: Orlop, busybox: str, context: Callable[..., Path]) -> None:
    """A RUN that fails is shown with its line, and its exit code."""
    error = orlop.fails("build", "-t", "bad", str(context("FROM busybox\nRUN echo fine\nRUN false || exit 42\n")))

    assert "Dockerfile:3" in error
    assert "42" in error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM busybox\nRUNN echo\n", ["Dockerfile:2", "RUNN", "RUN", "^"]),
        ("FROM busybox\nCOPY --colour=red a b\n", ["Dockerfile:2", "--colour"]),
        ("FROM busybox\nCOPY missing /x\n", ["Dockerfile:2", "missing"]),
        ("FROM busybox\nCOPY hidden.key /x\n", ["hidden.key", ".dockerignore:1"]),
        ("FROM busybox\nCOPY --from=nowhere /a /b\n", ["nowhere"]),
        ("RUN echo\n", ["FROM"]),
    ],
)
def test_bad_dockerfiles(orlop: Orlop, busybox: str, context: Callable[..., Path], text: str, words: list[str]) -> None:
    """Each mistake is shown where it is, in words."""
    folder = context(text, **{"hidden.key": "x", "a": "x"})
    (folder / ".dockerignore").write_text("*.key\n")
    error = orlop.fails("build", str(folder))

    for word in words:
        assert word in error


def test_tag_list_remove(orlop: Orlop, busybox: str) -> None:
    """tag, images with filters, rmi by name and by id."""
    orlop("tag", busybox, "127.0.0.1:5000/team/app:1")
    assert orlop("images", "-q", "127.0.0.1:5000/team/app").split() == orlop("images", "-q", busybox).split()
    assert "Untagged" in orlop("rmi", "127.0.0.1:5000/team/app:1")
    assert "REPOSITORY" in orlop("images")
    orlop("create", "--name", "user", busybox, "true")
    assert "used by container user" in orlop.fails("rmi", busybox)
    orlop("rm", "user")
    assert "Deleted" in orlop("rmi", busybox)
    assert orlop("images", "-q") == ""


def test_save_and_load(orlop: Orlop, busybox: str) -> None:
    """What is saved loads again, in both formats, from a file and from standard input, with its name and its id."""
    identity = orlop("images", "-q", "--no-trunc", busybox)
    for kind in ("docker-archive", "oci-archive"):
        path = orlop.folder / kind
        orlop("save", "--format", kind, "-o", str(path), busybox)
        orlop("rmi", busybox)
        assert "busybox" in orlop("load", stdin=path.read_bytes())
        assert orlop("images", "-q", "--no-trunc", busybox) == identity
        assert orlop("run", "--rm", busybox, "echo", "works") == "works\n"


def test_prune(orlop: Orlop, busybox: str, context: Callable[..., Path]) -> None:
    """System prune takes stopped containers and dangling images; -a what is unused; and says what it freed."""
    folder = context("FROM busybox\nCOPY f /f\n", f="1")
    orlop("build", "-q", "-t", "p", str(folder))
    (folder / "f").write_text("2")
    orlop("build", "-q", "-t", "p", str(folder))
    orlop("create", "--name", "stopped", "p", "true")
    out = orlop("system", "prune", "-f")
    assert "Total reclaimed space" in out
    assert orlop("ps", "-aq") == ""
    assert len(orlop("images", "-q").split()) == 2
    orlop("image", "prune", "-a", "-f")
    assert orlop("images", "-q") == ""
    layers = list((orlop.folder / "root/layers").iterdir())
    assert layers == []


def test_image_not_found_says_why(orlop: Orlop) -> None:
    """A registry that is not there is said to be unreachable, not that the image is missing."""
    error = orlop.fails("pull", "127.0.0.1:9/none")

    assert "127.0.0.1:9" in error
    assert "refuses connections" in error


def test_two_tags(orlop: Orlop) -> None:
    """A reference that cannot be is explained."""
    assert "two tags" in orlop.fails("pull", "ubuntu:14:04")


def test_newer_store_is_refused(orlop: Orlop, busybox: str) -> None:
    """A store that a newer orlop wrote is not touched."""
    (orlop.folder / "root/VERSION").write_text("99\n")
    error = orlop.fails("images")
    (orlop.folder / "root/VERSION").unlink()

    assert "newer" in error
