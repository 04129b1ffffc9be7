"""Killed at any moment: the store stays consistent, and the next command finishes the work or frees the space."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from layerkit import archive, folder, member, seen

from orlop.layers import snapshots, unpack
from orlop.oci import mediatype
from orlop.oci.digest import Digest
from orlop.store.collect import collect
from orlop.store.images import LayerRef
from orlop.store.root import Root

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

    from orlop.oci.descriptor import Descriptor

pytestmark = pytest.mark.root

PROGRAM = """
import contextlib, os, sys
from orlop.layers import snapshots, unpack
from orlop.oci.digest import Digest
from orlop.oci import mediatype
from orlop.store.images import LayerRef
from orlop.store.root import Root

path, run, blob, diff_id, place = sys.argv[1:6]

@contextlib.contextmanager
def opener(wanted, offset):
    with open(blob, "rb", buffering=0) as file:
        file.seek(offset)
        yield iter(lambda: file.read(4096), b"")

digest = Digest.of(open(blob, "rb").read())
layer = LayerRef(
    diff_id=Digest.parse(diff_id), digest=digest, size=os.path.getsize(blob), media_type=mediatype.OCI_LAYER
)
print("ready", flush=True)
with Root.open(path, run) as root, root.lease() as lease:
    keys = unpack.unpack(root, [layer], opener, lease)
    snapshotter = snapshots.choose(root)
    for number in range(1000):
        owner = f"step-{number}"
        lease.hold("snapshot", owner)
        snapshot = snapshotter.prepare(keys, owner)
        # Written behind the mount's back: nothing has to be unmounted when we are killed.
        with open(f"{snapshot.upper}/new", "w") as file:
            file.write("x" * number)
        os.makedirs(f"{snapshot.upper}/more/folders")
        snapshotter.commit(snapshot, mediatype.OCI_LAYER_GZIP, lease)
"""


@pytest.mark.parametrize("seed", range(12))
def test_a_kill_at_any_moment_harms_nothing(tmp_path: Path, seed: int) -> None:
    """SIGKILL while layers arrive or snapshots are committed: records point at whole trees, and all can be freed.

    The next command unpacks what was being unpacked, and a collection then leaves nothing.
    """
    packed = archive(*(entry for n in range(300) for entry in (folder(f"d{n}"), member(f"d{n}/f", b"%d" % n * 500))))
    blob = tmp_path / "blob"
    blob.write_bytes(packed)
    where = str(tmp_path / "root"), str(tmp_path / "run")
    with Root.open(*where):
        pass
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *where, str(blob), Digest.of(packed), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        time.sleep(random.Random(seed).uniform(0, 0.5))  # the moment is what is tested
        program.send_signal(signal.SIGKILL)

    layer = LayerRef(
        diff_id=Digest.of(packed), digest=Digest.of(packed), size=len(packed), media_type=mediatype.OCI_LAYER
    )
    with Root.open(*where) as root:
        for record in root.state.layers.all():
            tree = seen(unpack.tree_path(root, record))
            assert len(tree) in (600, 3)
        for digest in root.content.digests():
            root.content.verify(digest)
        with root.lease() as lease:
            with open(blob, "rb") as file:
                root.content.put(file.read(), layer.media_type)
            keys = unpack.unpack(root, [layer], _never, lease)
            lease.hold("snapshot", "after")
            snapshotter = snapshots.choose(root)
            snapshotter.prepare(keys, "after")
            collect(root)
            assert len(os.listdir(f"{root.path}/layers")) == 1
            assert len(os.listdir(f"{root.path}/snapshots")) == 1
        collect(root)
        for room in ("layers", "snapshots", "content/blobs/sha256", "content/ingest", "trash", "leases"):
            assert os.listdir(f"{root.path}/{room}") == [], room
        assert root.state.layers.all() == []
        assert root.state.snapshots.all() == []


def _never(wanted: Descriptor, _offset: int) -> NoReturn:
    raise AssertionError(f"{wanted.digest} is here already")
