"""Content that lies: registries, archives, blobs on our disk, names, bombs; and what must stay private."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import attack
import pytest
from command import Orlop

_PASSWORD = "hunter2hunter2"
_DIGEST = "sha256:" + "0" * 64


class _Liar(http.server.BaseHTTPRequestHandler):
    """A registry whose answers are what the test says."""

    answers: dict[str, tuple[int, dict[str, str], bytes]] = {}  # noqa: RUF012  # each test has a class of its own

    def do_GET(self) -> None:  # the name http.server calls
        """Answer by path."""
        code, headers, body = self.answers.get(self.path, (404, {}, b"{}"))
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  # the name http.server calls

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def liar(answers: dict[str, tuple[int, dict[str, str], bytes]]) -> Iterator[str]:
    """The address of a registry that gives these answers."""
    handler = type("Liar", (_Liar,), {"answers": answers})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _image(layer: bytes, diff_id: str = "") -> tuple[bytes, bytes]:
    """A config and a manifest of one gzip layer."""
    diff = diff_id or f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}"
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}}
    ).encode()
    kind = "application/vnd.oci.image"
    described = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {"mediaType": f"{kind}.config.v1+json", "digest": _of(config), "size": len(config)},
        "layers": [{"mediaType": f"{kind}.layer.v1.tar+gzip", "digest": _of(layer), "size": len(layer)}],
    }
    return config, json.dumps(described).encode()


def _of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _served(config: bytes, manifest: bytes, layer: bytes) -> dict[str, tuple[int, dict[str, str], bytes]]:
    head = {"Content-Type": "application/vnd.oci.image.manifest.v1+json", "Docker-Content-Digest": _of(manifest)}
    described = json.loads(manifest)
    return {
        "/v2/": (200, {}, b"{}"),
        "/v2/a/b/manifests/latest": (200, head, manifest),
        f"/v2/a/b/manifests/{_of(manifest)}": (200, head, manifest),
        f"/v2/a/b/blobs/{described['config']['digest']}": (200, {}, config),
        f"/v2/a/b/blobs/{described['layers'][0]['digest']}": (200, {}, layer),
    }


@pytest.mark.parametrize("lie", ["layer", "longer layer", "config", "manifest by digest", "header", "diff id"])
def test_registries_that_lie(arena: Orlop, lie: str) -> None:
    """Whatever a registry swaps, cuts or appends is refused, and nothing of it can be seen afterwards."""
    layer = gzip.compress(attack.tar(attack.file("a", os.urandom(1000))))
    config, manifest = _image(layer, _DIGEST if lie == "diff id" else "")
    answers = _served(config, manifest, layer)
    name, images = "a/b", arena("images", "-q")
    blob = f"/v2/a/b/blobs/{_of(layer)}"
    if lie == "layer":
        answers[blob] = (200, {}, gzip.compress(attack.tar(attack.file("a", "evil"))))
    elif lie == "longer layer":
        answers[blob] = (200, {}, layer + b"evil")
    elif lie == "config":
        answers[f"/v2/a/b/blobs/{_of(config)}"] = (200, {}, config.replace(b"amd64", b"evils"))
    elif lie == "manifest by digest":
        wanted = f"sha256:{'1' * 64}"
        answers[f"/v2/a/b/manifests/{wanted}"] = answers["/v2/a/b/manifests/latest"]
        name = f"a/b@{wanted}"
    elif lie == "header":
        answers["/v2/a/b/manifests/latest"] = (200, {"Docker-Content-Digest": _DIGEST}, manifest)
    with liar(answers) as address:
        error = arena.fails("pull", f"{address}/{name}")

    assert "hint" in error
    assert arena("images", "-q") == images
    content = arena.folder / "root/content/blobs/sha256"
    for path in content.iterdir():
        assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()


def test_registries_cannot_send_us_elsewhere_with_credentials(arena: Orlop, tmp_path: Path) -> None:
    """A redirect or a token realm on another host never gets the credentials of the first, nor a file:// URL an answer."""
    seen: list[str] = []

    class Thief(_Liar):
        def do_GET(self) -> None:  # the name http.server calls
            seen.append(self.headers.get("Authorization") or "")
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    thief = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Thief)
    thread = threading.Thread(target=thief.serve_forever)
    thread.start()
    elsewhere = f"http://localhost:{thief.server_address[1]}"
    try:
        for target in (f"{elsewhere}/v2/x", "file:///etc/passwd", "ftp://localhost/x"):
            with liar(
                {"/v2/": (200, {}, b"{}"), "/v2/a/b/manifests/latest": (307, {"Location": target}, b"")}
            ) as address:
                arena("login", "-u", "sailor", "--password-stdin", address, stdin=_PASSWORD.encode())
                error = arena.fails("pull", f"{address}/a/b")
                arena("logout", address)
                assert _PASSWORD not in error
                assert "root:" not in error
    finally:
        thief.shutdown()
        thief.server_close()
        thread.join()
    assert not any(seen)


