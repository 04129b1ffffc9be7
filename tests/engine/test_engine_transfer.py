"""Between the store and a registry: when to pull, what a push asks, and who hears of it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

import orlop
from orlop.errors import ContentMismatch, InvalidArgument, NotFound
from orlop.events import Event, ignore, serialised
from orlop.registry.client import Client
from orlop.registry.testing import Served, serving
from orlop.registry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orlop.engine.core import Engine
    from orlop.registry.transport import Request


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine on an empty root."""
    with orlop.open(root=str(tmp_path / "root"), run_root=str(tmp_path / "run")) as opened:
        yield opened


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry of one worker."""
    with serving(root=str(tmp_path_factory.mktemp("registry") / "root")) as served:
        yield served


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Method and path of every request that is made, written down on its way; the registry is a real one."""
    found: list[tuple[str, str]] = []
    forward = Transport.request

    def request(self: Transport, wanted: Request) -> object:
        found.append((wanted.method, wanted.path))
        return forward(self, wanted)

    monkeypatch.setattr(Transport, "request", request)
    return found


def image(engine: Engine, folder: Path, *names: str) -> None:
    """An image of one layer that no other has."""
    folder.mkdir()
    (folder / "file").write_bytes(os.urandom(1000))
    engine.builds.build(orlop.Build(context=str(folder), dockerfile_text="FROM scratch\nCOPY file /\n", tags=names))


