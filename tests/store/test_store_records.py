"""The laws of the records: images, layers, snapshots, containers, volumes, networks, pins, cache."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted
from orlop.oci import jsontext, mediatype
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.image import ImageConfig
from orlop.oci.manifest import Manifest
from orlop.oci.platform import Platform
from orlop.store.containers import ContainerRecord
from orlop.store.images import ImageRecord, LayerRef
from orlop.store.layers import LayerRecord
from orlop.store.root import Root
from orlop.store.snapshots import SnapshotRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.store.conftest import Spawn

    from orlop.store.state import State


@pytest.fixture
def root(root_dir: Path, run_dir: Path) -> Iterator[Root]:
    with Root.open(str(root_dir), str(run_dir)) as opened:
        yield opened


@pytest.fixture
def state(root: Root) -> State:
    return root.state


def image(name: str, *, namespace: str = "default", config: str = "") -> ImageRecord:
    return ImageRecord(
        namespace=namespace,
        manifest=Digest.of(name.encode()),
        config=Digest.of((config or name + "-config").encode()),
        media_type=mediatype.OCI_MANIFEST,
        platform="linux/amd64",
        created="2024-01-01T00:00:00Z",
        size=3,
        layers=(LayerRef(diff_id=Digest.of(b"d"), digest=Digest.of(b"l"), size=9, media_type=mediatype.OCI_LAYER),),
        config_json={"os": "linux", "config": {"Labels": {"ä": "\udcff"}}},
    )


def container(number: int, name: str, *, namespace: str = "default", **changes: Any) -> ContainerRecord:
    return ContainerRecord(
        id=f"{number:064x}",
        namespace=namespace,
        name=name,
        image=Digest.of(b"i"),
        image_name="busybox",
        sandbox="",
        created=number,
        labels={},
        config={"mounts": []},
        state={},
    ).replace(**changes)


def test_images_are_found_by_name_and_by_id(state: State) -> None:
    """By any form of a name, by the config's or the manifest's digest, and by the beginning of either."""
    one, two = image("one"), image("two")
    for record in (one, two):
        state.images.put(record)
    state.images.tag("default", "docker.io/library/app:latest", one.manifest)
    state.images.tag("default", f"docker.io/library/app@{one.manifest}", one.manifest)
    state.images.tag("default", "ghcr.io/x/y:1", two.manifest)
    for text in (
        *("app", "app:latest", "docker.io/app", "docker.io/library/app:latest", f"app@{one.manifest}"),
        *(f"app:latest@{one.manifest}", one.config, one.manifest, one.config.encoded, one.config.short),
        *(one.config[:12], one.manifest.encoded[:9]),
    ):
        assert state.images.find("default", text) == one, text
    assert state.images.find("default", f"ghcr.io/x/y@{two.manifest}") == two
    for text in ("app:2", "ghcr.io/x/y", "abcdef012345", f"ghcr.io/x/y@{one.manifest}", "sha256:" + "0" * 64, "0" * 64):
        with pytest.raises(NotFound, match="there is no image"):
            state.images.find("default", text)
    for text in ("Upper", "app:", "sha256:xyz", ""):
        with pytest.raises(InvalidArgument):
            state.images.find("default", text)


def test_a_name_wins_over_an_id(state: State) -> None:
    """An image called like the beginning of another's id is the one that is meant."""
    one, two = image("one"), image("two")
    state.images.put(one)
    state.images.put(two)
    state.images.tag("default", f"docker.io/library/{one.config.short}:latest", two.manifest)
    assert state.images.find("default", one.config.short) == two


def test_an_ambiguous_prefix_lists_the_candidates(state: State) -> None:
    """The error names the images that the prefix could mean; two packings of one config are one image."""
    several = [image(f"{number}") for number in range(40)]
    for record in several:
        state.images.put(record)
    first = several[0].config.encoded[0]
    same = [record for record in several if first in (record.config.encoded[0], record.manifest.encoded[0])]
    assert len(same) > 1
    with pytest.raises(InvalidArgument, match=f"{len(same)} images") as caught:
        state.images.find("default", first)
    assert any(record.config.short in caught.value.message for record in same)
    packed = image("again", config="0-config")
    state.images.put(packed)
    assert state.images.find("default", several[0].config.encoded).config == several[0].config


