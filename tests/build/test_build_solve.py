"""Whole builds: real snapshots, real layers, RUN in a chroot."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from orlop.build.dockerfile.source import DockerfileError, DockerfileUnimplemented, Failure
from orlop.build.failures import BuildFailed
from orlop.build.protocols import StepMount
from orlop.build.solve import BuildRequest
from orlop.errors import Cancelled, FailedPrecondition, InvalidArgument, Kind, NotFound
from orlop.oci.image import ImageConfig
from orlop.oci.manifest import Manifest, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.build.protocols import BaseImage, ExecStep
    from orlop.build.testing import Kitchen
    from orlop.events import Event
    from orlop.oci.platform import Platform
    from orlop.oci.reference import Reference


def test_a_build_runs_copies_and_configures(kitchen: Kitchen) -> None:
    """The plainest Dockerfile gives an image with its files, its configuration and Docker's history."""
    kitchen.write({"app.txt": "hello"})

    built = kitchen.build(
        "FROM base\nENV GREETING=hi\nWORKDIR /app\nCOPY app.txt .\n"
        'RUN echo $GREETING > said && cat app.txt\nCMD ["cat", "said"]\n'
    )

    assert kitchen.output() == "hello"
    assert built.config.cmd == ("cat", "said")
    assert built.config.env == ("PATH=/usr/bin:/bin", "GREETING=hi")
    assert built.config.working_dir == "/app"
    assert [entry.created_by for entry in built.config.history] == [
        "ENV GREETING=hi",
        "WORKDIR /app",
        "COPY app.txt . # buildkit",
        "RUN /bin/sh -c echo $GREETING > said && cat app.txt # buildkit",
        'CMD ["cat" "said"]',
    ]
    assert len(built.layers) == 4
    with kitchen.tree(built) as files:
        assert (files / "app/said").read_text() == "hi\n"
        assert (files / "app/app.txt").read_text() == "hello"


def test_what_is_built_is_in_the_store_and_consistent(kitchen: Kitchen) -> None:
    """Manifest, config and layers are blobs that describe each other."""
    built = kitchen.build("FROM base\nRUN echo x > /x\n")

    content = kitchen.root.content
    manifest = parse(content.read(built.manifest.digest), built.manifest.media_type)
    assert isinstance(manifest, Manifest)
    config = ImageConfig.parse(content.read(manifest.config.digest))
    assert config == built.config
    assert config.diff_ids == tuple(layer.diff_id for layer in built.layers)
    assert [layer.digest for layer in manifest.layers] == [layer.digest for layer in built.layers]
    assert all(layer.digest in content for layer in manifest.layers)
    assert sum(not entry.empty_layer for entry in config.history) == len(built.layers) - 1


def test_building_again_runs_nothing_and_gives_the_same_image(kitchen: Kitchen) -> None:
    """When nothing changed every step is cached, nothing is mounted or run, and the digest is the same."""
    kitchen.write({"a": "1"})
    text = "FROM base AS one\nRUN echo 1 > /one\nFROM base\nCOPY a /a\nCOPY --from=one /one /o\nRUN cat /o\nLABEL x=y\n"
    first = kitchen.build(text)
    before = len(kitchen.root.state.snapshots.all())

    second = kitchen.build(text)

    assert second.manifest.digest == first.manifest.digest
    assert not kitchen.executed
    assert not second.misses
    assert len(kitchen.root.state.snapshots.all()) == before
    assert [event.subject for event in kitchen.events if event.action == "build.cached"] == [
        "stage-1/1",
        "stage-1/2",
        "stage-1/3",
    ]


def test_a_changed_file_misses_from_its_step_on_and_says_so(kitchen: Kitchen) -> None:
    """A changed source misses; the reason names the file; steps before it stay cached."""
    kitchen.write({"src/a.py": "1", "src/b.py": "1"})
    text = "FROM base\nRUN echo first\nCOPY src /src\nRUN cat /src/a.py\n"
    kitchen.build(text)
    kitchen.write({"src/a.py": "22", "src/c.py": "new"})
    (kitchen.context / "src/b.py").unlink()

    built = kitchen.build(text)

    assert built.hits == ("stage-0/1",)
    assert kitchen.output() == "22"
    reasons = kitchen.texts("build.miss")
    assert reasons[0] == "src/a.py changed, src/c.py is new, src/b.py is gone"
    assert reasons[1] == "a step before it changed"


