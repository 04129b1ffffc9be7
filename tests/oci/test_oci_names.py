"""The laws of digests, chain ids, media types, platforms and references."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop.oci import mediatype
from orlop.oci.chain import chain_id, chain_ids
from orlop.oci.digest import LENGTHS, Digest, hasher
from orlop.oci.platform import Platform, best_match
from orlop.oci.reference import Reference

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.binary(max_size=100_000), st.sampled_from(sorted(LENGTHS)))
def test_a_digest_is_what_hashlib_says(data: bytes, algorithm: str) -> None:
    """Small and large content, by whichever hash is at hand, give the same digest; it parses back."""
    digest = Digest.of(data, algorithm)
    assert digest == f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    assert Digest.parse(str(digest)) == digest
    assert (digest.algorithm, digest.short) == (algorithm, digest.encoded[:12])
    running = digest.hasher()
    running.update(data)
    assert Digest.from_hasher(algorithm, running) == digest


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537])
def test_both_sha256_agree_around_the_border(size: int) -> None:
    """The built-in hash and OpenSSL's are one function."""
    data = b"orlop" * (size // 5) + b"x" * (size % 5)
    assert Digest.of(data).encoded == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no algorithm"),
        ("abc", "no algorithm"),
        ("sha256:", "0 digits"),
        ("sha256:ab", "2 digits"),
        ("md5:" + "a" * 32, "md5"),
        ("sha256:" + "A" * 64, "upper-case"),
        ("sha256:" + "g" * 64, "hexadecimal"),
        ("sha256:../../" + "a" * 58, "hexadecimal"),
        (EMPTY + "\n", "hexadecimal"),
        ("sha512:" + "a" * 64, "64 digits"),
        ("SHA256:" + "a" * 64, "algorithm"),
    ],
)
def test_a_bad_digest_says_what_is_wrong(text: str, complaint: str) -> None:
    """Wrong algorithm, wrong length and wrong characters are told apart."""
    with pytest.raises(InvalidArgument, match=complaint):
        Digest.parse(text)


@given(st.text(max_size=80))
def test_only_valid_digests_are_made(text: str) -> None:
    """No text becomes a digest that would be unsafe as a path."""
    try:
        digest = Digest.parse(text)
    except InvalidArgument:
        return
    assert "/" not in digest
    assert digest.partition(":")[2].isalnum()


def test_an_unknown_algorithm_is_refused() -> None:
    """Hashing by a name that the specification does not have is InvalidArgument."""
    with pytest.raises(InvalidArgument, match="md5"):
        hasher("md5")


def test_chain_ids_follow_the_specification() -> None:
    """One layer is its own chain; each further one is the hash of "chain diffID" (config.md, Layer ChainID)."""
    one, two = Digest.of(b"1"), Digest.of(b"2")
    assert chain_id([one]) == one
    assert chain_id([one, two]) == Digest.of(f"{one} {two}".encode())
    assert chain_ids([one, two, one])[:2] == [chain_id([one]), chain_id([one, two])]
    with pytest.raises(InvalidArgument):
        chain_id([])


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        (mediatype.OCI_LAYER, "none"),
        (mediatype.OCI_LAYER_GZIP, "gzip"),
        (mediatype.OCI_LAYER_ZSTD, "zstd"),
        (mediatype.DOCKER_LAYER_GZIP, "gzip"),
        (mediatype.DOCKER_LAYER, "none"),
        ("application/x-thing+zstd", "zstd"),
        ("application/octet-stream", "none"),
    ],
)
def test_compression_is_told_by_the_media_type(media_type: str, compression: str) -> None:
    """Known layer types, and the structured suffix of others."""
    assert mediatype.compression_of(media_type) == compression


