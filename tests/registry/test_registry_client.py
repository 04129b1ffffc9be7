"""The client against our server: the contract that other rooms rely on."""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest
from patience import free_port

from orlop.errors import ContentMismatch, InvalidArgument, NotFound, Unauthenticated
from orlop.oci.descriptor import Descriptor
from orlop.oci.digest import Digest
from orlop.oci.manifest import Index, Manifest
from orlop.oci.mediatype import OCI_LAYER
from orlop.oci.reference import Reference
from orlop.registry import htpasswd
from orlop.registry.client import Client
from orlop.registry.credentials import Keychain
from orlop.registry.testing import Served, image, serving

if TYPE_CHECKING:
    from pathlib import Path

    from orlop.registry.transport import Options


def named(registry: Served, tag: str = "v1") -> Reference:
    """A reference to a repository that no other test uses."""
    return Reference.parse(f"{registry.address}/t{os.urandom(6).hex()}/app:{tag}")


def push(client: Client, ref: Reference, *layers: bytes, config: bytes = b"{}") -> Manifest:
    """An image, pushed whole."""
    manifest, blobs = image(*layers, config=config)
    for descriptor in (*manifest.layers, manifest.config):
        client.upload(ref, descriptor, partial(io.BytesIO, blobs[descriptor.digest]))
    assert client.put_manifest(ref, manifest.raw, manifest.media_type) == manifest.digest
    return manifest


def fetch(client: Client, ref: Reference, descriptor: Descriptor, offset: int = 0) -> bytes:
    with client.blob(ref, descriptor, offset) as pieces:
        return b"".join(pieces)


def test_what_is_pushed_is_pulled(registry: Served, client: Client) -> None:
    """An image comes back byte for byte, by tag and by digest, and resolves to its descriptor."""
    ref = named(registry)
    layer = os.urandom(3_000_000)
    manifest = push(client, ref, layer, b"small")
    assert client.manifest(ref, "v1") == (manifest.raw, manifest.media_type)
    assert client.manifest(ref, manifest.digest)[0] == manifest.raw
    assert client.resolve(ref) == manifest.descriptor
    assert fetch(client, ref, manifest.layers[0]) == layer
    assert fetch(client, ref, manifest.layers[1]) == b"small"
    assert client.tags(ref) == ["v1"]
    assert ref.repository in client.catalog(registry.address)


@pytest.mark.parametrize("offset", [0, 1, 999_999, 1_000_000])
def test_blobs_start_where_they_are_asked_to(registry: Served, client: Client, offset: int) -> None:
    """A download from an offset gives the rest, also where nothing is left."""
    ref = named(registry)
    layer = os.urandom(1_000_000)
    manifest = push(client, ref, layer)
    assert fetch(client, ref, manifest.layers[0], offset) == layer[offset:]


def test_an_offset_outside_of_the_blob_is_refused(registry: Served, client: Client) -> None:
    """Offsets are between 0 and the size."""
    manifest = push(client, ref := named(registry), b"12345")
    with pytest.raises(InvalidArgument, match="outside"):
        fetch(client, ref, manifest.layers[0], 6)


def test_empty_and_embedded_blobs(registry: Served, client: Client) -> None:
    """A blob of no bytes comes and goes like others; one that its descriptor carries needs no request."""
    ref = named(registry)
    manifest = push(client, ref, b"")
    assert fetch(client, ref, manifest.layers[0]) == b""
    nowhere = Reference.parse("127.0.0.1:1/nothing/there")
    carried = Descriptor.of(b"carried", OCI_LAYER).replace(data=b"carried")
    assert fetch(client, nowhere, carried, 3) == b"ried"