def test_times_alone_do_not_miss(kitchen: Kitchen) -> None:
    """A touched file with the same content is the same file."""
    kitchen.write({"a": "1"})
    first = kitchen.build("FROM base\nCOPY a /a\n")
    os.utime(kitchen.context / "a", (1, 1))

    second = kitchen.build("FROM base\nCOPY a /a\n")

    assert second.hits == ("stage-0/1",)
    assert second.manifest.digest == first.manifest.digest


def test_a_label_or_cmd_does_not_run_later_steps_again(kitchen: Kitchen) -> None:
    """Steps that change only the configuration are no part of later steps' keys."""
    kitchen.build("FROM base\nLABEL a=1\nRUN echo hi\n")

    built = kitchen.build("FROM base\nLABEL a=2\nRUN echo hi\n")

    assert not kitchen.executed
    assert built.config.labels == {"a": "2"}


@pytest.mark.parametrize(
    ("arg", "missed"),
    [("ARG V\nRUN echo $V\n", True), ("RUN echo hi\nARG V\n", False)],
)
def test_an_arg_counts_only_for_what_follows(kitchen: Kitchen, arg: str, *, missed: bool) -> None:
    """A build argument's value is part of the keys of RUNs after its ARG, and of no others."""
    kitchen.build(f"FROM base\n{arg}", build_args={"V": "1"})

    kitchen.build(f"FROM base\n{arg}", build_args={"V": "2"})

    assert bool(kitchen.executed) is missed
    if missed:
        assert kitchen.texts("build.miss") == ["the variable V changed"]


def test_proxies_reach_run_but_no_key_and_no_history(kitchen: Kitchen) -> None:
    """Predefined proxy arguments need no ARG, and change neither cache nor image."""
    kitchen.build("FROM base\nRUN echo $HTTP_PROXY\n", build_args={"HTTP_PROXY": "http://one"})
    assert kitchen.output() == "http://one\n"

    built = kitchen.build("FROM base\nRUN echo $HTTP_PROXY\n", build_args={"HTTP_PROXY": "http://two"})

    assert not kitchen.executed
    assert "http" not in built.config.to_bytes().decode()


def test_no_cache_runs_everything_and_nothing_old_slips_in(kitchen: Kitchen) -> None:
    """With no_cache all steps run; what follows takes the new results."""
    text = "FROM base AS a\nRUN echo > /x; stat -c %Z /x > /x\nFROM base\nCOPY --from=a /x /x\n"
    kitchen.build(text)

    built = kitchen.build(text, no_cache=True)

    assert not built.hits
    assert len(built.misses) == 2
    assert kitchen.build(text).manifest.digest == built.manifest.digest


def test_stages_that_nobody_needs_never_run(kitchen: Kitchen) -> None:
    """Only the target and what it is made from is built."""
    text = "FROM base AS unused\nRUN exit 1\nFROM base AS used\nRUN echo ok\nFROM nowhere AS last\nRUN exit 1\n"

    built = kitchen.build(text, target="used")

    assert built.misses == ("used/1",)
    assert kitchen.resolved == ["base"]


def test_a_stage_behind_cached_copies_is_not_built_again(kitchen: Kitchen) -> None:
    """When all that is taken from a stage is cached, the stage's own steps are not looked up, run or unpacked."""
    text = "FROM base AS tools\nRUN echo tool > /tool\nFROM base\nCOPY --from=tools /tool /tool\nRUN cat /tool\n"
    kitchen.build(text)

    built = kitchen.build(text.replace("RUN cat /tool", "RUN cat /tool /tool"))

    assert built.hits == ("stage-1/1",)
    assert built.misses == ("stage-1/2",)


