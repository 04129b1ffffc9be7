"""The cache never changes what is built: random Dockerfiles, edited again and again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.build.caches import CacheMounts

if TYPE_CHECKING:
    from pathlib import Path

    from orlop.build.testing import Kitchen

FIRST = st.sampled_from(
    [
        "RUN echo 1 > /one",
        "RUN echo 2 > /one",
        "COPY f /one",
        "COPY d /dir",
        "ENV E=1",
        "ENV E=2",
        "RUN echo $E >> /log",
    ]
)
SECOND = st.sampled_from(
    [
        "COPY --from=a / /all/",
        "COPY --from=a /etc/group /g",
        "COPY --link f /linked",
        "RUN --mount=type=bind,from=a,target=/a cat /a/one /a/log > /seen; true",
        "RUN --mount=type=bind,target=/ctx cat /ctx/f /ctx/d/x > /mixed",
        "COPY d/* /dir/",
        "WORKDIR /dir/w",
        "RUN rm -rf /dir; pwd > /where",
        "ARG A\nRUN echo $A > /arg",
        "LABEL l=1",
    ]
)
VERSION = st.tuples(
    st.lists(FIRST, max_size=3),
    st.lists(SECOND, min_size=1, max_size=4),
    st.sampled_from("xy"),
    st.sampled_from("xy"),
    st.sampled_from("12"),
)


def look(place: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in place.rglob("*"):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(place))] = (info.st_mode, info.st_uid, info.st_gid, content)
    return found


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(VERSION, min_size=2, max_size=3))
def test_a_cached_build_is_the_build(
    kitchen: Kitchen, versions: list[tuple[list[str], list[str], str, str, str]]
) -> None:
    """Whatever was built before, the image has the files and the configuration of a build without cache."""
    for first, second, f, x, argument in versions:
        kitchen.write({"f": f, "d/x": x})
        text = "\n".join(["FROM base AS a", *first, "FROM base", *second, ""])
        cached = kitchen.build(text, build_args={"A": argument})
    fresh = kitchen.build(text, build_args={"A": argument}, no_cache=True)

    with kitchen.tree(cached) as ours, kitchen.tree(fresh) as theirs:
        assert look(ours) == look(theirs)
    assert cached.config.config_json() == fresh.config.config_json()


def test_cache_mounts_are_counted_and_pruned(kitchen: Kitchen) -> None:
    """A cache that no build uses goes with a prune; one in use stays."""
    kitchen.build("FROM base\nRUN --mount=type=cache,target=/c echo 123 > /c/file\n")
    caches = CacheMounts(root=kitchen.root)
    (name,) = caches.sizes()

    with kitchen.root.lock(f"build-cache-{name}", exclusive=False):
        assert caches.prune() == 0
    assert caches.prune() >= 3
    assert caches.sizes() == {}


def test_half_a_cache_mount_is_none(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prune that is killed half way leaves no cache that a build would use; the next prune takes the rest."""
    kitchen.build("FROM base\nRUN --mount=type=cache,target=/c echo 123 > /c/file\n")
    caches = CacheMounts(root=kitchen.root)
    (name,) = caches.sizes()

    def killed(path: str) -> None:
        raise KeyboardInterrupt(path)

    with monkeypatch.context() as patch:
        patch.setattr("orlop.linux.files.remove_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            caches.prune()
    assert name not in caches.sizes()
    assert caches.prune() >= 3
    assert caches.sizes() == {}


def test_cache_mounts_start_with_what_from_names(kitchen: Kitchen) -> None:
    """With from= a new cache is filled once; uid and mode are those of the flag."""
    text = (
        "FROM base AS seed\nRUN mkdir /s && echo seed > /s/x\nFROM base\n"
        "RUN --mount=type=cache,target=/c,from=seed,source=/s,uid=5,mode=0711"
        " cat /c/x && stat -c '%u %a' /c && echo {} > /c/x\n"
    )

    kitchen.build(text.format("1"))
    assert kitchen.output() == "seed\n5 711\n"
    kitchen.build(text.format("2"))
    assert kitchen.output() == "1\n5 711\n"


@pytest.mark.parametrize("sharing", ["private", "shared", "locked"])
def test_sharing(kitchen: Kitchen, sharing: str) -> None:
    """Two uses at once get the same folder, or each its own; a locked one is used by one at a time."""
    import contextlib

    from orlop.errors import Conflict

    def nothing(folder: str) -> None:
        assert os.listdir(folder) == []

    caches = CacheMounts(root=kitchen.root)
    with contextlib.ExitStack() as one, contextlib.ExitStack() as two:
        first = caches.use("id", sharing, one, fill=nothing)
        if sharing == "locked":
            name = os.path.basename(first)
            with pytest.raises(Conflict), kitchen.root.lock(f"build-cache-{name}", wait=False):
                pass
        else:
            assert (caches.use("id", sharing, two, fill=nothing) == first) is (sharing == "shared")
