"""Commands: what each asks of the engine, what it prints, and how it fails."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orlop.cli import commands, suggestions
from orlop.cli.help import command_help, group_help, markdown
from orlop.cli.options import parse
from orlop.engine.requests import Build, CreateContainer, Exec, Filter, ListContainers, Login, Logs, Prune, Stdio
from orlop.errors import OrlopError

if TYPE_CHECKING:
    from commandline import Line

VISIBLE = sorted(path for path in commands.TABLE if path.split(" ", maxsplit=1)[0] not in commands.HIDDEN)


# Every command


@pytest.mark.parametrize("path", VISIBLE)
def test_every_command_explains_itself(line: Line, path: str) -> None:
    """--help shows the usage, every option and examples, and asks nothing of the engine."""
    command = commands.load(path)

    out = line.ok(*path.split(), "--help")

    assert out == command_help(path, command)
    assert out.startswith(f"Usage:  orlop {path}")
    assert all(f"--{option.long}" in out for option in command.options)
    assert "Examples:" in out
    assert not line.twin.asked


@pytest.mark.parametrize("path", VISIBLE)
def test_every_example_is_valid(path: str) -> None:
    """The examples of the help are command lines that parse, of the command that shows them."""
    for text, _ in commands.load(path).examples:
        words = shlex.split(re.sub(r"\$\(.*\)", "ID", text))
        for mark in ("<", ">", "|"):
            words = words[: words.index(mark)] if mark in words else words
        found, rest = commands.resolve(words[1:])
        command = commands.load(found)
        assert found == path
        command.check(path, parse(command.options, rest, interspersed=command.interspersed, refused=command.refused))


@pytest.mark.parametrize("path", sorted(commands.TABLE))
def test_options_of_a_command_do_not_collide(path: str) -> None:
    """No two options of a command share a name, and none that is offered is also refused."""
    command = commands.load(path)
    longs = [option.long for option in command.options]
    shorts = [option.short for option in command.options if option.short]

    assert len(longs) == len(set(longs))
    assert len(shorts) == len(set(shorts))
    assert not set(command.refused) & ({*longs} | {f"-{short}" for short in shorts})


def test_aliases_and_groups_lead_somewhere() -> None:
    """Every alias is another name of a command, and every path lies in a known group."""
    assert set(commands.ALIASES.values()) <= set(commands.TABLE)
    assert not set(commands.ALIASES) & set(commands.TABLE)
    for path in [*commands.TABLE, *commands.ALIASES]:
        assert path.rpartition(" ")[0] in {"", *commands.GROUPS}
    for group in commands.GROUPS:
        assert group_help(group).startswith(f"Usage:  orlop {group} COMMAND")


def test_the_reference_page_is_in_step() -> None:
    """docs/cli.md is what the tables say: `orlop internal reference > docs/cli.md` makes it anew."""
    page = Path(__file__).parents[2] / "docs" / "cli.md"

    assert page.read_text() == markdown()


# Which command


def test_no_command_is_help(line: Line) -> None:
    """`orlop`, `orlop --help` and `orlop GROUP` say what there is."""
    assert line.ok() == line.ok("--help") == group_help("")
    assert line.ok("volume") == line.ok("volume", "--help") == group_help("volume")
    assert line.ok("--help", "ps") == line.ok("ps", "--help")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["rnu"], "did you mean orlop run?"),
        (["volume", "sl"], "did you mean orlop volume ls?"),
        (["zzzzzz"], "see orlop --help"),
        (["registry", "user", "ad"], "did you mean orlop registry user add?"),
    ],
)
def test_unknown_commands(line: Line, words: list[str], hint: str) -> None:
    """A word that is no command is an error of code 1 that says what was probably meant."""
    done = line(*words)

    assert done.code == 1
    assert done.err == f"orlop: there is no command orlop {' '.join(words)}\n  hint: {hint}\n"


@pytest.mark.parametrize("path", sorted(suggestions.WAYS_ROUND))
def test_what_is_not_there_has_a_way_round(line: Line, path: str) -> None:
    """Docker's commands that are missing say so, with what to do instead, and are really missing."""
    assert path not in commands.TABLE
    groups: list[list[str]] = [[]] if " " in path else [[], ["container"]]
    for group in groups:
        done = line(*group, *path.split(), "some", "thing")
        assert done.code == 1
        assert f"docker's {path.rpartition(' ')[2]} is not there yet" in done.err
        assert suggestions.WAYS_ROUND[path] in done.err