def test_a_copy_from_a_stage_is_cached_by_what_it_takes(kitchen: Kitchen) -> None:
    """A stage that ran anew but left the same file does not run what follows the COPY."""
    text = "FROM base AS one\nRUN echo same > /x\nFROM base\nCOPY --from=one /x /x\nRUN cat /x\n"
    first = kitchen.build(text)

    second = kitchen.build(text.replace("echo same > /x", "echo other > /y; echo same > /x"))

    assert second.misses == ("one/1",)
    assert second.hits == ("stage-1/1", "stage-1/2")
    assert second.layers == first.layers


def test_stages_are_built_in_parallel(kitchen: Kitchen) -> None:
    """Two stages that need nothing of each other run at the same time: each waits for the other's mark."""
    shared = kitchen.where / "shared"
    shared.mkdir()

    def execute(step: ExecStep, output: Callable[[bytes], None]) -> int:
        if "mkdir" not in step.argv[-1]:
            step = step.replace(mounts=(StepMount(kind="bind", source=str(shared), target="/shared"),))
        return kitchen.chrooted(step, output)

    kitchen.execute = execute
    wait = "n=0; while ! test -e /shared/{1}; do sleep 0.05; n=$((n+1)); test $n -lt 1200 || exit 9; done"
    meet = "touch /shared/{0}; " + wait
    text = (
        "FROM base AS root\nRUN mkdir /shared\n"
        f"FROM root AS a\nRUN {meet.format('a', 'b')} && echo a > /a\n"
        f"FROM root AS b\nRUN {meet.format('b', 'a')} && echo b > /b\n"
        "FROM base\nCOPY --from=a /a /a\nCOPY --from=b /b /b\n"
    )

    with kitchen.tree(kitchen.build(text)) as files:
        assert (files / "a").read_text() + (files / "b").read_text() == "a\nb\n"


def test_a_failed_run_shows_its_line_its_code_and_its_last_words(kitchen: Kitchen) -> None:
    """BuildFailed names file and line, the exit code, and quotes the output; nothing is left behind."""
    with pytest.raises(BuildFailed) as caught:
        kitchen.build("FROM base\nRUN echo one; \\\n  echo two; exit 3\n")

    error = caught.value
    assert error.exit_code == 3
    assert error.output == ("one", "two")
    assert error.message.startswith(
        "Dockerfile:2: RUN failed with exit code 3\n   2 | RUN echo one; \\\n   3 |   echo two; exit 3"
    )
    assert error.kind == Kind.FAILED_PRECONDITION
    assert not kitchen.root.state.snapshots.all()
    assert not [name for _, _, names in os.walk(f"{kitchen.root.run_path}/build") for name in names]


def test_a_failure_in_one_stage_stops_the_others(kitchen: Kitchen) -> None:
    """The error that is raised is the failure itself, not the cancellation that it caused."""
    text = (
        "FROM base AS bad\nRUN exit 7\nFROM base AS slow\nRUN while true; do echo x; sleep 0.05; done\n"
        "FROM base\nCOPY --from=slow / /\nCOPY --from=bad / /\n"
    )

    with pytest.raises(BuildFailed) as caught:
        kitchen.build(text)

    assert caught.value.exit_code == 7


def test_a_face_cancels_by_raising(kitchen: Kitchen) -> None:
    """What `report` raises ends the build, and everything is cleaned up."""

    def report(event: Event) -> None:
        if event.action == "build.output":
            raise Cancelled("enough")

    request = BuildRequest(context="", dockerfile_text="FROM base\nRUN echo a; sleep 60\n")
    with pytest.raises(Cancelled, match="enough"):
        kitchen.solve(request, report=report)
    assert not kitchen.root.state.snapshots.all()