def test_corrupted_blobs_are_noticed(arena: Orlop, tmp_path: Path) -> None:
    """A blob that was changed on our own disk is neither unpacked nor handed out as what it is not."""
    own = Orlop(tmp_path / "own")
    own.folder.mkdir()
    own("load", "-q", stdin=attack.saved(arena, "busybox"))
    manifest = json.loads(own("inspect", "busybox"))[0]
    assert manifest["Id"].startswith("sha256:")
    blobs = sorted((own.folder / "root/content/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blobs[-1].read_bytes())
    data[len(data) // 2] ^= 1
    blobs[-1].chmod(0o600)
    blobs[-1].write_bytes(data)
    own.run("save", "-o", str(tmp_path / "saved.tar"), "busybox")
    loaded = Orlop(tmp_path / "other")
    loaded.folder.mkdir()
    error = loaded.fails("load", "-i", str(tmp_path / "saved.tar")) if (tmp_path / "saved.tar").exists() else ""

    assert "Traceback" not in error
    assert loaded("images", "-q") == ""
    own("internal", "teardown")
    loaded("internal", "teardown")


def _rewritten(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as reader:
        members = [(one.name, reader.extractfile(one).read()) for one in reader if one.isfile()]  # type: ignore[union-attr]  # files have content
    return attack.tar(*(attack.file(name, change(name, content)) for name, content in members))


@pytest.mark.parametrize("lie", ["blob", "config", "diff id", "missing", "traversal"])
def test_archives_that_lie(arena: Orlop, tmp_path: Path, host_file: Path, lie: str) -> None:
    """`load` of an archive whose digests are wrong, whose members are missing, or that names files outside: refused."""
    base = attack.saved(arena, "busybox")
    own = Orlop(tmp_path / "own")  # a root that has nothing of the truth yet
    own.folder.mkdir()
    biggest = max(
        (one for one in tarfile.open(fileobj=io.BytesIO(base)) if one.name.startswith("blobs/")),
        key=lambda one: one.size,
    ).name
    if lie == "blob":
        data = _rewritten(base, lambda name, content: content + b"evil" if name == biggest else content)
    elif lie == "config":
        data = _rewritten(
            base, lambda name, content: content.replace(b'"linux"', b'"evils"') if b"diff_ids" in content else content
        )
    elif lie == "diff id":
        layer = attack.tar(attack.file("a", "a"))
        data = attack.archive(
            "lie",
            {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [_DIGEST]}},
            [layer],
        )
    elif lie == "missing":
        data = attack.tar(
            attack.file("manifest.json", json.dumps([{"Config": "c.json", "RepoTags": ["lie:1"], "Layers": ["l"]}]))
        )
    else:
        manifest = [{"Config": f"../../..{host_file}", "RepoTags": ["lie:1"], "Layers": ["/etc/shadow"]}]
        data = attack.tar(attack.link("c", str(host_file)), attack.file("manifest.json", json.dumps(manifest)))
    done = own.run("load", stdin=data)

    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "the host's own" not in done.stderr
    assert own("images", "-aq") == ""
    own("internal", "teardown")


@pytest.mark.slow
def test_decompression_bombs(arena: Orlop) -> None:
    """A layer of some hundred kilobytes that expands to hundreds of gigabytes ends the load early, and leaves nothing."""
    zeros = gzip.compress(bytes(1 << 24), 9)
    info = tarfile.TarInfo("bomb")
    info.size = 1 << 40
    layer = gzip.compress(info.tobuf(tarfile.PAX_FORMAT)) + zeros * 200
    import zstandard

    denser = zstandard.ZstdCompressor(level=19)
    stream = denser.compressobj()
    pressed = stream.compress(info.tobuf(tarfile.PAX_FORMAT))
    for _ in range(256):
        pressed += stream.compress(bytes(1 << 24))
    pressed += stream.flush()
    for data in (layer, pressed):
        document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [_DIGEST]}}
        done = arena.run("load", stdin=attack.archive("bomb", document, [data]), timeout=100)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
    assert sum(path.lstat().st_blocks for path in (arena.folder / "root/layers").rglob("*")) * 512 < 1 << 28


@pytest.mark.parametrize(
    "name",
    ["../x", "/../x", "a/b", "..", ".", "-x", "a\nb", "x" * 300 + "/", "a b", "\u00e9\u00e9", "%2e%2e", "a\x1b[2J"],
)
def test_names_are_checked(arena: Orlop, name: str) -> None:
    """Names of containers, volumes and networks hold no path, no option and no terminal escape; the error is plain."""
    for words in (
        ["create", f"--name={name}", "busybox", "true"],
        ["volume", "create", "--", name],
        ["volume", "rm", "--", name],
        ["network", "create", "--", name],
        ["create", "--network", name, "busybox", "true"],
        ["rm", "--", name],
        ["inspect", "--", name],
        ["exec", "--", name, "true"],
        ["logs", "--", name],
    ):
        error = arena.fails(*words)
        assert "\x1b" not in error
        assert "\n" not in error.splitlines()[0]
    assert arena("ps", "-aq", "--filter", "status=created") == ""


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "busybox/../../x", "BUSYBOX", "busybox:../x", "busybox@sha256:../../../x", "localhost/../x:1",
     "busybox@sha256:" + "g" * 64, "a//b", "/busybox", "busybox:" + "t" * 200, "http://x/y"],
)  # fmt: skip
def test_references_are_checked(arena: Orlop, name: str) -> None:
    """An image's name is never a path, in any command that takes one."""
    for words in (
        ["tag", "busybox", name],
        ["pull", name],
        ["run", "--rm", "--pull", "never", name, "true"],
        ["save", name],
        ["rmi", name],
    ):
        assert "Traceback" not in arena.fails(*words)


