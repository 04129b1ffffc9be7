"""The laws of descriptors, manifests, indexes and image configurations."""

from __future__ import annotations

import base64
import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import ContentMismatch, InvalidArgument, OrlopError, Unimplemented
from orlop.oci import jsontext, mediatype
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.image import Healthcheck, History, ImageConfig
from orlop.oci.manifest import Index, Manifest, parse
from orlop.oci.platform import Platform

names = st.text(max_size=8)
string_maps = st.dictionaries(names, names, max_size=3)
digests = st.binary(max_size=4).map(Digest.of)
unknown = st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.integers() | st.lists(names), max_size=2)
platforms = st.builds(
    Platform,
    os=st.sampled_from(["linux", "windows"]),
    architecture=st.sampled_from(["amd64", "arm64"]),
    variant=st.sampled_from(["", "v8"]),
    os_version=names,
    os_features=st.lists(names, max_size=2).map(tuple),
)
descriptors = st.builds(
    Descriptor,
    media_type=st.sampled_from([mediatype.OCI_LAYER_GZIP, mediatype.OCI_CONFIG, "application/x"]),
    digest=digests,
    size=st.integers(0, 1 << 62),
    annotations=st.none() | st.dictionaries(names, names, min_size=1, max_size=3),
    platform=st.none() | platforms,
    urls=st.lists(names, max_size=2).map(tuple),
    artifact_type=names,
    extra=st.none() | st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.integers(), min_size=1, max_size=2),
)


@given(descriptors)
def test_descriptors_survive_json(descriptor: Descriptor) -> None:
    """Writing and reading gives the same descriptor, unknown fields included."""
    assert Descriptor.from_json(json.loads(jsontext.dumps(descriptor.to_json()))) == descriptor


@pytest.mark.parametrize("data", [b"", b"hello"])
def test_embedded_data_is_kept_and_verified(data: bytes) -> None:
    """`data` must be the content that digest and size name."""
    descriptor = Descriptor.of(data, "text/plain").replace(data=data)
    value = descriptor.to_json()
    assert value["data"] == base64.b64encode(data).decode()
    assert Descriptor.from_json(value) == descriptor
    with pytest.raises(InvalidArgument, match="data"):
        Descriptor.from_json(value | {"data": base64.b64encode(b"other").decode()})
    with pytest.raises(InvalidArgument, match="base64"):
        Descriptor.from_json(value | {"data": "!"})


BAD_FIELDS: dict[str, tuple[Any, ...]] = {
    "size": (-1, True, "3", None, 1.5, 1 << 63),
    "digest": (None, "", "sha256:zz", 3),
    "annotations": ([], {"a": 1}, "x"),
    "urls": ("http://x", [1], {}),
    "platform": ([], "linux", {"os": 3}, {"os.features": "x"}),
    "mediaType": (1,),
    "artifactType": ([],),
}


@pytest.mark.parametrize("change", [{key: value} for key, values in BAD_FIELDS.items() for value in values])
def test_bad_descriptors_are_refused(change: dict[str, Any]) -> None:
    """A field of the wrong type or range is InvalidArgument that says whose it is."""
    value = Descriptor.of(b"x", "text/plain").to_json() | change
    with pytest.raises(InvalidArgument, match=r"^layer 3"):
        Descriptor.from_json(value, what="layer 3")


@given(st.binary(max_size=50), st.lists(st.integers(0, 50), max_size=4))
def test_exactly_the_blob_passes_verification(data: bytes, cuts: list[int]) -> None:
    """However the content is cut into chunks, it passes through unchanged."""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunks = [data[start:end] for start, end in pairwise(edges)]
    assert b"".join(Descriptor.of(data, "x").verified(chunks)) == data