def test_scratch_is_empty_and_from_a_stage_inherits(kitchen: Kitchen) -> None:
    """FROM scratch has no layer; FROM a stage continues its files, configuration, ENV and ARG."""
    kitchen.write({"hello": "x"})
    text = (
        "FROM scratch AS a\nARG V=7\nENV E=1\nCOPY hello /dir/hello\nUSER 5\nFROM a\nENV W=$V$E\nCOPY hello /dir/two\n"
    )

    built = kitchen.build(text)

    assert built.config.env is not None
    assert built.config.env[1:] == ("E=1", "W=71")
    assert built.config.user == "5"
    assert len(built.layers) == 2
    with kitchen.tree(built) as files:
        assert sorted(path.name for path in (files / "dir").iterdir()) == ["hello", "two"]


def test_onbuild_runs_in_the_child_and_ends_there(kitchen: Kitchen) -> None:
    """Triggers of the base run first in the stage built on it, and are not inherited further."""
    kitchen.write({"f": "1"})
    kitchen.add_base("trigger", on_build=("COPY f /f", "RUN cat /f", "ENV T=1"))

    built = kitchen.build("FROM trigger\nRUN echo -$T-\n")

    assert kitchen.output() == "1-1-\n"
    assert built.config.on_build == ()


def test_onbuild_is_kept_for_children(kitchen: Kitchen) -> None:
    """ONBUILD puts the trigger into the image and runs nothing."""
    built = kitchen.build("FROM base\nONBUILD RUN exit 1\n")

    assert built.config.on_build == ("RUN exit 1",)
    assert not kitchen.executed


def test_a_run_that_changes_nothing_makes_no_layer(kitchen: Kitchen) -> None:
    """Nothing written, no layer; the history says so."""
    built = kitchen.build("FROM base\nRUN cat /etc/passwd\nWORKDIR /etc\n")

    assert len(built.layers) == 1
    assert all(entry.empty_layer for entry in built.config.history)


def test_source_date_epoch_makes_times_reproducible(kitchen: Kitchen) -> None:
    """With SOURCE_DATE_EPOCH two builds from nothing give the same bytes, and no time is later than it."""
    kitchen.write({"a": "1"})
    text = "FROM base\nCOPY a /d/a\nRUN echo x > /y\n"
    arguments = {"SOURCE_DATE_EPOCH": "1000000000"}

    first = kitchen.build(text, build_args=arguments, no_cache=True)
    second = kitchen.build(text, build_args=arguments, no_cache=True)

    assert first.manifest.digest == second.manifest.digest
    assert first.config.created == "2001-09-09T01:46:40Z"
    assert {entry.created for entry in first.config.history} == {first.config.created}
    with kitchen.tree(first) as files:
        assert (files / "y").stat().st_mtime == 1_000_000_000


def test_a_lost_blob_is_a_miss(kitchen: Kitchen) -> None:
    """The cache answers only while the layer is there; a lost one is built again."""
    built = kitchen.build("FROM base\nRUN echo x > /x\n")
    kitchen.root.content.delete(built.layers[-1].digest)

    again = kitchen.build("FROM base\nRUN echo x > /x\n")

    assert again.misses == ("stage-0/1",)
    assert kitchen.texts("build.miss") == ["its cached layer is gone"]


def test_check_sees_each_new_layer_and_can_stop_the_build(kitchen: Kitchen) -> None:
    """The Check is given every layer that a step made, and its error ends the build before the step is remembered."""
    seen: list[str] = []

    def check(layer: object, created_by: str) -> None:
        del layer
        seen.append(created_by)
        if len(seen) == 2:
            raise FailedPrecondition("a secret")

    request = BuildRequest(context="", dockerfile_text="FROM base\nRUN echo 1 > /1\nRUN echo 2 > /2\n")
    with pytest.raises(FailedPrecondition, match="a secret"):
        kitchen.solve(request, check=check)
    assert [text.split()[3] for text in seen] == ["echo", "echo"]
    assert kitchen.build("FROM base\nRUN echo 1 > /1\nRUN echo 2 > /2\n").misses == ("stage-0/2",)