def test_names_move_and_go_with_their_image(state: State) -> None:
    """A tag points at one image, the last one; untagging keeps the image; deleting takes its names."""
    one, two = image("one"), image("two")
    state.images.put(one)
    state.images.put(two)
    state.images.tag("default", "a:1", one.manifest)
    state.images.tag("default", "a:2", one.manifest)
    state.images.tag("default", "a:1", two.manifest)
    assert state.images.names("default") == [("a:1", two.manifest), ("a:2", one.manifest)]
    assert state.images.names_of("default", one.manifest) == ["a:2"]
    state.images.put(one.replace(size=4))  # again: its names stay
    assert state.images.names_of("default", one.manifest) == ["a:2"]
    assert state.images.untag("default", "a:2")
    assert not state.images.untag("default", "a:2")
    assert state.images.get("default", one.manifest) == one.replace(size=4)
    assert state.images.delete("default", two.manifest)
    assert state.images.names("default") == []
    with pytest.raises(NotFound):
        state.images.tag("default", "a:1", two.manifest)


def test_namespaces_do_not_see_each_other(state: State) -> None:
    """Images, names, containers and volumes of one namespace are not in another."""
    state.images.put(image("one", namespace="k8s"))
    state.images.tag("k8s", "docker.io/library/a:latest", image("one").manifest)
    state.containers.add(container(1, "c", namespace="k8s"))
    state.containers.add(container(2, "c"))
    state.volumes.put("k8s", "v", {})
    assert state.images.all("default") == []
    assert state.volumes.all("default") == []
    with pytest.raises(NotFound):
        state.images.find("default", "a")
    assert state.containers.find("k8s", "c").id == f"{1:064x}"
    assert [record.namespace for record in state.containers.all()] == ["k8s", "default"]


def test_containers_are_found_by_id_name_and_prefix(state: State) -> None:
    """A full id first, then a name, then the beginning of an id; ambiguity lists candidates with their names."""
    first = container(1, "one", id="aa" + "0" * 62)
    second = container(2, "two", id="ab" + "0" * 62)
    third = container(3, "ab", id="cc" + "0" * 62)
    for record in (first, second, third):
        state.containers.add(record)
    assert state.containers.find("default", first.id) == first
    assert state.containers.find("default", "one") == state.containers.find("default", "/one") == first
    assert state.containers.find("default", "ab") == third
    assert state.containers.find("default", "ab0") == second
    with pytest.raises(InvalidArgument, match=r"2 containers.*\(one\).*\(two\)"):
        state.containers.find("default", "a")
    for text in ("x", "", "ddd", "a" * 65):
        with pytest.raises(NotFound):
            state.containers.find("default", text)


def test_container_names_are_unique(state: State) -> None:
    """A taken name is AlreadyExists that says by whom, on adding and on renaming; nothing changes."""
    state.containers.add(container(1, "one"))
    state.containers.add(container(2, "two"))
    with pytest.raises(AlreadyExists, match=r"one is in use by container 0{12}") as caught:
        state.containers.add(container(3, "one"))
    assert "orlop rm one" in caught.value.hint
    with pytest.raises(AlreadyExists):
        state.containers.add(container(1, "three"))
    with pytest.raises(AlreadyExists):
        state.containers.rename(f"{2:064x}", "one")
    state.containers.rename(f"{2:064x}", "new")
    assert [record.name for record in state.containers.all("default")] == ["one", "new"]
    assert state.containers.delete(f"{1:064x}")
    assert not state.containers.delete(f"{1:064x}")
    state.containers.rename(f"{2:064x}", "one")
    with pytest.raises(NotFound):
        state.containers.rename(f"{1:064x}", "x")