@pytest.mark.parametrize("words", [["version"], ["--version"], ["-v"]])
def test_version(line: Line, words: list[str]) -> None:
    """The version, wherever it is looked for."""
    assert line.ok(*words).startswith("orlop version ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run"], 1, "orlop run needs at least 1 argument, but got 0"),
        (["exec", "web"], 1, "orlop exec needs at least 2 arguments, but got 1"),
        (["tag", "one"], 1, "orlop tag needs 2 arguments, but got 1"),
        (["port", "a", "b", "c"], 1, "orlop port needs at most 2 arguments, but got 3"),
        (["ps", "x"], 1, "orlop ps takes no arguments, but got 'x'"),
        (["ps", "--al"], 125, "unknown option --al"),
        (["run", "--memory", "12q", "x"], 125, "-m, --memory: '12q' is not a size"),
        (["--rot", "/x", "ps"], 125, "unknown option --rot"),
        (["run", "--gpus", "all", "x"], 125, "--gpus is not supported yet"),
        (["run", "-it", "x"], 1, "the input device is not a TTY"),
        (["run", "-d", "-a", "stdout", "x"], 125, "--detach and --attach contradict each other"),
        (["run", "-a", "nowhere", "x"], 125, "-a, --attach is 'nowhere'"),
        (["ps", "-f", "status"], 1, "-f, --filter is 'status'"),
        (["logs", "--tail", "few", "x"], 125, "-n, --tail is 'few'"),
        (["build", "https://example.com/x.git"], 1, "contexts from the network are not supported yet"),
    ],
)
def test_usage_errors_have_dockers_codes(line: Line, words: list[str], code: int, message: str) -> None:
    """125 for an option that cannot be, 1 for a wrong number of arguments: docker's codes, measured."""
    done = line(*words)

    assert done.code == code
    assert message in done.err
    assert "hint:" in done.err
    assert not done.out


# run, create, exec


def test_run_passes_everything_on(line: Line, tmp_path: Path) -> None:
    """Each option reaches the engine as it was written; sizes as bytes; variables resolved."""
    env = tmp_path / "env"
    env.write_text("# comment\n\nFILE=1\n  HERE\nGONE\nB=has spaces = and #\n")
    line.twin.exit_code = 7

    done = line(
        "run", "--rm", "-p", "80:80", "-v", "data:/d", "-e", "A=1", "-e", "HERE", "-e", "GONE", "--env-file", str(env),
        "-m", "200m", "--memory-swap", "-1", "--cpus", "1.5", "-l", "k=v", "--entrypoint", "", "--user", "0",
        "--health-cmd", "true", "image", "prog", "-x", "--rm",
        environ={"HERE": "yes"},
    )  # fmt: skip

    request, stdio = line.twin.asked
    assert done.code == 7
    assert isinstance(request, CreateContainer)
    assert isinstance(stdio, Stdio)
    assert (request.image, request.command) == ("image", ("prog", "-x", "--rm"))
    assert request.env == ("FILE=1", "HERE=yes", "B=has spaces = and #", "A=1", "HERE=yes")
    assert request.env_unset == ("GONE",)
    assert request.entrypoint == ()
    assert request.user == "0"
    assert request.workdir is None
    assert (request.limits.memory, request.limits.memory_swap, request.limits.nano_cpus) == (
        200 << 20,
        -1,
        1_500_000_000,
    )
    assert (request.publish, request.volumes, request.labels) == (("80:80",), ("data:/d",), ("k=v",))
    assert request.auto_remove
    assert stdio.stdin == -1
    assert done.err == "WARNING: this machine cannot limit swap\n"


