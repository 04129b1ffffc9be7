"""Our registry and our client beside others': skopeo, podman, docker, Debian's distribution, OCI's own suite."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE, free_port, until

from orlop.oci.digest import Digest
from orlop.oci.manifest import Index, Manifest, parse
from orlop.oci.reference import Reference
from orlop.registry import htpasswd, referrers
from orlop.registry.client import Client
from orlop.registry.credentials import Credential, Keychain
from orlop.registry.testing import Served, image, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.peer

USER, PASSWORD = "bob", "p:ss wörd"  # of a registry that lives for one test
LAYERS = (b"a layer " * 40_000, os.urandom(1_500_000))


def need(program: str) -> str:
    """A peer's path; its absence is said, not passed over in silence."""
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed on this machine")
    return found


def call(*argv: str | Path, **environ: str) -> str:
    done = subprocess.run(argv, capture_output=True, check=False, env={**os.environ, **environ}, timeout=120)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    """Our registry with one user."""
    path = str(tmp_path / "htpasswd")
    htpasswd.add_user(path, USER, PASSWORD, rounds=4)
    with serving(root=str(tmp_path / "ours"), htpasswd=path, workers=2) as served:
        yield served


@pytest.fixture
def keychain(tmp_path: Path) -> Keychain:
    return Keychain(str(tmp_path / "docker" / "config.json"))


@pytest.fixture
def member(guarded: Served, keychain: Keychain) -> Iterator[Client]:
    """A client that is logged in to `guarded`."""
    keychain.store(guarded.address, USER, PASSWORD)
    client = Client(keychain)
    yield client
    client.close()


@pytest.fixture
def distribution(tmp_path: Path) -> Iterator[str]:
    """Debian's docker-registry; its address."""
    program = need("docker-registry")
    address = f"127.0.0.1:{free_port()}"
    config = tmp_path / "distribution.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path}/theirs}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "{address}"}}\n'
    )
    process = subprocess.Popen([program, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def listens() -> bool:
            with socket.create_connection(("127.0.0.1", int(address[10:])), timeout=10):
                return True

        until(listens, address)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE)


def push(client: Client, ref: Reference, *layers: bytes, config: bytes = b"") -> Manifest:
    made, blobs = image(*layers, config=config or _config(layers))
    for descriptor in (*made.layers, made.config):
        client.upload(ref, descriptor, partial(io.BytesIO, blobs[str(descriptor.digest)]))
    client.put_manifest(ref, made.raw, made.media_type)
    return made


def _config(layers: tuple[bytes, ...]) -> bytes:
    diff_ids = [str(Digest.of(layer)) for layer in layers]
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()


def pull(client: Client, ref: Reference) -> dict[str, bytes]:
    """Everything below a reference, by digest, verified."""
    raw, media_type = client.manifest(ref, ref.digest or ref.tag)
    found = {str(Digest.of(raw)): raw}
    target = parse(raw, media_type)
    if isinstance(target, Index):
        for child in target.manifests:
            found |= pull(client, ref.replace(tag="", digest=child.digest))
        return found
    for blob in (target.config, *target.layers):
        with client.blob(ref, blob) as pieces:
            found[str(blob.digest)] = b"".join(blob.verified(pieces))
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "version"}


def credentials(kind: str) -> list[str]:
    return [f"--{kind}-tls-verify=false", f"--{kind}-creds={USER}:{PASSWORD}"]


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_skopeo_copies_both_ways(tmp_path: Path, guarded: Served, member: Client, form: str) -> None:
    """Skopeo pulls what we pushed, pushes it elsewhere in either format, and we pull the same content back."""
    skopeo = need("skopeo")
    ref = Reference.parse(f"{guarded.address}/from/us:1")
    pushed = push(member, ref, *LAYERS)
    call(skopeo, "copy", *credentials("src"), f"docker://{ref}", f"dir:{tmp_path}/one")
    got = tree(tmp_path / "one")
    assert got["manifest.json"] == pushed.raw
    assert {got[layer.digest.encoded] for layer in pushed.layers} == set(LAYERS)
    back = Reference.parse(f"{guarded.address}/from/skopeo:2")
    call(skopeo, "copy", "--format", form, *credentials("dest"), f"dir:{tmp_path}/one", f"docker://{back}")
    blobs = pull(member, back)
    assert pushed.config.digest in blobs
    manifest, media_type = member.manifest(back, "2")
    assert ("docker" in media_type) == (form == "v2s2")
    assert len(json.loads(manifest)["layers"]) == 2
    assert json.loads(
        call(skopeo, "list-tags", "--tls-verify=false", f"--creds={USER}:{PASSWORD}", f"docker://{back.name}")
    )["Tags"] == ["2"]
    call(skopeo, "delete", "--tls-verify=false", f"--creds={USER}:{PASSWORD}", f"docker://{back}")
    assert member.tags(back) == []