def test_state_changes_are_not_lost(state: State) -> None:
    """Changes by many threads at once are all there: read and write are one step."""
    record = container(1, "one", state={"count": 0})
    state.containers.add(record)

    def work() -> None:
        for _ in range(25):
            state.containers.update_state(record.id, lambda old: old | {"count": old["count"] + 1})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = state.containers.get(record.id)
    assert found
    assert found.state == {"count": 100}
    assert state.containers.update_config(record.id, lambda old: old | {"x": 1}).config == {"mounts": [], "x": 1}
    with pytest.raises(NotFound):
        state.containers.update_state("0" * 64, lambda old: old)


def test_a_failed_change_changes_nothing(state: State) -> None:
    """An exception in the change leaves the record as it was."""
    record = container(1, "one", state={"a": 1})
    state.containers.add(record)
    with pytest.raises(KeyError):
        state.containers.update_state(record.id, lambda old: {"b": old["missing"]})
    assert state.containers.get(record.id) == record


def test_containers_of_a_pod(state: State) -> None:
    """`sandbox` narrows the list to one pod."""
    state.containers.add(container(1, "one", sandbox="p"))
    state.containers.add(container(2, "two"))
    assert [record.name for record in state.containers.all("default", sandbox="p")] == ["one"]


def test_the_first_unpacked_layer_counts(state: State) -> None:
    """Of two trees of one layer the first stays; one from an earlier boot that was never settled gives way."""
    first = LayerRecord(
        key="k", short="a", diff_id=Digest.of(b"d"), chained=False, size=1, boot_id="boot1", settled=False
    )
    assert state.layers.add(first) == first
    assert state.layers.add(first.replace(short="b")) == first
    second = first.replace(short="c", boot_id="boot2")
    assert state.layers.add(second) == second
    state.layers.settle(["k"])
    assert state.layers.add(first.replace(short="d", boot_id="boot3")) == second.replace(settled=True)
    assert state.layers.all() == [second.replace(settled=True)]
    assert state.layers.get("x") is None
    assert state.layers.delete("k")
    assert not state.layers.delete("k")


def test_snapshots_have_one_owner(state: State) -> None:
    """A snapshot's key is taken once; put replaces it."""
    record = SnapshotRecord(key="c1", short="s1", layers=("l1", "l2"), owner="c1")
    state.snapshots.add(record)
    with pytest.raises(AlreadyExists):
        state.snapshots.add(record.replace(short="s2"))
    assert state.snapshots.get("c1") == record
    state.snapshots.put(record.replace(short="s3"))
    assert state.snapshots.all() == [record.replace(short="s3")]
    assert state.snapshots.delete("c1")
    assert state.snapshots.get("c1") is None


def test_named_records(state: State) -> None:
    """Volumes and networks are JSON objects by name, listed in order, changed in one step."""
    for table in (state.volumes, state.networks):
        assert table.get("default", "v") is None
        assert table.add("default", "v", {"a": 1})
        assert not table.add("default", "v", {"a": 2})
        table.put("default", "b", {"b": [1, None]})
        assert table.all("default") == [{"b": [1, None]}, {"a": 1}]
        assert table.update("default", "v", lambda old: (old or {}) | {"c": 1}) == {"a": 1, "c": 1}
        assert table.update("default", "new", lambda old: {"was": old}) == {"was": None}
        assert table.get("default", "v") == {"a": 1, "c": 1}
        assert table.delete("default", "v")
        assert not table.delete("default", "v")


@given(st.lists(st.text("abc", min_size=1, max_size=2), max_size=20))
def test_addresses_are_given_once(tmp_path_factory: pytest.TempPathFactory, owners: list[str]) -> None:
    """Every owner keeps its address, no two owners have the same one, and none is the gateway or the broadcast."""
    base = tmp_path_factory.mktemp("net")
    with Root.open(f"{base}/root", f"{base}/run") as root:
        networks = root.state.networks
        given_out: dict[str, str] = {}
        for owner in owners:
            address = networks.allocate("n", owner, "10.0.0.0/28")
            assert given_out.setdefault(owner, address) == address
        assert len(set(given_out.values())) == len(given_out)
        assert not {"10.0.0.0", "10.0.0.1", "10.0.0.15"} & set(given_out.values())