def test_uploads_say_how_they_went(registry: Served, client: Client) -> None:
    """The first upload sends, a second one finds it there, another repository mounts it, whichever one has it."""
    ref, other = named(registry), named(registry)
    content = os.urandom(2_500_000)
    descriptor = Descriptor.of(content, OCI_LAYER)
    sent: list[int] = []
    opened: list[io.BytesIO] = []

    def opener() -> io.BytesIO:
        opened.append(io.BytesIO(content))
        return opened[-1]

    assert client.has(ref, descriptor.digest) is False
    assert client.upload(ref, descriptor, opener, progress=sent.append) == "uploaded"
    assert sent[-1] == len(content)
    assert sent == sorted(sent)
    assert all(one.closed for one in opened)
    assert client.has(ref, descriptor.digest) is True
    assert client.upload(ref, descriptor, opener) == "exists"
    sources = ("no/such/repository", ref.repository)
    assert client.upload(other, descriptor, opener, mount_from=sources) == "mounted"
    assert len(opened) == 1
    assert fetch(client, other, descriptor) == content


def test_a_failed_mount_becomes_an_upload(registry: Served, client: Client) -> None:
    """If no repository has the blob, it is sent."""
    descriptor = Descriptor.of(b"nobody has this one", OCI_LAYER)
    result = client.upload(
        named(registry), descriptor, lambda: io.BytesIO(b"nobody has this one"), mount_from=("a", "b/c")
    )
    assert result == "uploaded"


def test_sha512_all_the_way(registry: Served, client: Client) -> None:
    """Blobs and manifests under sha512 digests are pushed and pulled."""
    ref = named(registry)
    layer = Descriptor.of(b"x" * 1000, OCI_LAYER).replace(digest=Digest.of(b"x" * 1000, "sha512"))
    config = push(client, ref).config
    assert client.upload(ref, layer, lambda: io.BytesIO(b"x" * 1000)) == "uploaded"
    manifest = Manifest.build(config=config, layers=[layer])
    digest = Digest.of(manifest.raw, "sha512")
    pinned = ref.replace(tag="", digest=digest)
    assert client.put_manifest(pinned, manifest.raw, manifest.media_type) == digest
    assert client.manifest(pinned, digest)[0] == manifest.raw
    assert fetch(client, ref, layer) == b"x" * 1000


def test_an_index_of_images(registry: Served, client: Client) -> None:
    """An index is pushed after its manifests and pulled as an index."""
    ref = named(registry)
    one = push(client, ref.replace(tag="one"), b"one")
    two = push(client, ref.replace(tag="two"), b"two")
    index = Index.build(manifests=[one.descriptor, two.descriptor])
    client.put_manifest(ref, index.raw, index.media_type)
    assert client.manifest(ref, "v1") == (index.raw, index.media_type)
    assert sorted(client.tags(ref)) == ["one", "two", "v1"]