@pytest.mark.parametrize("sent", [[b"hel"], [b"hellO"], [b"hello", b"!"], [], [b"x" * 1000]])
def test_anything_else_fails_verification(sent: list[bytes]) -> None:
    """Short, changed and long content is ContentMismatch, and no byte beyond the size is passed on."""
    got: list[bytes] = []
    with pytest.raises(ContentMismatch, match="2cf24dba5fb0"):
        got.extend(Descriptor.of(b"hello", "x").verified(sent))
    assert sum(map(len, got)) <= 5


def test_other_algorithms_verify_too() -> None:
    """A sha512 descriptor is verified with sha512."""
    digest = Digest.parse("sha512:" + hashlib.sha512(b"hello").hexdigest())
    assert list(Descriptor(media_type="x", digest=digest, size=5).verified([b"hello"])) == [b"hello"]


@given(descriptors, st.lists(descriptors, max_size=3), string_maps, st.none() | descriptors)
def test_built_manifests_parse_back(
    config: Descriptor, layers: list[Descriptor], annotations: dict[str, str], subject: Descriptor | None
) -> None:
    """`parse` undoes `build`; the same arguments give the same bytes; the descriptor is that of the bytes."""
    built = Manifest.build(config=config, layers=layers, annotations=annotations, subject=subject, artifact_type="a/b")
    assert parse(built.raw) == built == parse(built.raw, mediatype.OCI_MANIFEST)
    again = Manifest.build(config=config, layers=layers, annotations=annotations, subject=subject, artifact_type="a/b")
    assert again.raw == built.raw
    assert built.descriptor == Descriptor.of(built.raw, mediatype.OCI_MANIFEST)
    assert built.children == (config, *layers)


@given(st.lists(descriptors, max_size=3), string_maps)
def test_built_indexes_parse_back(manifests: list[Descriptor], annotations: dict[str, str]) -> None:
    """The same for indexes."""
    built = Index.build(manifests=manifests, annotations=annotations)
    assert parse(built.raw) == built
    assert built.descriptor.media_type == mediatype.OCI_INDEX
    assert built.children == tuple(manifests)


def test_raw_bytes_are_kept_verbatim() -> None:
    """White space and unknown fields stay, so that the digest stays."""
    value = json.loads(Manifest.build(config=Descriptor.of(b"{}", mediatype.OCI_CONFIG), layers=[]).raw)
    raw = json.dumps(value | {"x-unknown": [1]}, indent=7).encode()
    assert parse(raw).raw == raw
    assert parse(raw).digest == "sha256:" + hashlib.sha256(raw).hexdigest()


CONFIG = Descriptor.of(b"{}", mediatype.OCI_CONFIG).to_json()
GOOD = {"schemaVersion": 2, "config": CONFIG, "layers": []}


@pytest.mark.parametrize(
    ("value", "told", "kind"),
    [
        (GOOD, "", mediatype.OCI_MANIFEST),
        (GOOD, mediatype.DOCKER_MANIFEST, mediatype.DOCKER_MANIFEST),
        (GOOD, mediatype.OCI_MANIFEST + "; charset=utf-8", mediatype.OCI_MANIFEST),
        (GOOD, "application/json", mediatype.OCI_MANIFEST),
        (GOOD | {"mediaType": mediatype.DOCKER_MANIFEST}, "text/plain", mediatype.DOCKER_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, "", mediatype.OCI_INDEX),
        ({"schemaVersion": 2, "manifests": None}, "", mediatype.OCI_INDEX),
        ({"schemaVersion": 2, "manifests": []}, mediatype.DOCKER_MANIFEST_LIST, mediatype.DOCKER_MANIFEST_LIST),
    ],
)
def test_the_kind_of_a_document(value: dict[str, Any], told: str, kind: str) -> None:
    """What the document says counts, then what the server said, then its shape."""
    assert parse(jsontext.dumps(value), told).media_type == kind