def test_runtime_ids_are_checked(arena: Orlop, tmp_path: Path) -> None:
    """The runtime's own command line takes no id that is a path, whatever the verb."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "state.json").write_text("{}")
    for verb in (
        ["state"],
        ["delete", "--force"],
        ["kill"],
        ["create", "--bundle", str(tmp_path)],
        ["start"],
        ["exec", "-d"],
    ):
        for identity in ("../outside", "..", "a/../../outside", str(outside), "a\nb"):
            more = ["true"] if verb[0] == "exec" else []
            done = subprocess.run(
                [sys.executable, "-m", "orlop.runtime.program", "--root", str(tmp_path / "state"), *verb, identity, *more],
                capture_output=True, check=False,
            )  # fmt: skip
            assert done.returncode != 0
            assert b"Traceback" not in done.stderr
    assert os.listdir(outside) == ["state.json"]


# --- what must stay private


def test_the_store_is_closed_to_others(arena: Orlop, target: str, tmp_path: Path) -> None:
    """Another user of the machine reads no blob, layer, log, volume, bundle or socket of ours, nor runs what is there."""
    arena(
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "setuid:/v",
        "busybox",
        "sh",
        "-c",
        "cp /bin/busybox /v/su; chmod 4755 /v/su",
    )
    arena("exec", target, "sh", "-c", "cp /bin/busybox /su && chmod 4755 /su")
    folder = arena.folder
    for way in (*reversed(folder.parents), folder):
        if str(way).startswith("/tmp/"):
            way.chmod(stat.S_IMODE(way.stat().st_mode) | 0o011)  # as if the root lay where everybody may pass
    known = [str(path) for room in ("root", "run") for path in (folder / room).rglob("*")]
    assert any(path.endswith("volumes/default/setuid/_data/su") for path in known)
    code = (
        "import os, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.stdin.read().split('\\0'):\n"
        "    for mode in (os.R_OK, os.W_OK, os.X_OK):\n"
        "        if os.access(path, mode) and not os.path.islink(path): print(path, mode)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], input="\0".join(known), text=True, capture_output=True, check=True
    )
    # folders without secrets that may be passed or listed; nothing below containers, volumes, snapshots, layers, content
    found = {line.rsplit(" ", 1)[0].removeprefix(f"{folder}/") for line in done.stdout.splitlines()}
    assert found <= {
        "root/VERSION", "root/volumes", "root/snapshots", "run/containers", "run/runtime", "run/runtime/@seccomp", "run",
    }, found  # fmt: skip
    arena("volume", "rm", "setuid")


def test_bundles_are_private(arena: Orlop, target: str) -> None:
    """config.json, which holds the environment, is for its owner only; so are the databases, logs and the journal."""
    folder = arena.folder
    files = [*(folder / "run").rglob("config.json"), *(folder / "root").glob("*.db"), folder / "root/events.jsonl"]
    files += list((folder / "root/containers").rglob("log.json"))
    assert len(files) > 3
    for path in files:
        with contextlib.suppress(FileNotFoundError):  # an earlier container's files may be on their way out
            assert not path.stat().st_mode & (0o017 if path.name == "log.json" else 0o077), path


def test_credentials_are_not_told(arena: Orlop, registry: str, tmp_path: Path) -> None:
    """Passwords are in no error, output, event or argv, whether given by login, in an address or by a proxy."""
    said = [
        arena.run("login", "-u", "sailor", "--password-stdin", registry, stdin=_PASSWORD.encode() + b"x"),
        arena.run("login", "-u", "sailor", "--password-stdin", registry, stdin=_PASSWORD.encode()),
        arena.run("login", "-u", "sailor", "--password-stdin", f"http://sailor:{_PASSWORD}@{registry}", stdin=b"x"),
        arena.run("pull", f"sailor:{_PASSWORD}@{registry}/a/b"),
        arena.run("pull", f"https://sailor:{_PASSWORD}@{registry}/a/b"),
        arena.run("pull", f"{registry}/not/there"),
        arena.run("push", "busybox"),
        arena.run("info"),
        arena.run("logout", registry),
    ]
    proxied = Orlop(arena.folder, HTTP_PROXY=f"http://sailor:{_PASSWORD}@127.0.0.1:1")
    said += [proxied.run("pull", "nowhere.invalid/a/b"), proxied.run("info")]
    events = arena("events", "--since", "1h", "--until", "0s")

    assert said[1].returncode == 0
    for done in said:
        text = done.stdout + done.stderr
        assert _PASSWORD not in text.replace(f"sailor:{_PASSWORD}@", "", 0), done.args
    assert _PASSWORD not in events


def test_a_password_in_argv_is_warned_of(arena: Orlop, registry: str) -> None:
    """`login -p` works as docker's and warns; what login stores can be read by its owner only."""
    done = arena.run("login", "-u", "sailor", "-p", _PASSWORD, registry)

    assert "--password-stdin" in done.stderr
    assert _PASSWORD not in done.stderr
    config = arena.folder / "docker/config.json"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    arena("logout", registry)
    assert registry not in config.read_text()