def test_more_tags_than_fit_a_page(registry: Served, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages of a list are read."""
    monkeypatch.setattr("orlop.registry.client._PAGE", 3)
    ref = named(registry)
    for number in range(8):
        push(client, ref.replace(tag=f"t{number}"))
    assert client.tags(ref) == [f"t{number}" for number in range(8)]


def test_referrers(registry: Served, client: Client) -> None:
    """Artifacts that refer to an image are found, by type too, until they are deleted."""
    ref = named(registry)
    manifest = push(client, ref, b"layer")
    artifact = Manifest.build(
        config=manifest.config, layers=[], subject=manifest.descriptor, artifact_type="application/sbom"
    )
    pinned = ref.replace(tag="", digest=artifact.digest)
    client.put_manifest(pinned, artifact.raw, artifact.media_type)
    (found,) = client.referrers(ref, manifest.digest)
    assert (found.digest, found.artifact_type) == (artifact.digest, "application/sbom")
    assert client.referrers(ref, manifest.digest, "application/other") == ()
    assert client.referrers(ref, manifest.digest, "application/sbom") == (found,)
    client.delete(pinned)
    assert client.referrers(ref, manifest.digest) == ()


def test_deleting(registry: Served, client: Client) -> None:
    """A tag is deleted alone, a digest with its tags; what is gone is NotFound."""
    ref = named(registry)
    manifest = push(client, ref)
    client.put_manifest(ref.replace(tag="v2"), manifest.raw, manifest.media_type)
    client.delete(ref)
    assert client.tags(ref) == ["v2"]
    client.delete(ref.replace(digest=manifest.digest))
    assert client.tags(ref) == []
    with pytest.raises(NotFound):
        client.delete(ref)


def test_a_wrong_digest_in_the_reference_is_refused_before_pushing(registry: Served, client: Client) -> None:
    """A manifest is not pushed under a reference whose digest is another one's."""
    ref = named(registry)
    manifest = push(client, ref)
    with pytest.raises(ContentMismatch):
        client.put_manifest(ref.replace(digest=Digest.of(b"x")), manifest.raw, manifest.media_type)


def test_what_is_not_there(registry: Served, client: Client) -> None:
    """Missing manifests, blobs and repositories are NotFound, with the name in the sentence."""
    ref = named(registry, "nope")
    with pytest.raises(NotFound, match="app:nope not found"):
        client.manifest(ref, "nope")
    with pytest.raises(NotFound, match="app:nope not found"):
        client.resolve(ref)
    with pytest.raises(NotFound, match="no such repository"):
        client.tags(ref)
    with pytest.raises(NotFound, match="blob sha256:"):
        fetch(client, ref, Descriptor.of(b"x", OCI_LAYER))
    assert client.has(ref, Digest.of(b"x")) is False


def test_many_threads_share_a_client(registry: Served, client: Client) -> None:
    """Uploads and downloads of several threads do not disturb each other."""
    ref = named(registry)
    contents = [os.urandom(400_000 + number) for number in range(12)]
    descriptors = [Descriptor.of(content, OCI_LAYER) for content in contents]
    with ThreadPoolExecutor(6) as pool:
        done = list(
            pool.map(
                lambda pair: client.upload(ref, pair[0], lambda: io.BytesIO(pair[1])),
                zip(descriptors, contents, strict=True),
            )
        )
        assert done == ["uploaded"] * 12
        assert list(pool.map(lambda one: fetch(client, ref, one), descriptors)) == contents


def test_leaving_a_download_early(registry: Served, client: Client) -> None:
    """A caller who has seen enough leaves; the client goes on working."""
    ref = named(registry)
    manifest = push(client, ref, os.urandom(5_000_000))
    for _ in range(20):
        with client.blob(ref, manifest.layers[0]) as pieces:
            assert len(next(iter(pieces))) <= 1 << 20
    assert client.tags(ref) == ["v1"]


def test_logging_in(tmp_path: Path, quick: Options) -> None:
    """A stranger is told that it may be private, check_login tells right from wrong, stored credentials are used."""
    passwords, config = str(tmp_path / "htpasswd"), str(tmp_path / "config.json")
    htpasswd.add_user(passwords, "bob", "secret", rounds=4)
    with serving(root=str(tmp_path / "root"), htpasswd=passwords) as served:
        stranger, keychain = Client(None, options=quick), Keychain(config)
        ref = named(served)
        with pytest.raises(Unauthenticated, match="not found: or private and you are not logged in") as caught:
            stranger.manifest(ref, "v1")
        assert caught.value.hint == f"orlop login {served.address}"
        with pytest.raises(Unauthenticated, match="refuses the user name or password of bob") as caught:
            stranger.check_login(served.address, "bob", "hunter2")
        assert "hunter2" not in str(caught.value)
        stranger.check_login(served.address, "bob", "secret")
        keychain.store(served.address, "bob", "secret")
        member = Client(keychain, options=quick)
        manifest = push(member, ref, b"private")
        assert member.manifest(ref, "v1")[0] == manifest.raw
        keychain.store(served.address, "bob", "outdated")
        outdated = Client(keychain, options=quick)
        with pytest.raises(Exception, match="bob may not read") as denied:
            outdated.manifest(ref, "v1")
        assert getattr(denied.value, "kind", "") == "permission-denied"
        for one in (stranger, member, outdated):
            one.close()


def test_anonymous_pull_needs_no_login(tmp_path: Path, quick: Options) -> None:
    """With anonymous pulls, a client without credentials reads, and is told to log in when it writes."""
    passwords = str(tmp_path / "htpasswd")
    htpasswd.add_user(passwords, "bob", "secret", rounds=4)
    keychain = Keychain(str(tmp_path / "config.json"))
    with serving(root=str(tmp_path / "root"), htpasswd=passwords, anonymous_pull=True) as served:
        keychain.store(served.address, "bob", "secret")
        member, stranger = Client(keychain, options=quick), Client(None, options=quick)
        ref = named(served)
        manifest = push(member, ref, b"public")
        assert fetch(stranger, ref, manifest.layers[0]) == b"public"
        with pytest.raises(Unauthenticated, match="not logged in"):
            stranger.put_manifest(ref, manifest.raw, manifest.media_type)
        member.close()
        stranger.close()


def test_mirrors_are_asked_first_and_need_not_answer(registry: Served, quick: Options, tmp_path: Path) -> None:
    """What a mirror has comes from there, what it has not or if it is down, from the registry itself."""
    with serving(root=str(tmp_path / "mirror")) as mirror:
        origin = Client(None, options=quick)
        ref = named(registry)
        manifest = push(origin, ref, b"from the origin")
        copy = Reference.parse(f"{mirror.address}/{ref.repository}:v1")
        mirrored = push(origin, copy, b"from the mirror")
        prefixed = Reference.parse(f"{mirror.address}/proxy/{ref.repository}:v1")
        push(origin, prefixed, b"from the mirror")
        for where in (mirror.address, f"{mirror.address}/proxy"):
            client = Client(None, options=quick, mirrors=[f"{registry.address}={where}"])
            assert client.manifest(ref, "v1")[0] == mirrored.raw
            assert client.manifest(ref, manifest.digest)[0] == manifest.raw
            assert fetch(client, ref, manifest.layers[0]) == b"from the origin"
            client.close()
        assert mirror.stop() == 0
        client = Client(None, options=quick, mirrors=[f"{registry.address}={mirror.address}"])
        assert client.manifest(ref, "v1")[0] == manifest.raw
        assert client.manifest(ref, "v1")[0] == manifest.raw
        client.close()
        origin.close()


def test_uploads_survive_a_registry_that_is_restarted(tmp_path: Path, quick: Options) -> None:
    """An upload whose server dies in the middle goes on at the next one, from the bytes that are there."""
    root = str(tmp_path / "root")
    content = os.urandom(24_000_000)
    descriptor = Descriptor.of(content, OCI_LAYER)
    client = Client(None, options=quick.replace(attempts=60, backoff=0.01))
    # a port that the kernel gives to no client, or one could have it when the second registry wants it
    with serving(root=root, addr=f"127.0.0.1:{free_port()}", server="uvicorn") as first:
        address = first.address
        killed = threading.Event()

        class Source(io.BytesIO):
            def read(self, amount: int | None = -1) -> bytes:
                if self.tell() >= 16_000_000 and not killed.is_set():
                    killed.set()
                    first.process.kill()
                    first.process.wait()
                return super().read(min(amount or 0, 500_000))

            def seek(self, offset: int, whence: int = 0) -> int:
                starts.append(offset)
                return super().seek(offset, whence)

        starts: list[int] = []

        def opener() -> io.BytesIO:
            return Source(content)

        result: list[str] = []
        ref = Reference.parse(f"{address}/restarted:v1")
        worker = threading.Thread(target=lambda: result.append(client.upload(ref, descriptor, opener)))
        worker.start()
        assert killed.wait(60)
        with serving(root=root, addr=address, server="uvicorn"):
            worker.join(120)  # a machine that starts it slowly makes the client wait twice as long
            assert result == ["uploaded"]
            assert starts[0] == 0
            assert 0 < starts[-1] < len(content)
            assert fetch(client, ref, descriptor) == content
    client.close()


def test_importing_the_client_is_cheap() -> None:
    """Nothing heavy comes in before the first request."""
    import subprocess
    import sys

    code = "import sys, orlop.registry.client, orlop.registry.credentials; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, check=True, text=True)
    loaded = done.stdout.split()  # without our environment: what measures coverage would be in there, too
    for heavy in ("urllib3", "ssl", "asyncio", "subprocess", "typing", "dataclasses", "json", "http.client", "socket"):
        assert heavy not in loaded