@pytest.mark.parametrize(
    ("value", "told", "complaint"),
    [
        (GOOD | {"manifests": []}, "", "two different images"),
        ({"schemaVersion": 2, "manifests": [], "layers": []}, "", "two different images"),
        (GOOD | {"mediaType": mediatype.OCI_INDEX}, "", "two different images"),
        (GOOD | {"mediaType": mediatype.OCI_MANIFEST}, mediatype.OCI_INDEX, "announced as"),
        (GOOD | {"mediaType": "text/plain"}, "", "neither"),
        ({"schemaVersion": 2}, "", "neither"),
        ({"schemaVersion": 2, "config": CONFIG}, mediatype.OCI_MANIFEST, "layers"),
        (GOOD | {"schemaVersion": 3}, "", "schemaVersion"),
        (GOOD | {"schemaVersion": "2"}, "", "schemaVersion"),
        (GOOD | {"config": None}, "", "config"),
        (GOOD | {"layers": [3]}, "", r"layers\[0\]"),
        (GOOD | {"subject": {"size": 1}}, "", "subject"),
        ([], "", "array"),
    ],
)
def test_ambiguous_and_broken_documents_are_refused(value: Any, told: str, complaint: str) -> None:
    """A document with two readings, or with none, is InvalidArgument."""
    with pytest.raises(InvalidArgument, match=complaint):
        parse(jsontext.dumps(value), told)


def test_schema_1_is_named() -> None:
    """Docker's first schema is recognised, and refused with a way out."""
    with pytest.raises(Unimplemented, match="schema 1") as caught:
        parse(b'{"schemaVersion":1,"name":"x","fsLayers":[]}')
    assert caught.value.hint


@given(st.recursive(st.none() | st.booleans() | st.integers() | names, lambda i: st.lists(i) | string_maps))
def test_no_json_makes_parsing_crash(value: Any) -> None:
    """Whatever stands in the fields of a manifest or config: a value, or an error of ours."""
    for key in ("config", "layers", "manifests", "annotations", "mediaType", "subject", "rootfs", "history"):
        for reader in (parse, ImageConfig.parse):
            try:
                reader(jsontext.dumps(GOOD | {key: value}))
            except OrlopError:
                continue


DOCKER_CONFIG = {
    "architecture": "arm64",
    "variant": "v8",
    "os": "linux",
    "os.version": "1",
    "os.features": ["f"],
    "created": "2024-01-02T03:04:05.678901234Z",
    "author": "me",
    "container": "abc",
    "docker_version": "20.10.1",
    "container_config": {"Cmd": ["x"]},
    "config": {
        "Hostname": "",
        "AttachStdin": False,
        "User": "1000:1000",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Env": ["PATH=/bin", "A=b=c"],
        "Cmd": ["sh"],
        "Entrypoint": None,
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30000000000, "Retries": 3, "X": 1},
        "ArgsEscaped": True,
        "Image": "sha256:0",
        "Volumes": {"/data": {}},
        "WorkingDir": "/w",
        "OnBuild": ["RUN x"],
        "Labels": {"b": "1", "a": "2"},
        "StopSignal": "SIGINT",
        "Shell": ["/bin/bash", "-c"],
        "StopTimeout": 3,
    },
    "rootfs": {"type": "layers", "diff_ids": [Digest.of(b"1"), Digest.of(b"2")]},
    "history": [
        {"created": "2024-01-02T03:04:05Z", "created_by": "/bin/sh -c #(nop) ADD", "comment": "c", "author": "a"},
        {"empty_layer": True, "created_by": "ENV", "x": 1},
    ],
}


def test_a_docker_config_is_understood() -> None:
    """Every field that docker writes is found where it belongs."""
    config = ImageConfig.parse(jsontext.dumps(DOCKER_CONFIG))
    assert str(config.platform) == "linux/arm64/v8"
    assert (config.env, config.cmd, config.entrypoint) == (("PATH=/bin", "A=b=c"), ("sh",), None)
    assert (config.user, config.working_dir, config.stop_signal) == ("1000:1000", "/w", "SIGINT")
    assert (config.exposed_ports, config.volumes) == (("53/udp", "80/tcp"), ("/data",))
    assert (config.shell, config.on_build, config.args_escaped) == (("/bin/bash", "-c"), ("RUN x",), True)
    assert config.healthcheck == Healthcheck(
        test=("CMD-SHELL", "true"), interval=30_000_000_000, retries=3, extra={"X": 1}
    )
    assert config.history[1] == History(empty_layer=True, created_by="ENV", extra={"x": 1})
    assert set(config.extra) == {"container", "docker_version", "container_config"}
    assert set(config.config_extra) == {"Hostname", "AttachStdin", "Image", "StopTimeout"}