def test_skopeo_is_refused_without_a_password(guarded: Served, member: Client) -> None:
    """A stranger gets nothing."""
    ref = Reference.parse(f"{guarded.address}/from/us:1")
    push(member, ref, b"secret")
    done = subprocess.run(
        [need("skopeo"), "inspect", "--tls-verify=false", "--no-creds", f"docker://{ref}"],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert b"log in first" in done.stderr


def test_an_index_travels_between_three_registries(
    tmp_path: Path, guarded: Served, member: Client, distribution: str
) -> None:
    """A whole index goes from our registry to Debian's and back by skopeo, and every byte is the same."""
    skopeo = need("skopeo")
    ref = Reference.parse(f"{guarded.address}/multi:1")
    one = push(member, ref.replace(tag="one"), b"one" * 1000)
    two = push(member, ref.replace(tag="two"), b"two" * 1000)
    index = Index.build(manifests=[one.descriptor, two.descriptor])
    member.put_manifest(ref, index.raw, index.media_type)
    theirs = Reference.parse(f"{distribution}/multi:1")
    call(
        skopeo,
        "copy",
        "--all",
        "--preserve-digests",
        *credentials("src"),
        "--dest-tls-verify=false",
        f"docker://{ref}",
        f"docker://{theirs}",
    )
    assert pull(member, theirs) == pull(member, ref)
    back = Reference.parse(f"{guarded.address}/back:1")
    call(
        skopeo,
        "copy",
        "--all",
        "--preserve-digests",
        "--src-tls-verify=false",
        *credentials("dest"),
        f"docker://{theirs}",
        f"docker://{back}",
    )
    assert pull(member, back) == pull(member, ref)
    assert (tmp_path / "theirs").is_dir()


def test_our_client_and_debians_registry(distribution: str) -> None:
    """Push, mount, list, resume, refer and delete on another implementation, which has no referrers API."""
    client = Client(None)
    ref = Reference.parse(f"{distribution}/a/b:1")
    pushed = push(client, ref, *LAYERS)
    assert pull(client, ref)[str(pushed.digest)] == pushed.raw
    assert client.resolve(ref) == pushed.descriptor
    with client.blob(ref, pushed.layers[1], 1_000_000) as pieces:
        assert b"".join(pieces) == LAYERS[1][1_000_000:]
    layer = pushed.layers[0]
    other = Reference.parse(f"{distribution}/c/d:1")
    assert client.upload(ref, layer, partial(io.BytesIO, LAYERS[0])) == "exists"
    assert client.upload(other, layer, partial(io.BytesIO, LAYERS[0]), mount_from=["a/b"]) == "mounted"
    assert client.tags(ref) == ["1"]
    assert client.catalog(distribution) == ["a/b", "c/d"]
    artifact = Manifest.build(
        config=pushed.config, layers=[], subject=pushed.descriptor, artifact_type="application/sbom"
    )
    pinned = ref.replace(tag="", digest=artifact.digest)
    client.put_manifest(pinned, artifact.raw, artifact.media_type)
    assert [one.digest for one in client.referrers(ref, pushed.digest)] == [artifact.digest]
    assert referrers.tag_of(pushed.digest) in client.tags(ref)
    client.delete(pinned)
    assert client.referrers(ref, pushed.digest) == ()
    client.delete(ref.replace(digest=pushed.digest))
    assert "1" not in client.tags(ref)
    client.close()


def test_uploads_to_debians_registry_are_resumed(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload in pieces, and one that broke in the middle of a piece, arrive whole at distribution too."""
    client = Client(None)
    ref = Reference.parse(f"{distribution}/resumed:1")
    content = os.urandom(5_000_000)
    made, _ = image(content)
    transport = client._transport(distribution)
    monkeypatch.setattr("orlop.registry.upload._CHUNK", 2_000_000)
    from orlop.registry.upload import Upload

    upload = Upload(transport, ref.repository, ref.familiar_name)
    location = upload._begin(made.layers[0].digest)
    location, offset = upload._chunks(
        location, made.layers[0], partial(io.BytesIO, content), lambda _: None, 0, whole=False
    )
    assert offset == len(content)
    assert upload._resumed(location)[1] == len(content)
    upload._finish(location, made.layers[0], partial(io.BytesIO, content), lambda _: None, offset)
    with client.blob(ref, made.layers[0]) as pieces:
        assert b"".join(pieces) == content
    client.close()


@pytest.fixture
def short() -> Iterator[str]:
    """A folder with a short name: podman wants one of at most 50 characters for its state."""
    with tempfile.TemporaryDirectory(prefix="o-", dir="/tmp") as folder:
        yield folder


def test_podman_pushes_and_pulls(tmp_path: Path, short: str, guarded: Served, member: Client) -> None:
    """Podman logs in, pushes an image, pulls it back, and logs out, with a file that our keychain reads too."""
    podman = need("podman")
    base: list[str | Path] = [podman, "--root", tmp_path / "podman", "--runroot", f"{short}/run"]
    base += ["--storage-driver", "vfs"]
    authfile = tmp_path / "auth.json"
    with tarfile.open(tmp_path / "rootfs.tar", "w") as tar:
        info = tarfile.TarInfo("hello")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    options: list[str | Path] = ["--tls-verify=false", "--authfile", authfile]
    call(*base, "login", *options, "-u", USER, "-p", PASSWORD, guarded.address)
    assert Keychain(str(authfile)).get(guarded.address) == Credential(username=USER, password=PASSWORD)
    call(*base, "import", tmp_path / "rootfs.tar", "hello:1")
    target = f"{guarded.address}/podman/hello:1"
    call(*base, "push", *options, "hello:1", target)
    blobs = pull(member, Reference.parse(target))
    assert len(blobs) == 3
    call(*base, "rmi", "-a", "-f")
    call(*base, "pull", *options, target)
    assert "podman/hello" in call(*base, "images")
    call(*base, "logout", "--authfile", authfile, guarded.address)
    assert Keychain(str(authfile)).get(guarded.address) is None
    call(*base, "system", "reset", "-f")


def test_docker_and_skopeo_read_our_credentials(tmp_path: Path, guarded: Served, member: Client) -> None:
    """What our keychain stored, skopeo finds; what docker stores, our keychain finds."""
    ref = Reference.parse(f"{guarded.address}/x:1")
    push(member, ref, b"layer")
    config = tmp_path / "docker" / "config.json"
    shown = json.loads(call(need("skopeo"), "inspect", "--tls-verify=false", "--authfile", config, f"docker://{ref}"))
    assert shown["Name"] == ref.name
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    packed = json.loads(config.read_text())["auths"]
    (theirs / "config.json").write_text(json.dumps({"auths": packed, "HttpHeaders": {"x": "y"}}))
    assert Keychain(str(theirs / "config.json")).get(guarded.address) == Credential(username=USER, password=PASSWORD)
    call(need("docker"), "--config", theirs, "logout", guarded.address)
    assert Keychain(str(theirs / "config.json")).get(guarded.address) is None


def test_the_specifications_own_conformance_suite(tmp_path: Path) -> None:
    """Every API and every kind of data of OCI's conformance program passes, with all of its options on.

    ORLOP_DISTRIBUTION_CONFORMANCE is the path of the program, built from opencontainers/distribution-spec.
    """
    program = os.environ.get("ORLOP_DISTRIBUTION_CONFORMANCE", "")
    if not program:
        pytest.skip("ORLOP_DISTRIBUTION_CONFORMANCE does not name OCI's conformance program")
    options = {
        "OCI_TLS": "disabled",
        "OCI_VERSION": "dev",
        "OCI_API_BLOBS_DIGEST_HEADER": "true",
        "OCI_API_BLOBS_UPLOAD_CANCEL": "true",
        "OCI_API_MANIFESTS_DIGEST_HEADER": "true",
        "OCI_API_MANIFESTS_TAG_PARAM": "true",
        "OCI_DATA_SPARSE": "true",
        "OCI_RESULTS_DIR": str(tmp_path / "results"),
    }
    with serving(root=str(tmp_path / "root"), sparse=True, workers=2) as served:
        done = subprocess.run(
            [program],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **options, "OCI_REGISTRY": served.address},
            timeout=280,
        )
    shown = done.stdout.decode().partition("API conformance:")[2]
    results = [line.split(".:")[-1].strip() for line in shown.splitlines() if ".:" in line]
    assert results.count("Pass") == len(results) >= 52, shown