def test_a_push_asks_no_more_than_it_must(
    engine: Engine, registry: Served, asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    """A blob takes a look, a start and a PUT; other repositories are asked only for what our images there have."""
    name = f"{registry.address}/first"
    image(engine, tmp_path / "other", f"{registry.address}/unrelated", f"{registry.address}/unrelated2")
    image(engine, tmp_path / "one", name)
    engine.images.push(orlop.Push(reference=name))
    assert sorted(method for method, _ in asked) == ["HEAD", "HEAD", "POST", "POST", "PUT", "PUT", "PUT"]
    assert not any("unrelated" in path for _, path in asked)

    asked.clear()
    actions: list[str] = []
    engine.images.push(orlop.Push(reference=name), lambda event: actions.append(event.action))
    assert sorted(method for method, _ in asked) == ["HEAD", "HEAD", "PUT"]
    assert actions.count("push.exists") == 2

    asked.clear()
    engine.images.tag(name, f"{registry.address}/second")
    engine.images.push(orlop.Push(reference=f"{registry.address}/second"))
    assert sorted(method for method, _ in asked) == ["HEAD", "HEAD", "POST", "POST", "PUT"]  # both were mounted
    assert all("from=first" in path for method, path in asked if method == "POST")


@pytest.mark.parametrize("policy", ["nevr", "", "Always"])
def test_when_to_pull_is_one_of_three_words(engine: Engine, tmp_path: Path, policy: str) -> None:
    """Another word is refused before anything is looked up, by whichever verb it comes."""
    image(engine, tmp_path / "one", "here")
    with pytest.raises(InvalidArgument, match="when to pull") as caught:
        engine.images.pull(orlop.Pull(reference="here", policy=policy))
    assert "always, missing, never" in caught.value.hint
    with pytest.raises(InvalidArgument, match="when to pull"):
        engine.containers.create(orlop.CreateContainer(image="here", command=("x",), pull=policy))


def test_what_is_here_is_not_fetched(engine: Engine, registry: Served, tmp_path: Path) -> None:
    """Policies other than "always" take what is here; "never" fetches nothing; the others do."""
    name = f"{registry.address}/policies"
    image(engine, tmp_path / "one", name)
    engine.images.push(orlop.Push(reference=name))
    for policy in ("missing", "never"):
        assert engine.images.pull(orlop.Pull(reference=name, policy=policy)).names
    engine.images.remove(orlop.RemoveImage(image=name))
    with pytest.raises(NotFound, match="never forbids"):
        engine.images.pull(orlop.Pull(reference=name, policy="never"))
    for policy in ("missing", "always"):
        assert engine.images.pull(orlop.Pull(reference=name, policy=policy)).names


def test_connections_end_with_the_verb(
    engine: Engine, registry: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull and a push close what they opened, also where they fail."""
    closed: list[Client] = []
    forward = Client.close

    def close(self: Client) -> None:
        closed.append(self)
        forward(self)

    monkeypatch.setattr(Client, "close", close)
    name = f"{registry.address}/closing"
    image(engine, tmp_path / "one", name)
    engine.images.push(orlop.Push(reference=name))
    engine.images.pull(orlop.Pull(reference=name))
    with pytest.raises(NotFound):
        engine.images.pull(orlop.Pull(reference=f"{registry.address}/not-there"))
    assert len(closed) == 3


def test_a_report_hears_of_one_thing_at_a_time(engine: Engine, registry: Served, tmp_path: Path) -> None:
    """However many threads a verb has, the function that it reports to is never entered twice at once."""
    inside = 0
    seen: list[str] = []

    def report(event: Event) -> None:
        nonlocal inside
        inside += 1
        os.sched_yield()
        assert inside == 1
        seen.append(event.action)
        inside -= 1

    many = serialised(report)
    threads = [threading.Thread(target=lambda: [many(Event(action="x")) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["x"] * 4000
    assert serialised(many) is many
    assert serialised(ignore) is ignore

    stages = "".join(f"FROM scratch AS s{at}\nCOPY file /{at}\n" for at in range(6))
    copies = "".join(f"COPY --from=s{at} /{at} /\n" for at in range(6))
    (tmp_path / "file").write_bytes(b"x")
    name = f"{registry.address}/reported"
    engine.builds.build(
        orlop.Build(context=str(tmp_path), dockerfile_text=f"{stages}FROM scratch\n{copies}", tags=(name,)), report
    )
    engine.images.push(orlop.Push(reference=name), report)
    engine.images.pull(orlop.Pull(reference=name), report)
    assert {"build.step", "push.manifest", "pull.manifest"} <= set(seen)


@pytest.mark.parametrize("kind", [orlop.Cancelled, ValueError])
def test_what_a_report_raises_once_ends_the_build(
    engine: Engine, registry: Served, tmp_path: Path, kind: type[Exception]
) -> None:
    """Images are asked for by several threads at once; what the report raises in one of them is not lost there."""
    names = [f"{registry.address}/{kind.__name__.lower()}{at}" for at in range(2)]
    for at, name in enumerate(names):
        image(engine, tmp_path / str(at), name)
        engine.images.push(orlop.Push(reference=name))
        engine.images.remove(orlop.RemoveImage(image=name))
    raised: list[str] = []

    def report(event: Event) -> None:
        if event.action == "pull.manifest" and not raised:
            raised.append(event.subject)
            raise kind("enough")

    text = f"FROM {names[0]} AS a\nFROM {names[1]}\nCOPY --from=a /file /other\n"
    with pytest.raises(kind, match="enough"):
        engine.builds.build(orlop.Build(context=str(tmp_path), dockerfile_text=text, tags=("never",)), report)
    with pytest.raises(NotFound):
        engine.images.find("never")


def test_a_blob_that_changed_on_the_disk_is_not_believed(engine: Engine, tmp_path: Path) -> None:
    """A small blob is verified whenever it is read, so that no manifest or config is used that is not its digest."""
    image(engine, tmp_path / "one", "app")
    content, digest = engine.root.content, engine.images.find("app").manifest
    path = content.path(digest)
    with open(path, "rb") as file:
        data = bytearray(file.read())
    assert content.read(digest) == data
    data[-2] ^= 1
    os.chmod(path, 0o644)
    with open(path, "wb") as file:
        file.write(data)
    with pytest.raises(ContentMismatch, match=digest):
        content.read(digest)