def test_secrets_reach_run_and_nothing_else(kitchen: Kitchen) -> None:
    """A secret is a file (or a variable) of one RUN; no layer, history, cache or event of ours holds it."""
    text = (
        "FROM base\nRUN --mount=type=secret,id=token test -s /run/secrets/token || exit 5; ls /run/secrets\n"
        "RUN --mount=type=secret,id=token,env=TOKEN test ${#TOKEN} = 6\n"
    )

    built = kitchen.build(text, secrets={"token": b"s3cr3t"})

    with kitchen.tree(built) as files:
        assert not (files / "run/secrets").exists()
    for name in ("cache.db", "cache.db-wal", "state.db", "state.db-wal"):
        with open(f"{kitchen.root.path}/{name}", "rb") as file:
            assert b"s3cr3t" not in file.read()
    assert b"s3cr3t" not in built.config.to_bytes()


def test_a_required_secret_must_be_given(kitchen: Kitchen) -> None:
    """Without it the error names the flag to give."""
    with pytest.raises(DockerfileError, match="secret 'token' is required") as caught:
        kitchen.build("FROM base\nRUN --mount=type=secret,id=token,required true\n")

    assert "--secret id=token" in caught.value.hint


def test_mounts_leave_no_trace(kitchen: Kitchen) -> None:
    """Places made only to mount at are gone from the layer; the folder's time is as before."""
    kitchen.write({"ctx/file": "content"})
    text = (
        "FROM base\nRUN --mount=type=bind,source=ctx,target=/mnt/deep/ctx --mount=type=tmpfs,target=/fast"
        " cat /mnt/deep/ctx/file && touch /fast/x\n"
    )

    built = kitchen.build(text)

    assert kitchen.output() == "content"
    assert len(built.layers) == 1


def test_a_bound_context_hides_what_is_ignored_and_stays_untouched(kitchen: Kitchen) -> None:
    """--mount=type=bind shows the context less .dockerignore; writes with rw are thrown away."""
    kitchen.write({"a": "1", "secret.txt": "x", "d/b": "2", "d/hidden": "x", ".dockerignore": "secret.txt\nd/hidden\n"})

    kitchen.build(
        "FROM base\nRUN --mount=type=bind,target=/src,rw cd /src && find . -type f && echo changed > a && touch new\n"
    )

    assert sorted(kitchen.output().split()) == ["./.dockerignore", "./a", "./d/b"]
    assert (kitchen.context / "a").read_text() == "1"
    assert not (kitchen.context / "new").exists()


def test_bind_from_a_stage_counts_for_the_key(kitchen: Kitchen) -> None:
    """A mount from a stage is seen, and a changed stage runs the step again."""
    text = "FROM base AS one\nRUN echo 1 > /x\nFROM base\nRUN --mount=type=bind,from=one,source=/x,target=/y cat /y\n"
    kitchen.build(text)
    assert kitchen.output() == "1\n"

    kitchen.build(text.replace("echo 1", "echo 2"))

    assert kitchen.output() == "2\n"


def test_cache_mounts_last_from_build_to_build(kitchen: Kitchen) -> None:
    """A cache's content is there in the next build, and in no layer."""
    text = "FROM base\nRUN --mount=type=cache,target=/c{} touch /c/{} && ls /c\n"

    kitchen.build(text.format(",sharing=locked", "one"))
    built = kitchen.build(text.format(",sharing=locked", "two"))

    assert kitchen.output() == "one\ntwo\n"
    assert len(built.layers) == 1


def test_run_reads_here_documents(kitchen: Kitchen) -> None:
    """A lone document is the script, #! names its interpreter, others go to the shell as they are."""
    text = (
        "FROM base\nRUN <<EOF\necho first\necho $((1+1))\nEOF\n"
        "RUN <<EOF\n#!/bin/cat\nas it is\nEOF\n"
        "RUN cat <<A <<B\none\nA\ntwo\nB\n"
        'RUN ["/bin/sh", "-c", "echo exec"]\n'
    )

    kitchen.build(text)

    assert kitchen.output() == "first\n2\n#!/bin/cat\nas it is\ntwo\nexec\n"