def test_media_types_have_one_kind_each() -> None:
    """Nothing is both a manifest and an index, or a layer and a config."""
    for name in (value for key, value in vars(mediatype).items() if key.isupper() and isinstance(value, str)):
        kinds = [mediatype.is_manifest(name), mediatype.is_index(name), mediatype.is_layer(name)]
        assert sum([*kinds, mediatype.is_image_config(name)]) <= 1, name


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("arm64", "linux/arm64"),
        ("i686", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_platforms_have_one_spelling(text: str, normal: str) -> None:
    """Every alias is normalised as containerd does, and the normal form stays as it is."""
    platform = Platform.parse(text)
    assert str(platform) == normal
    assert platform.normalized() == platform == Platform.parse(str(platform))
    assert Platform.from_json(platform.to_json()) == platform


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/am d64", "linux", "what"])
def test_bad_platforms_are_refused(text: str) -> None:
    """A platform that cannot be meant is InvalidArgument with an example."""
    with pytest.raises(InvalidArgument) as caught:
        Platform.parse(text)
    assert "linux/amd64" in caught.value.hint


@pytest.mark.parametrize(
    ("wanted", "offered", "best"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/arm64", "windows/amd64"], None),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], 1),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/amd64", ["linux/amd64/v2", "linux/amd64"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2"], 1),
        ("linux/amd64", ["linux/386"], 0),
        ("linux/386", ["linux/amd64"], None),
        ("linux/s390x", [], None),
    ],
)
def test_the_best_platform_wins(wanted: str, offered: list[str], best: int | None) -> None:
    """Exact first, then what the processor runs as well; never something newer than it."""
    assert best_match(Platform.parse(wanted), [Platform.parse(text) for text in offered]) == best


words = st.from_regex(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", fullmatch=True)
hosts = st.sampled_from(["docker.io", "localhost", "localhost:5000", "host:1", "ghcr.io", "[::1]:5000", "Upper.io"])
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(hosts, st.lists(words, min_size=1, max_size=4), tags | st.just(""), st.booleans())
def test_references_survive_being_written(host: str, path: list[str], tag: str, pinned: bool) -> None:
    """The canonical and the familiar form both read back as the same reference."""
    reference = Reference(
        registry=host,
        repository="/".join(path) if host != "docker.io" or len(path) > 1 else f"library/{path[0]}",
        tag=tag,
        digest=Digest.parse(EMPTY) if pinned else None,
    )
    assume(len(reference.name) <= 255)
    assert Reference.parse_plain(str(reference)) == reference
    assert Reference.parse_plain(reference.familiar) == reference
    if not tag and not pinned:
        assert Reference.parse(str(reference)) == reference.replace(tag="latest")


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("me/app", "docker.io/me/app:latest", "me/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/me/app", "docker.io/me/app:latest", "me/app:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("host:5000/x", "host:5000/x:latest", "host:5000/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("deadbeef", "docker.io/library/deadbeef:latest", "deadbeef:latest"),
        (f"busybox@{EMPTY}", f"docker.io/library/busybox@{EMPTY}", f"busybox@{EMPTY}"),
        (f"a.b/c:t@{EMPTY}", f"a.b/c:t@{EMPTY}", f"a.b/c:t@{EMPTY}"),
        ("a__b/c--d", "docker.io/a__b/c--d:latest", "a__b/c--d:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("docker.io/foo.bar/x", "docker.io/foo.bar/x:latest", "docker.io/foo.bar/x:latest"),
        ("Upper/x", "Upper/x:latest", "Upper/x:latest"),
    ],
)
def test_short_names_mean_what_docker_means(text: str, canonical: str, familiar: str) -> None:
    """The registry, "library/" and "latest" are put where docker puts them."""
    reference = Reference.parse(text)
    assert str(reference) == canonical
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("ubuntu:14:04", "'ubuntu:14:04' has two tags"),
        ("Ubuntu", "upper-case letters"),
        ("me/App:1", "upper-case letters"),
        ("busybox:", "empty tag"),
        ("busybox@", "no digest"),
        ("busybox@sha256:ab", "2 digits"),
        (f"busybox@{EMPTY}@{EMPTY}", "two @"),
        (f"@{EMPTY}", "no name"),
        (":tag", "no name"),
        ("a" * 64, "id"),
        ("https://docker.io/x", "https://"),
        ("busy box", "characters"),
        ("büsybox", "characters"),
        ("a//b", "empty word"),
        ("a/", "empty word"),
        ("-a", "start and end"),
        ("a-/b", "start and end"),
        ("a..b", r"'\.\.'"),
        ("a___b", "'___'"),
        ("a$b", r"'\$'"),
        ("host:99999/x", "port"),
        ("host:/x", "port"),
        ("host:5000/", "no repository"),
        ("[::1]", "no repository"),
        ("[::g]/x.y", "IPv6"),
        ("a.-b/x", "host"),
        ("x:-a", "starts with"),
        ("x:a/b$", "port"),
        ("x:" + "t" * 129, "129 characters"),
        ("x:a+b", r"'\+' in its tag"),
        ("x/" + "a" * 256, "characters"),
    ],
)
def test_a_bad_reference_says_what_is_wrong(text: str, complaint: str) -> None:
    """Every mistake has its own sentence, and a hint."""
    with pytest.raises(InvalidArgument, match=complaint) as caught:
        Reference.parse(text)
    assert caught.value.hint


@given(st.text(st.sampled_from("abA:/@.-_[]0 sha256"), max_size=30) | st.text(max_size=30))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    """What parses is stable: writing and parsing it again changes nothing."""
    try:
        reference = Reference.parse(text)
    except InvalidArgument:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
