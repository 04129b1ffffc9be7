"""Names, routes and headers: pure code that meets hostile text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop.registry import grammar, headers
from orlop.registry.endpoints import Mirror, host_of, is_listed, is_loopback, mirrors, proxy_for, split_port
from orlop.registry.server import routes

# The regular expressions of distribution-spec v1.1, spec.md, "Pulling manifests".
_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_NAMEISH = st.text(alphabet="ab0._-/A~é\n", max_size=14)


@given(_NAMEISH)
def test_repository_names_are_those_of_the_specification(text: str) -> None:
    """`is_repository` says what the specification's regular expression says."""
    assert grammar.is_repository(text) == bool(_NAME.fullmatch(text))


@given(st.text(alphabet="aZ0._-/: \n", max_size=6) | st.text(max_size=130))
def test_tags_are_those_of_the_specification(text: str) -> None:
    """`is_tag` says what the specification's regular expression says."""
    assert grammar.is_tag(text) == bool(_TAG.fullmatch(text))


@given(st.text(alphabet="ab/.\0_-%", max_size=30) | st.text(max_size=30))
def test_no_name_escapes_its_folder(text: str) -> None:
    """Whatever is a repository's name is a relative path without `.`, `..`, empty or hidden parts."""
    if grammar.is_repository(text):
        assert all(part and part[0].isalnum() and "\0" not in part for part in text.split("/"))


def test_names_are_limited() -> None:
    """A name of more than 255 characters and a tag of more than 128 are none."""
    assert grammar.is_repository("a" * 255)
    assert not grammar.is_repository("a" * 256)
    assert grammar.is_tag("a" * 128)
    assert not grammar.is_tag("a" * 129)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/", ("base", "", "")),
        ("/v2", ("base", "", "")),
        ("/v2/_catalog", ("catalog", "", "")),
        ("/v2/a/b/manifests/latest", ("manifest", "a/b", "latest")),
        ("/v2/a/blobs/sha256:00", ("blob", "a", "sha256:00")),
        ("/v2/a/blobs/uploads/", ("uploads", "a", "")),
        ("/v2/a/blobs/uploads", ("uploads", "a", "uploads")),
        ("/v2/a/blobs/uploads/xyz", ("upload", "a", "xyz")),
        ("/v2/a/tags/list", ("tags", "a", "list")),
        ("/v2/a/referrers/sha256:00", ("referrers", "a", "sha256:00")),
        ("/v2/a/manifests/b/tags/list", ("tags", "a/manifests/b", "list")),
        ("/v2/blobs/blobs/x", ("blob", "blobs", "x")),
        ("/v2/../manifests/x", ("invalid-name", "..", "x")),
        ("/v2/a//b/manifests/x", ("invalid-name", "a//b", "x")),
        ("/v2/A/manifests/x", ("invalid-name", "A", "x")),
        ("/", ("nothing", "", "")),
        ("/v1/search", ("nothing", "", "")),
        ("/v2/a/tags/other", ("nothing", "", "")),
    ],
)
def test_paths_mean_endpoints(path: str, expected: tuple[str, str, str]) -> None:
    """Paths are read from the right, so that names may have any word in them."""
    assert routes.route(path) == expected


@given(
    st.text(max_size=60),
    st.sampled_from(["/manifests/x", "/blobs/x", "/tags/list", "/referrers/x", "/blobs/uploads/x"]),
)
def test_every_route_has_a_valid_name(name: str, tail: str) -> None:
    """No text reaches a handler as a repository's name unless it is one."""
    kind, found, _ = routes.route(f"/v2/{name}{tail}")
    assert kind in (routes.NOTHING, routes.INVALID_NAME, routes.BASE, routes.CATALOG) or grammar.is_repository(found)


_TOKENS = st.text(alphabet="abcXYZ019-_", min_size=1, max_size=8)
_VALUES = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


@given(st.lists(st.tuples(_TOKENS, st.dictionaries(_TOKENS.map(str.lower), _VALUES, max_size=4)), max_size=4))
def test_challenges_are_read_back(wanted: list[tuple[str, dict[str, str]]]) -> None:
    """Any list of challenges, written with quoted strings in one header, is understood."""
    written = ", ".join(
        scheme + " " * bool(parameters) + ", ".join(f'{k}="{_quoted(v)}"' for k, v in parameters.items())
        for scheme, parameters in wanted
    )
    found = headers.challenges([written])
    assert [(one.scheme, one.parameters) for one in found] == [(scheme.lower(), values) for scheme, values in wanted]


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