def test_addresses_wanted_reserved_and_released(state: State) -> None:
    """A wanted address is given or refused with the reason; a released one is free again; a full network says so."""
    networks = state.networks
    assert networks.allocate("n", "gw", "10.0.0.0/29", "10.0.0.1") == "10.0.0.1"
    assert networks.allocate("n", "a", "10.0.0.0/29", "10.0.0.3") == "10.0.0.3"
    with pytest.raises(AlreadyExists, match="belongs to a"):
        networks.allocate("n", "b", "10.0.0.0/29", "10.0.0.3")
    with pytest.raises(InvalidArgument, match=r"not in the subnet 10\.0\.0\.0/29"):
        networks.allocate("n", "b", "10.0.0.0/29", "10.0.1.3")
    assert networks.allocate("n", "b", "10.0.0.7/29", reserved=("10.0.0.2",)) == "10.0.0.4"
    assert networks.allocate("other", "b", "10.0.0.0/29") == "10.0.0.2"
    for owner in "cde":
        if owner != "e":
            networks.allocate("n", owner, "10.0.0.0/29")
    networks.allocate("n", "e", "10.0.0.0/29")
    with pytest.raises(ResourceExhausted, match="no free address"):
        networks.allocate("n", "f", "10.0.0.0/29")
    networks.release("n", "a")
    assert networks.allocate("n", "f", "10.0.0.0/29") == "10.0.0.3"
    networks.release("", "b")
    assert "b" not in {owner for _, owner in [*networks.addresses("n"), *networks.addresses("other")]}


@pytest.mark.parametrize(
    ("cidr", "first"), [("fd00:1::/64", "fd00:1::2"), ("10.88.0.0/16", "10.88.0.2"), ("192.168.5.77/24", "192.168.5.2")]
)
def test_subnets_of_both_families(state: State, cidr: str, first: str) -> None:
    """IPv4 and IPv6, given by any address in them."""
    assert state.networks.allocate("n", "a", cidr) == first


@pytest.mark.parametrize("cidr", ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "10.0.0.0/x", "10.0.0.0/31"])
def test_bad_subnets_are_refused(state: State, cidr: str) -> None:
    """No subnet, or none with room for a host, is an error."""
    with pytest.raises((InvalidArgument, ResourceExhausted)):
        state.networks.allocate("n", "a", cidr)


def test_pins_last_until_dropped(state: State) -> None:
    """Pins are listed by use, dropped by owner; only things that exist can be pinned."""
    state.pins.put("default", "build-1", [("layer", "l"), ("blob", "b")])
    state.pins.put("default", "build-2", [("snapshot", "s")])
    assert {(pin.owner, pin.kind, pin.key) for pin in state.pins.all("default")} == {
        ("build-1", "layer", "l"),
        ("build-1", "blob", "b"),
        ("build-2", "snapshot", "s"),
    }
    assert len(state.pins.all("default", "build-1")) == 2
    assert state.pins.drop("default", "build-1")
    assert not state.pins.drop("default", "build-1")
    with pytest.raises(InvalidArgument):
        state.pins.put("default", "x", [("image", "i")])


def test_the_cache_remembers_by_bucket(root: Root) -> None:
    """Many at once, a bucket at a time; unused ones can be dropped."""
    items = {f"k{number}": bytes([number % 256]) * 3 for number in range(1200)}
    root.cache.put_many("files", items.items())
    root.cache.put("other", "k0", b"x")
    assert root.cache.get_many("files", [*items, "missing"]) == items
    assert root.cache.get("files", "missing") is None
    assert root.cache.drop_older("files", 0.0) == 0
    assert root.cache.delete("files", "k0")
    assert not root.cache.delete("files", "k0")
    assert len(root.cache.items("files")) == 1199
    assert root.cache.drop_older("files", float("inf")) == 1199
    assert root.cache.get("other", "k0") == b"x"
    assert root.cache.delete_bucket("other") == 1