def test_run_in_the_background_prints_the_id(line: Line) -> None:
    """-d: no descriptors are joined, and the id is all that is printed."""
    assert line.ok("run", "-d", "image") == "f" * 64 + "\n"
    assert line.twin.asked[1] is None


def test_attach_chooses_streams(line: Line) -> None:
    """-a names what is joined; what it leaves out goes nowhere, and stdin opens only if named."""
    line.ok("run", "-a", "stdin", "-a", "STDOUT", "image")

    request, stdio = line.twin.asked
    assert request.interactive
    assert (stdio.stdin, stdio.stdout) == (0, 1)
    assert stdio.stderr not in {1, 2}
    os.close(stdio.stderr)


def test_create_shows_where_the_image_comes_from(line: Line) -> None:
    """Progress goes to standard error, the id to standard output; -q keeps the progress to itself."""
    done = line("create", "image")
    assert (done.out, done.err) == ("f" * 64 + "\n", "Unable to find image 'image' locally\n")
    assert line("create", "-q", "image").err == ""


def test_exec_passes_everything_on(line: Line) -> None:
    """Exec joins stdin only with -i, and exits as the program did."""
    line.twin.exit_code = 3
    assert line("exec", "-i", "-e", "A", "-w", "/", "web", "sh", "-c", "x", environ={"A": "1"}).code == 3

    request, stdio = line.twin.asked
    assert isinstance(request, Exec)
    assert (request.container, request.command, request.env) == ("web", ("sh", "-c", "x"), ("A=1",))
    assert stdio.stdin == 0
    line("exec", "-d", "web", "true")
    assert line.twin.asked[-1] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("A B=1\n", ":1: 'A B' is not a name"), ("=1\n", ":1: '' is not a name"), ("A=\xff\n", "is not UTF-8")],
)
def test_bad_variable_files_are_named(line: Line, tmp_path: Path, text: str, message: str) -> None:
    """A file of variables that cannot be meant is an error with the file and the line; run fails with 125."""
    path = tmp_path / "env"
    path.write_bytes(text.encode("latin-1"))

    done = line("run", "--env-file", str(path), "image")

    assert done.code == 125
    assert str(path) in done.err
    assert message in done.err


# Errors


def test_errors_are_one_sentence_and_a_hint(line: Line) -> None:
    """What the engine raises is shown without a traceback; commands fail with 1, run with 125."""
    done = line("logs", "-f")
    assert done.code == 1
    done = line("wait", "nope")
    assert (done.code, done.err) == (1, "orlop: there is no container nope\n  hint: see `orlop ps -a`\n")


@pytest.mark.parametrize(("attribute", "code"), [(None, 125), (126, 126), (127, 127)])
def test_runs_failures_tell_apart_whose_they_are(
    line: Line, monkeypatch: pytest.MonkeyPatch, attribute: int | None, code: int
) -> None:
    """125 is orlop's failure; an error that says 126 or 127 (not executable, not found) is the program's."""
    error = OrlopError("no")
    if attribute:
        error.exit_code = attribute  # type: ignore[attr-defined]

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(line.twin.containers, "run", fail)
    monkeypatch.setattr(line.twin.containers, "exec", fail)
    assert line("run", "image").code == code
    assert line("exec", "web", "x").code == code