@given(st.text(max_size=80))
def test_headers_never_raise(text: str) -> None:
    """Whatever a registry sends in a header, reading it raises nothing."""
    headers.challenges([text])
    headers.next_link(text)
    headers.end_of_range(text)
    headers.seconds(text, 0.0)


def test_docker_hubs_challenge_is_understood() -> None:
    """The header that Docker Hub sends, as recorded."""
    (one,) = headers.challenges(
        ['Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"']
    )
    assert one.scheme == "bearer"
    assert one.parameters["realm"] == "https://auth.docker.io/token"
    assert one.parameters["scope"] == "repository:a/b:pull,push"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('</v2/a/tags/list?n=2&last=b>; rel="next"', "/v2/a/tags/list?n=2&last=b"),
        ("</x>; rel=prev, </y>; rel=next", "/y"),
        ('</x>; title="a"; rel="next last"', "/x"),
        ("</x>; rel=prev", ""),
        ("nonsense", ""),
    ],
)
def test_links_to_the_next_page(text: str, expected: str) -> None:
    """The target of rel="next" is found among others."""
    assert headers.next_link(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("0-0", 0), ("0-9", 10), ("bytes=0-9", 10), ("1-9", None), ("", None), ("0-x", None)]
)
def test_ranges_of_uploads(text: str, expected: int | None) -> None:
    """A Range header of an upload says how many bytes are there."""
    assert headers.end_of_range(text) == expected


def test_retry_after_is_seconds_or_a_date() -> None:
    """Both forms of Retry-After are understood; a date that is past means now."""
    assert headers.seconds("7", 0.0) == 7.0
    assert headers.seconds("Thu, 01 Jan 1970 00:01:00 GMT", 30.0) == 30.0
    assert headers.seconds("Thu, 01 Jan 1970 00:01:00 GMT", 90.0) == 0.0
    assert headers.seconds("soon", 0.0) is None


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.8.9.1", True),
        ("[::1]:5000", True),
        ("127.evil.example", False),
        ("localhost.example", False),
        ("127.0.0.1.example:5000", False),
        ("10.0.0.1", False),
        ("docker.io", False),
    ],
)
def test_only_loopback_is_plain_without_a_flag(registry: str, *, expected: bool) -> None:
    """Names that merely look like this machine are not it."""
    assert is_loopback(registry) is expected


def test_insecure_entries() -> None:
    """An entry is a host with or without port, or a network."""
    assert is_listed("r.example:5000", ["r.example:5000"])
    assert is_listed("r.example:5000", ["r.example"])
    assert not is_listed("r.example:5000", ["r.example:5001"])
    assert is_listed("10.1.2.3:5000", ["10.0.0.0/8"])
    assert not is_listed("r.example", ["10.0.0.0/8"])


def test_docker_io_lives_elsewhere() -> None:
    """Docker Hub's registry has another host than its name; others are where they say."""
    assert host_of("docker.io") == "registry-1.docker.io"
    assert host_of("ghcr.io") == "ghcr.io"
    assert split_port("[::1]:50") == ("::1", "50")


def test_mirrors_are_read() -> None:
    """A mirror is docker.io's unless it says whose, and may have a prefix; URLs are refused."""
    found = mirrors(["m.example:5000", "ghcr.io=h.example/ghcr", "docker.io=n.example"])
    assert found["docker.io"] == (Mirror(registry="m.example:5000"), Mirror(registry="n.example"))
    assert found["ghcr.io"] == (Mirror(registry="h.example", prefix="ghcr"),)
    with pytest.raises(InvalidArgument, match="not a mirror"):
        mirrors(["https://m.example"])


def test_proxies_are_chosen_as_curl_does() -> None:
    """HTTPS_PROXY is used except for loopback and for what NO_PROXY names."""
    environ = {"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": "a.example,.b.example, 10.0.0.0/8,c.example:443"}
    assert proxy_for("https", "r.example", environ) == "http://proxy.example:3128"
    for host in ("a.example", "x.b.example:5000", "10.9.9.9", "localhost:5000", "c.example:443"):
        assert proxy_for("https", host, environ) == ""
    assert proxy_for("https", "c.example:444", environ)
    assert proxy_for("http", "r.example", environ) == ""
    assert proxy_for("https", "r.example", {"https_proxy": "x:1", "no_proxy": "*"}) == ""
