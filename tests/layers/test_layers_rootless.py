"""In a user namespace with one mapped id: the same layers, the same digests."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from layerkit import archive, folder, member

from orlop.oci.digest import Digest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

# Runs once as root and once in a user namespace; prints what it found.
PROGRAM = """
import json, os, sys
from orlop.layers import snapshots, unpack, whiteouts
from orlop.oci import mediatype
from orlop.oci.digest import Digest
from orlop.store.images import LayerRef
from orlop.store.root import Root

path, run, place, kind = sys.argv[1:5]
layers = [LayerRef(diff_id=Digest.parse(d), digest=Digest.parse(d), size=int(s), media_type=mediatype.OCI_LAYER)
          for d, s in json.loads(sys.argv[5])]
with Root.open(path, run) as root, root.lease() as lease:
    lease.hold_all(("blob", layer.digest) for layer in layers)
    for layer in layers:
        with open(f"{place}/../{layer.digest.encoded}", "rb") as file:
            root.content.put(file.read(), layer.media_type)
    keys = unpack.unpack(root, layers, None, lease)
    snapshotter = snapshots.choose(root, kind)
    lease.hold("snapshot", "step")
    snapshot = snapshotter.prepare(keys, "step")
    with snapshotter.mounted(snapshot, place) as merged:
        shown = sorted(os.path.relpath(os.path.join(where, name), merged)
                       for where, folders, files in os.walk(merged) for name in folders + files)
        os.unlink(f"{merged}/etc/hosts")
        os.mkdir(f"{merged}/etc/new", 0o750)
        with open(f"{merged}/etc/new/file", "w") as file:
            file.write("new")
        for name in ("etc/new/file", "etc/new", "etc", "bin/tool"):
            os.utime(f"{merged}/{name}", (7, 7))
    layer = snapshotter.commit(snapshot, mediatype.OCI_LAYER, lease)
print(json.dumps({"shown": shown, "diff_id": layer.diff_id, "user": whiteouts.needs_userxattr()}))
"""


@pytest.mark.parametrize("kind", ["overlay", "native"])
def test_one_mapped_id_makes_the_same_layers(tmp_path: Path, kind: str) -> None:
    """Owners that cannot be kept are remembered: a commit without root has the digest that root's has."""
    packed = [
        archive(
            folder("etc", uid=1, gid=2),
            member("etc/hosts", b"x", uid=3),
            member("etc/gone"),
            folder("dev"),
            member("dev/null", kind="char", device=(1, 3), mode=0o666),
            folder("bin"),
            member("bin/tool", b"#!", uid=1000, gid=1000, mode=0o755),
            member("bin/link", kind="symlink", link="tool", uid=1000, gid=5),
        ),
        archive(
            folder("etc", uid=1, gid=2),
            member("etc/.wh.gone"),
            folder("bin"),
            member("bin/.wh..wh..opq"),
            member("bin/tool"),
        ),
    ]
    found = []
    for who in ("root", "user"):
        base = tmp_path / who
        place = base / "place"
        place.mkdir(parents=True)
        for one in packed:
            (base / Digest.of(one).encoded).write_bytes(one)
        layers = json.dumps([(Digest.of(one), len(one)) for one in packed])
        inside = ["unshare", "--user", "--map-root-user", "--mount"] if who == "user" else []
        program = [sys.executable, "-c", PROGRAM, str(base / "root"), str(base / "run"), str(place), kind, layers]
        done = subprocess.run([*inside, *program], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))

    assert found[0].pop("user") is False
    assert found[1].pop("user") is True
    assert found[0] == found[1]
    assert found[0]["shown"] == ["bin", "bin/tool", "dev", "dev/null", "etc", "etc/hosts"]