def test_reading_the_cache_counts_as_use(root: Root) -> None:
    """A value that was read is not dropped as unused, though it was written long ago."""
    root.cache.put("b", "read", b"1")
    root.cache.put("b", "forgotten", b"2")
    root.cache.database.execute("UPDATE cache SET used = 1000")
    assert root.cache.get("b", "read") == b"1"
    assert root.cache.drop_older("b", 2000) == 1
    assert [key for key, _, _ in root.cache.items("b")] == ["read"]


def make_image(root: Root, name: str) -> ImageRecord:
    layer = root.content.put(name.encode() * 100, mediatype.OCI_LAYER)
    config = ImageConfig(platform=Platform(os="linux", architecture="amd64"), diff_ids=(layer.digest,))
    blob = root.content.put(config.to_bytes(), mediatype.OCI_CONFIG)
    manifest = Manifest.build(config=blob, layers=[layer])
    root.content.put(manifest.raw, manifest.media_type)
    record = image(name).replace(
        manifest=manifest.digest,
        config=blob.digest,
        layers=(LayerRef(diff_id=layer.digest, digest=layer.digest, size=layer.size, media_type=layer.media_type),),
        config_json=config.to_json(),
    )
    root.state.images.put(record)
    return record


def test_the_index_lists_all_names(root: Root, root_dir: Path) -> None:
    """index.json holds each name once; "default" wins over other namespaces; what has no blob is left out."""
    one, two = make_image(root, "one"), make_image(root, "two")
    root.state.images.tag("default", "docker.io/library/one:latest", one.manifest)
    root.state.images.put(two.replace(namespace="a-first"))
    root.state.images.tag("a-first", "docker.io/library/one:latest", two.manifest)
    root.state.images.tag("a-first", "docker.io/library/two:1", two.manifest)
    root.state.images.put(image("no-blob"))
    root.state.images.tag("default", "docker.io/library/none:1", image("no-blob").manifest)
    root.write_index()
    index = jsontext.loads((root_dir / "content/index.json").read_bytes(), what="the index")
    found = {
        entry["annotations"]["org.opencontainers.image.ref.name"]: Descriptor.from_json(entry).digest
        for entry in index["manifests"]
    }
    assert found == {"docker.io/library/one:latest": one.manifest, "docker.io/library/two:1": two.manifest}


@pytest.mark.peer
def test_skopeo_reads_the_store_by_name(root: Root, root_dir: Path) -> None:
    """The content folder is an OCI layout that other tools understand."""
    record = make_image(root, "one")
    root.state.images.tag("default", "docker.io/library/one:latest", record.manifest)
    root.write_index()
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{root_dir}/content:docker.io/library/one:latest"],
        check=True,
        capture_output=True,
    )
    assert Digest.of(done.stdout) == record.manifest


ADD = """
import sys
from orlop.errors import AlreadyExists
from orlop.store.containers import ContainerRecord
from orlop.store.root import Root
who, won = sys.argv[3], []
with Root.open(sys.argv[1], sys.argv[2]) as root:
    for number in range(30):
        record = ContainerRecord(id=f"{who}{number}", namespace="default", name=f"n{number}", image="", image_name="",
                                 sandbox="", created=number, labels={}, config={}, state={})
        try:
            root.state.containers.add(record)
            won.append(number)
        except AlreadyExists:
            pass
        root.disconnect()
print(len(won))
"""


def test_processes_that_want_one_name_get_it_once(root: Root, spawn: Spawn) -> None:
    """Of three processes that add the same 30 names, exactly one gets each."""
    workers = [spawn(ADD, root.path, root.run_path, who) for who in "abc"]
    assert sum(int(worker.communicate(timeout=240)[0]) for worker in workers) == 30
    assert len(root.state.containers.all("default")) == 30