def test_shell_and_user_apply_to_run(kitchen: Kitchen) -> None:
    """SHELL replaces /bin/sh -c, USER is who runs, WORKDIR made under USER belongs to it."""
    text = 'FROM base\nUSER 1234:77\nWORKDIR /mine\nSHELL ["/bin/sh", "-ec"]\nRUN false; echo no\n'

    with pytest.raises(BuildFailed):
        kitchen.build(text)
    with kitchen.tree(kitchen.build(text.replace("RUN false; echo no", "RUN touch f && id -u"))) as files:
        assert kitchen.output() == "1234\n"
        assert (files / "mine/f").stat().st_gid == 77
        assert (files / "mine").stat().st_uid == 1234


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("FROM base\nCOPY --from=nothere /a /b\n", "there is no image nothere"),
        ("FROM nowhere\n", "there is no image nowhere"),
    ],
)
def test_a_missing_image_is_located(kitchen: Kitchen, text: str, match: str) -> None:
    """An image that cannot be had is reported at its line, with the cause's kind."""
    with pytest.raises(Failure, match=match) as caught:
        kitchen.build(text)

    assert caught.value.kind == Kind.NOT_FOUND
    assert caught.value.file == "Dockerfile"


def test_a_stage_misspelt_in_from_is_suggested(kitchen: Kitchen) -> None:
    """COPY --from with a name near a stage's suggests that stage."""
    with pytest.raises(Failure, match="did you mean the stage builder"):
        kitchen.build("FROM base AS builder\nFROM base\nCOPY --from=biulder /a /b\n")


def test_a_missing_target_lists_the_stages(kitchen: Kitchen) -> None:
    """--target with an unknown name says which there are."""
    with pytest.raises(NotFound, match="did you mean final") as caught:
        kitchen.build("FROM base AS build\nFROM base AS final\n", target="finl")

    assert caught.value.hint == "the stages are: build, final"


def test_add_of_an_address_is_refused_clearly(kitchen: Kitchen) -> None:
    """What is understood but not supported is never ignored."""
    with pytest.raises(DockerfileUnimplemented, match=r"Dockerfile:2: ADD of an address"):
        kitchen.build("FROM base\nADD https://example.com/x /x\n")


def test_warnings_are_reported_and_can_be_errors(kitchen: Kitchen) -> None:
    """Lint findings arrive as events; `# check=error=true` makes the first one the build's error."""
    built = kitchen.build("FROM base\nCMD echo hi\n", build_args={"NOT_DECLARED": "1"})

    assert "JSONArgsRecommended" in built.warnings[0]
    assert built.warnings[1] == "the build argument NOT_DECLARED is not used: no ARG declares it"
    assert kitchen.texts("warning") == list(built.warnings)
    assert not kitchen.build("# check=skip=JSONArgsRecommended\nFROM base\nCMD echo hi\n").warnings
    with pytest.raises(DockerfileError, match="JSONArgsRecommended"):
        kitchen.build("# check=error=true\nFROM base\nCMD echo hi\n")


def test_modes_of_folders_that_copy_makes(kitchen: Kitchen) -> None:
    """Folders made on the way are 0755 and root's; --chown gives them to the owner."""
    kitchen.write({"f": "1"})

    with kitchen.tree(kitchen.build("FROM base\nCOPY f /a/b/f\nCOPY --chown=9:8 --chmod=600 f /c/d/\n")) as files:
        made = (files / "a/b").stat()
        given = (files / "c/d").stat()
        file = (files / "c/d/f").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_uid) == (0o755, 0)
    assert (stat.S_IMODE(given.st_mode), given.st_uid, given.st_gid) == (0o755, 9, 8)
    assert (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid) == (0o600, 9, 8)


def test_a_linked_copy_stands_on_its_own(kitchen: Kitchen) -> None:
    """COPY --link is cached whatever it is put upon, and what follows still depends on both."""
    kitchen.write({"f": "1"})
    text = "FROM base\nRUN echo {} > /x\nCOPY --link f /linked/f\nRUN cat /x /linked/f\n"
    kitchen.build(text.format("a"))

    built = kitchen.build(text.format("b"))

    assert built.hits == ("stage-0/2",)
    assert kitchen.output() == "b\n1"