def test_defects_are_told_not_swallowed(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error is short, says that it is ours, and shows its traceback only with --debug or ORLOP_DEBUG."""

    def fail(*_: object) -> None:
        raise ValueError("surprise")

    monkeypatch.setattr(line.twin.containers, "list", fail)

    done = line("ps")
    assert done.code == 1
    assert "internal error: ValueError: surprise" in done.err
    assert "report" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in line("--debug", "ps").err
    assert "Traceback" in line("ps", environ={"ORLOP_DEBUG": "1"}).err
    assert line.twin.closed


def test_an_interrupt_is_130(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """^C ends a command with what a shell expects, silently."""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(line.twin.containers, "list", fail)
    done = line("ps")
    assert (done.code, done.out, done.err) == (130, "", "")


def test_operating_system_errors_name_the_file(line: Line) -> None:
    """A file that cannot be written is an error that names it, not a defect."""
    done = line("save", "-o", "/no/such/folder/x.tar", "app")

    assert done.code == 1
    assert "/no/such/folder/x.tar" in done.err
    assert "No such file or directory" in done.err
    assert "internal error" not in done.err


def test_one_failure_does_not_stop_the_rest(line: Line) -> None:
    """Of several names each is tried; the good ones are printed, the code is 1."""
    done = line("stop", "-t", "3", "nope", "web", "stuck")

    assert done.code == 1
    assert done.out == "web\n"
    assert "no container nope" in done.err
    assert "stuck does not stop\n  hint: wait for the disk" in done.err
    assert line.twin.asked == [("stop", "web", 3)]
    assert line.ok("stop", "web") == "web\n"
    assert line.twin.asked[-1] == ("stop", "web", None)


# Other commands


def test_filters_and_lists(line: Line) -> None:
    """--filter becomes pairs; -l and -n choose the last ones; a template with .Size asks for sizes."""
    line.ok("ps", "-a", "-f", "status=exited", "--filter", "label!=a=b")
    filters = (Filter(key="status", value="exited"), Filter(key="label!", value="a=b"))
    assert line.twin.asked[-1] == ListContainers(all=True, filters=filters)
    line.ok("ps", "-l", "--format", "{{.Size}}")
    assert (line.twin.asked[-1].last, line.twin.asked[-1].size) == (1, True)


def test_logs_go_to_their_streams(line: Line) -> None:
    """What was written to standard error goes there again; bytes are not touched; -t shows the time."""
    line.ok("logs", "--tail", "5", "--since", "10m", "-f", "web")
    assert line.twin.asked[-1] == Logs(container="web", follow=True, tail=5, since="10m")
    done = line("logs", "-t", "web")
    assert done.out.startswith("2026-01-31T12:00:00.5Z out ")
    assert done.err == "2026-01-31T12:00:01Z err\n"


def test_inspect(line: Line) -> None:
    """A JSON array, or a template for each; what is missing is told, and what is there is shown."""
    found = json.loads(line.ok("inspect", "web"))
    assert found[0]["State"]["Status"] == "running"
    assert (
        line.ok("inspect", "-f", "{{.State.Status}} {{.Config.Env}} {{.HostConfig.CapAdd}}", "web")
        == "running [A=1 B=2] []\n"
    )
    assert line.ok("container", "inspect", "-f", "{{json .Config.Labels}}", "web") == '{"app":"web","team":"deck"}\n'
    assert line.twin.asked[-1] == ("inspect", "web", "container")
    done = line("inspect", "nope", "web")
    assert done.code == 1
    assert len(json.loads(done.out)) == 1
    assert "there is no container nope" in done.err
    assert json.loads(line("inspect", "nope").out) == []


def test_rmi(line: Line) -> None:
    """What was untagged and deleted, in docker's words; a failure does not stop the rest."""
    done = line("rmi", "app:1", "gone")

    assert done.out == f"Untagged: app:1\nDeleted: sha256:{'ab' * 32}\n"
    assert (done.code, done.err) == (1, "orlop: there is no image gone\n")


def test_pull_in_plain_lines(line: Line) -> None:
    """Without a terminal a pull prints docker's lines once each; -q only the name."""
    assert line.ok("pull", "busybox") == (
        "latest: Pulling from busybox\n"
        "121212121212: Pulling fs layer\n"
        "121212121212: Download complete\n"
        "121212121212: Pull complete\n"
        "343434343434: Already exists\n"
        f"Digest: sha256:{'cd' * 32}\n"
        "docker.io/library/busybox:latest\n"
    )
    assert line.ok("pull", "-q", "busybox") == "docker.io/library/busybox:latest\n"


def test_build(line: Line, tmp_path: Path) -> None:
    """BuildKit's plain lines on standard error; arguments from here; the id to a file."""
    done = line(
        "build", "-t", "app:1", "--build-arg", "A=1", "--build-arg", "HERE", "--build-arg", "GONE", "--secret", "id=token",
        "--iidfile", str(tmp_path / "id"), ".",
        environ={"HERE": "x"},
    )  # fmt: skip

    assert done.code == 0
    assert done.out == ""
    lines = done.err.splitlines()
    assert lines[:3] == ["#1 [stage-0 1/2] WORKDIR /app", "#1 CACHED", "#2 [stage-0 2/2] RUN make"]
    assert [text.split(" ", 2)[0::2] for text in lines[3:5]] == [["#2", "one"], ["#2", "two"]]
    assert lines[5].startswith("#2 DONE ")
    request = line.twin.asked[-1]
    assert isinstance(request, Build)
    assert request.build_args == (("A", "1"), ("HERE", "x"), ("GONE", None))
    assert request.secrets == ("id=token,src=token",)
    assert (tmp_path / "id").read_text() == "sha256:" + "ab" * 32
    quiet = line("build", "-q", ".")
    assert (quiet.out, quiet.err) == ("sha256:" + "ab" * 32 + "\n", "")


def test_build_reads_a_dockerfile_from_standard_input(line: Line) -> None:
    """`build -` has no context, `build -f - DIR` has one; what is not a Dockerfile is refused."""
    line.ok("build", "-", stdin=b"FROM scratch\n")
    assert (line.twin.asked[-1].context, line.twin.asked[-1].dockerfile_text) == ("", "FROM scratch\n")
    line.ok("build", "-f", "-", ".", stdin=b"FROM scratch\n")
    assert (line.twin.asked[-1].context, line.twin.asked[-1].dockerfile) == (".", "-")
    assert "is not a Dockerfile" in line("build", "-", stdin=b"tar\0").err


def test_save_leaves_no_half_archive(line: Line, tmp_path: Path) -> None:
    """An archive is named when it is whole; a failure leaves what was there before."""
    path = tmp_path / "x.tar"
    line.ok("save", "-o", str(path), "app")
    assert path.read_bytes() == b"archive"
    path.write_bytes(b"before")
    assert line("save", "-o", str(path), "app", "broken").code == 1
    assert [one.name for one in tmp_path.iterdir()] == ["x.tar"]
    assert path.read_bytes() == b"before"
    assert line.ok("save", "app") == "archive"


@pytest.mark.parametrize(("answer", "pruned"), [(b"y\n", True), (b"Yes\n", True), (b"n\n", False), (b"", False)])
def test_prune_asks_first(line: Line, answer: bytes, pruned: bool) -> None:
    """Only a yes is a yes; -f does not ask."""
    out = line.ok("container", "prune", stdin=answer)

    assert out.startswith(
        "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] "
    )
    assert (line.twin.asked != []) is pruned
    assert ("Total reclaimed space: 1.2kB" in out) is pruned


def test_system_prune_tells_what_went(line: Line) -> None:
    """Docker's report: what was deleted by kind, and what came free."""
    assert line.ok("system", "prune", "-a", "-f", "--volumes", "--filter", "until=24h") == (
        f"Deleted Containers:\n{'f' * 64}\n\nDeleted Images:\nuntagged: app:1\ndeleted: sha256:{'ab' * 32}\n\n"
        "Total reclaimed space: 1.2GB\n"
    )
    assert line.twin.asked == [Prune(all=True, volumes=True, filters=(Filter(key="until", value="24h"),))]


def test_login_keeps_the_password_off_the_command_line(line: Line) -> None:
    """--password-stdin loses only the line's end; --password is warned of."""
    assert (
        line.ok("login", "-u", "sailor", "--password-stdin", "localhost:5000", stdin=b" secret \n")
        == "Login Succeeded\n"
    )
    assert line.twin.asked == [Login(registry="localhost:5000", username="sailor", password=" secret ")]
    done = line("login", "-u", "sailor", "-p", "x")
    assert done.code == 0
    assert "insecure" in done.err
    assert "--password-stdin" in line("login", "-u", "sailor").err
    assert line("login").code == 1


def test_doctor(line: Line) -> None:
    """0 while containers can run, 1 if they cannot; remedies are gathered at the end; --json is for programs."""
    from orlop.engine.requests import Finding

    assert line("doctor").code == 0
    line.twin.findings = [Finding(subject="cgroups", state="fail", detail="none", remedy="mount them")]
    done = line("doctor")
    assert done.code == 1
    assert "[fail] cgroups   none" in done.out
    assert "What to do:\n  - cgroups: mount them\n" in done.out
    assert json.loads(line("doctor", "--json").out)[1]["remedy"] == "mount them"


def test_events(line: Line) -> None:
    """A line an event, or its JSON; filters of different keys must all hold."""
    out = line.ok("events", "--since", "10m", "--filter", "type=container")
    assert out.endswith(" container start abc (name=web)\n")
    assert out.count("\n") == 1
    assert json.loads(line.ok("events", "--filter", "image=web", "--format", "json"))["Action"] == "pull"
    assert line.ok("events", "-f", "type=container", "-f", "event=stop") == ""
    assert "know no filter 'x'" in line("events", "-f", "x=1").err
    shown = "{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}} {{.Time}} {{.TimeNano}}{{.From}}"
    assert line.ok("events", "-f", "type=image", "--format", shown) == "image pull abc web 0 1000000001\n"


def test_what_is_forced_away_may_be_gone_already(line: Line) -> None:
    """`rm -f` and `rmi -f` of what is not there say so and succeed, so that scripts can clean up; without -f they fail."""
    for command, name in (("rm", "nobody"), ("rmi", "gone")):
        assert line(command, name).code == 1
        forced = line(command, "-f", name)
        assert forced.code == 0
        assert forced.out == ""
        assert name in forced.err


def test_info_and_version_templates(line: Line) -> None:
    """Facts by name for people, by template for programs."""
    assert "Mem Total: 1GiB" in line.ok("info")
    assert line.ok("info", "-f", "{{.NCPU}} {{.Rootless}}") == "2 false\n"
    assert line.ok("version", "-f", "{{.Client.Version}}") == line.ok("version", "--format", "{{.Version}}")


def test_global_options_reach_the_engine(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """--root and --run-root beat the environment; --namespace is a world of names of its own."""
    from enginetwin import Twin

    from orlop.cli.program import run

    seen: list[object] = []
    monkeypatch.setattr("sys.stdin", None)

    def make(settings: object) -> Twin:
        seen.append(settings)
        return Twin()

    environ = {"ORLOP_ROOT": "/env", "ORLOP_RUN_ROOT": "/envrun"}
    assert run(["--root", "/a", "--namespace", "k8s", "ps"], environ, engine=make) == 0  # type: ignore[arg-type]  # the twin has the engine's shape, not its type
    capfd.readouterr()
    settings = seen[0]
    assert (settings.root, settings.run_root, settings.namespace) == ("/a", "/envrun", "k8s")  # type: ignore[attr-defined]  # same


def test_users_of_a_registry_are_removed(line: Line, tmp_path: Path) -> None:
    """`registry user rm` takes users out of the file; one that is not there is told, and the others go."""
    users = tmp_path / "users"
    users.write_text("a:$2y$05$" + "a" * 53 + "\nb:$2y$05$" + "b" * 53 + "\n")
    done = line("registry", "user", "rm", "--htpasswd", str(users), "a", "c")
    assert (done.code, done.out) == (1, "a\n")
    assert "has no user 'c'" in done.err
    assert users.read_text().startswith("b:")
    assert "which password file?" in line("registry", "user", "rm", "b").err