def test_nothing_in_a_config_is_lost() -> None:
    """Reading and writing keeps all fields, known or not (null is the same as missing)."""
    written = ImageConfig.parse(jsontext.dumps(DOCKER_CONFIG)).to_json()
    expected = json.loads(json.dumps(DOCKER_CONFIG))
    del expected["config"]["Entrypoint"]
    assert written == expected


words = st.none() | st.lists(names, max_size=3).map(tuple)
configs = st.builds(
    ImageConfig,
    platform=platforms,
    created=names,
    author=names,
    env=words,
    entrypoint=words,
    cmd=words,
    user=names,
    working_dir=names,
    labels=string_maps,
    exposed_ports=st.lists(names, max_size=3, unique=True).map(lambda ports: tuple(sorted(ports))),
    volumes=st.lists(names, max_size=3, unique=True).map(lambda paths: tuple(sorted(paths))),
    stop_signal=names,
    healthcheck=st.none()
    | st.builds(
        Healthcheck, test=st.lists(names, max_size=2).map(tuple), interval=st.integers(), retries=st.integers(0, 9)
    ),
    shell=words,
    on_build=st.lists(names, max_size=2).map(tuple),
    args_escaped=st.booleans(),
    diff_ids=st.lists(digests, max_size=3).map(tuple),
    history=st.lists(
        st.builds(History, created=names, created_by=names, empty_layer=st.booleans(), extra=unknown), max_size=3
    ).map(tuple),
    extra=unknown,
    config_extra=unknown,
)


@given(configs)
def test_configs_survive_json(config: ImageConfig) -> None:
    """`parse` undoes `to_bytes`, and writing it again gives the same bytes."""
    again = ImageConfig.parse(config.to_bytes())
    assert again == config
    assert again.to_bytes() == config.to_bytes()


def test_writing_does_not_depend_on_the_order_of_labels() -> None:
    """Maps and sets are written sorted, as Go writes them."""
    first = ImageConfig(platform=Platform(os="linux", architecture="amd64"), labels={"a": "1", "b": "2"})
    second = first.replace(labels={"b": "2", "a": "1"})
    assert first.to_bytes() == second.to_bytes()


@pytest.mark.parametrize("value", ["/bin/sh", ["/bin/sh"]])
def test_a_command_may_be_one_string(value: object) -> None:
    """Docker reads "Cmd": "x" as ["x"]."""
    assert ImageConfig.from_json({"os": "linux", "config": {"Cmd": value}}).cmd == ("/bin/sh",)


@pytest.mark.parametrize(
    "change",
    [
        {"config": []},
        {"config": {"Env": "A=b"}},
        {"config": {"Env": [1]}},
        {"config": {"Labels": []}},
        {"config": {"ExposedPorts": ["80"]}},
        {"config": {"Healthcheck": {"Interval": "30s"}}},
        {"config": {"ArgsEscaped": "yes"}},
        {"rootfs": {"type": "zfs"}},
        {"rootfs": {"type": "layers", "diff_ids": ["x"]}},
        {"history": {}},
        {"history": [[]]},
        {"os": 1},
    ],
)
def test_bad_configs_are_refused(change: dict[str, Any]) -> None:
    """A field of the wrong type is InvalidArgument that starts with what it is part of."""
    with pytest.raises(InvalidArgument, match=r"^the config of x"):
        ImageConfig.parse(jsontext.dumps({"os": "linux"} | change), what="the config of x")
