"""`load` reads what somebody else wrote: hostile archives cost nothing and are refused in words."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

import orlop
from orlop.engine import archive
from orlop.engine.requests import Load
from orlop.errors import InvalidArgument, OrlopError, ResourceExhausted
from orlop.events import ignore
from orlop.layers import compress
from orlop.layers.apply import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orlop.engine.core import Engine

MIB = 1 << 20


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine on an empty root."""
    with orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run")) as opened:
        yield opened


def tar(*members: tuple[str, bytes], pax: dict[str, str] | None = None) -> bytes:
    """An archive of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.pax_headers = len(content), dict(pax or {})
            file.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def kept(engine: Engine) -> int:
    """Bytes that are in the store's ingest folder and among its blobs."""
    content = f"{engine.root.path}/content"
    return sum(
        os.stat(os.path.join(folder, name)).st_size
        for place in ("ingest", "blobs")
        for folder, _, names in os.walk(f"{content}/{place}")
        for name in names
    )


def test_bombs_are_not_loaded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of all, of one member and the ratio of a compressed archive are bounded, and nothing is left of it."""
    bomb = gzip.compress(tar(("bomb", bytes(64 * MIB))))
    for limits, word in (
        (Limits(max_bytes=8 * MIB), "8388608|67108864"),
        (Limits(max_entries=2), "more than 2 entries"),
    ):
        many = gzip.compress(tar(("a", b""), ("b", b""), ("c", b"")))
        with pytest.raises(ResourceExhausted, match=word) as caught:
            archive.load(engine, Load(), io.BytesIO(bomb if limits.max_bytes == 8 * MIB else many), ignore, limits)
        assert caught.value.hint
    monkeypatch.setattr(compress, "_RATIO_FROM", MIB)  # bombs below a gigabyte are let through else
    with pytest.raises(ResourceExhausted, match="more than 100 times"):
        archive.load(engine, Load(), io.BytesIO(bomb), ignore, Limits(max_ratio=100))
    assert kept(engine) == 0


def test_many_members_are_bounded_together(engine: Engine) -> None:
    """Members that are small each, but not all together, are refused at the bound."""
    members = tar(*((f"m{number}", bytes(MIB)) for number in range(16)))
    with pytest.raises(ResourceExhausted, match="8388608"):
        archive.load(engine, Load(), io.BytesIO(members), ignore, Limits(max_bytes=8 * MIB))


@pytest.mark.parametrize("size", [1 << 20, (1 << 63) - 1])
def test_sparse_members_are_refused(engine: Engine, size: int) -> None:
    """A sparse file's holes are never written as zeros, however many it claims: no archive of images has any."""
    pax = {"GNU.sparse.size": str(size), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,4"}
    with pytest.raises(InvalidArgument, match="sparse") as caught:
        engine.images.load(Load(), io.BytesIO(tar(("blob", b"data"), pax=pax)))
    assert caught.value.hint
    assert kept(engine) == 0


@pytest.mark.parametrize(
    "table",
    [
        [{}],
        {"a": 1},
        3,
        "text",
        [3],
        [{"Config": "c", "Layers": 3}],
        [{"Config": "c", "Layers": [1]}],
        [{"Config": 3, "Layers": []}],
        [{"Config": "", "Layers": []}],
        [{"Config": "c", "RepoTags": "app"}],
        [{"Config": "c", "RepoTags": ["UPPER CASE"]}],
        [{"Config": "gone", "Layers": None}],
        [{"Config": "c", "Layers": ["gone"]}],
    ],
)
@pytest.mark.parametrize("index", [False, True])
def test_a_hostile_table_is_refused_in_words(engine: Engine, table: Any, index: bool) -> None:
    """Whatever manifest.json holds, also beside an index, the answer is an error of ours that is no defect."""
    members = [("c", b"{}"), ("manifest.json", json.dumps(table).encode())]
    if index:
        members.append(("index.json", b'{"schemaVersion":2,"manifests":[]}'))
    with pytest.raises(OrlopError) as caught:
        engine.images.load(Load(), io.BytesIO(tar(*members)))
    assert caught.value.kind != "internal"


def test_what_save_wrote_loads(engine: Engine, tmp_path: Path) -> None:
    """An image comes back under its name and id from both formats, also when some of its blobs are still here."""
    (tmp_path / "file").write_bytes(b"content")
    built = engine.builds.build(
        orlop.Build(context=str(tmp_path), dockerfile_text="FROM scratch\nCOPY file /\n", tags=("app:one",))
    )
    for kind in ("docker-archive", "oci-archive"):
        out = io.BytesIO()
        engine.images.save(orlop.Save(images=("app:one",), format=kind), out.write)
        for again in (False, True):
            if not again:
                engine.images.remove(orlop.RemoveImage(image="app:one", force=True))
            assert engine.images.load(Load(), io.BytesIO(out.getvalue())) == ("app:one",)
            assert engine.images.find("app:one").config == built.id