def test_add_unpacks_into_a_layer(kitchen: Kitchen) -> None:
    """ADD of a local archive puts its files into the image."""
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as file:
        entry = tarfile.TarInfo("inner/file")
        entry.size = 2
        file.addfile(entry, io.BytesIO(b"ok"))
    kitchen.write({"x.bin": out.getvalue()})

    with kitchen.tree(kitchen.build("FROM base\nADD x.bin /opt/\n")) as files:
        assert (files / "opt/inner/file").read_text() == "ok"


def test_the_dockerfile_is_found_and_named(kitchen: Kitchen) -> None:
    """Without a name Dockerfile is taken, then Containerfile; a missing one is NotFound; errors use the short name."""

    def build(dockerfile: str = "") -> None:
        kitchen.solve(BuildRequest(context=str(kitchen.context), dockerfile=dockerfile))

    with pytest.raises(NotFound, match=r"there is no .*/Dockerfile"):
        build()
    kitchen.write({"Containerfile": "FROM base\nNOPE\n", "sub/My.Dockerfile": "FROM base\nNOPE\n"})
    with pytest.raises(DockerfileError, match=r"^Containerfile:2:"):
        build()
    with pytest.raises(DockerfileError, match=r"^sub/My.Dockerfile:2:"):
        build(str(kitchen.context / "sub/My.Dockerfile"))
    kitchen.write({"Dockerfile": b"FROM base\nRUN \xff\n"})
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        build()


def test_an_unused_base_argument_does_not_matter_but_a_changed_base_does(kitchen: Kitchen) -> None:
    """A base image with other layers runs everything again; the reason says so."""
    base = kitchen.images["base"]
    other = kitchen.build("FROM base\nRUN echo other > /other\n")
    kitchen.build("FROM base\nRUN echo x > /x\n")
    kitchen.images["base"] = base.replace(layers=other.layers, config=other.config)

    built = kitchen.build("FROM base\nRUN echo x > /x\n")

    assert built.misses == ("stage-0/1",)
    assert kitchen.texts("build.miss") == ["the base image changed"]
    with kitchen.tree(built) as files:
        assert (files / "other").exists()


def test_native_snapshots_build_the_same(kitchen: Kitchen) -> None:
    """Where no overlay can be mounted, copies give the same layers."""
    from orlop.layers import snapshots

    text = "FROM base\nCOPY f /d/f\nRUN rm /etc/group && echo x > /y\n"
    kitchen.write({"f": "1"})
    arguments = {"SOURCE_DATE_EPOCH": "1000000000"}
    first = kitchen.build(text, build_args=arguments, no_cache=True)
    kitchen.snapshotter = snapshots.choose(kitchen.root, "native")

    second = kitchen.build(text, build_args=arguments, no_cache=True)

    with kitchen.tree(first) as one, kitchen.tree(second) as two:
        for files in (one, two):
            assert (files / "y").read_text() == "x\n"
            assert not (files / "etc/group").exists()
    assert len(first.layers) == len(second.layers)


def test_base_images_are_asked_for_side_by_side_and_once(kitchen: Kitchen) -> None:
    """Two images are asked for at the same time: each answer waits for the other question. Each is asked for once."""
    import threading

    kitchen.add_base("other")
    meeting = threading.Barrier(2, timeout=60)

    def resolve(reference: Reference, platform: Platform) -> BaseImage:
        meeting.wait()
        return kitchen.resolve(reference, platform)

    request = BuildRequest(
        context="", dockerfile_text="FROM base AS a\nFROM other AS b\nFROM a\nCOPY --from=b /etc/group /g\n"
    )
    kitchen.solve(request, resolve=resolve)

    assert sorted(kitchen.resolved) == ["base", "other"]


def test_an_image_that_cannot_be_had_is_asked_for_once(kitchen: Kitchen) -> None:
    """The error of the first question is the build's error."""
    with pytest.raises(Failure, match="there is no image gone"):
        kitchen.build("FROM base AS a\nFROM gone AS b\nFROM a\nCOPY --from=b / /\n")

    assert sorted(kitchen.resolved) == ["base", "gone"]
