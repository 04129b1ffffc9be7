"""`build`."""

from __future__ import annotations

import os
import sys

from orlop.cli.command import Command
from orlop.cli.options import Option, UsageError
from orlop.engine.requests import Build
from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.cli.options import Given
    from orlop.cli.session import Session

_DOCKERFILE_LIMIT = 4 << 20  # bytes


def request(given: Given, environ: Mapping[str, str]) -> Build:
    """What the command line asks for. Standard input is read if it is the Dockerfile."""
    context, dockerfile = given.arguments[0], given.text("file")
    if "://" in context or context.startswith("git@"):
        raise UsageError(
            f"{context} is not a folder: contexts from the network are not supported yet",
            hint="clone or download it first, and build that folder",
            exit_code=1,
        )
    text: str | None = None
    if context == "-":
        if dockerfile not in {"", "-"}:
            raise UsageError("a Dockerfile on standard input has no context for -f", hint="use `-f - FOLDER`")
        context, dockerfile, text = "", "-", _dockerfile_from_stdin()
    elif dockerfile == "-":
        text = _dockerfile_from_stdin()
    return Build(
        context=context,
        dockerfile=dockerfile,
        dockerfile_text=text,
        tags=given.list("tag"),
        build_args=tuple(_argument(entry, environ) for entry in given.list("build-arg")),
        labels=given.list("label"),
        target=given.text("target"),
        platform=given.text("platform"),
        no_cache=given.flag("no-cache"),
        pull=given.flag("pull"),
        network=given.text("network"),
        secrets=tuple(_secret(entry) for entry in given.list("secret")),
        add_hosts=given.list("add-host"),
        memory=given.number("memory"),
        allow=given.list("allow"),
    )


def _argument(entry: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """`NAME=VALUE`, or `NAME` with the value that it has here (None: it has none)."""
    name, equals, value = entry.partition("=")
    if not name:
        raise UsageError(f"--build-arg is {entry!r}", hint="write --build-arg NAME=VALUE")
    return name, value if equals else environ.get(name)


def _secret(entry: str) -> str:
    """Docker's short form `id=NAME` means the file NAME; everything else is the engine's to read."""
    fields = dict(part.partition("=")[::2] for part in entry.split(","))
    return f"{entry},src={fields['id']}" if set(fields) == {"id"} else entry


def _dockerfile_from_stdin() -> str:
    if sys.stdin.isatty():
        raise UsageError("the Dockerfile is to come from standard input, which is a terminal", exit_code=1)
    data = sys.stdin.buffer.read(_DOCKERFILE_LIMIT + 1)
    if len(data) > _DOCKERFILE_LIMIT or b"\0" in data:
        raise InvalidArgument(
            "what came from standard input is not a Dockerfile",
            hint="a context as a tar archive is not supported yet: unpack it, and build that folder",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the Dockerfile from standard input is not UTF-8 (byte {error.start})") from error


def _build(session: Session, given: Given) -> int:
    wanted = request(given, session.environ)
    mode = given.text("progress") or session.environ.get("BUILDKIT_PROGRESS", "") or "auto"
    quiet = given.flag("quiet") or mode == "quiet"
    with session.reporting(quiet=quiet, mode=mode) as report:
        built = session.engine.builds.build(wanted, report)
    path = given.text("iidfile")
    if path:
        with open(path, "w", encoding="ascii") as file:
            file.write(built.id)
    if quiet:
        print(built.id)
        return 0
    names = [f"naming to {tag}" for tag in built.tags]
    os.write(2, "".join(f"{line}\n" for line in (f"image {built.id}", *names)).encode())
    return 0


BUILD = Command(
    run=_build,
    usage="PATH | -",
    options=(
        Option("add-host", "", "list", "HOST:IP", "Add a line to /etc/hosts of the RUN steps"),
        Option(
            "allow", "", "list", "ENTITLEMENT", "Let the Dockerfile have it: network.host, the host's network in RUN"
        ),
        Option("build-arg", "", "list", "NAME[=VALUE]", "Set an ARG; without a value: as the variable is here"),
        Option(
            "file",
            "f",
            "text",
            "FILE",
            "The Dockerfile (default PATH/Dockerfile); - is standard input",
            complete="file",
        ),
        Option("iidfile", "", "text", "FILE", "Write the image's id to a file", complete="file"),
        Option("label", "", "list", "KEY=VALUE", "Set metadata on the image"),
        Option("memory", "m", "size", "BYTES", "Memory limit of the RUN steps"),
        Option("network", "", "text", "MODE", "Network of the RUN steps: default, none or host"),
        Option("no-cache", "", "flag", "", "Run every step, whatever the cache has"),
        Option("platform", "", "text", "OS/ARCH[/VARIANT]", "Platform of the image"),
        Option("progress", "", "text", "HOW", "How to show progress", choices=("auto", "plain", "tty", "quiet")),
        Option("pull", "", "flag", "", "Always look for newer base images"),
        Option("quiet", "q", "flag", "", "Print only the image's id"),
        Option("secret", "", "list", "id=NAME[,src=FILE]", "A secret for RUN --mount=type=secret"),
        Option("tag", "t", "list", "NAME[:TAG]", "Name of the image"),
        Option("target", "", "text", "STAGE", "The stage to build", default=""),
    ),
    least=1,
    most=1,
    refused=(
        "annotation",
        "attest",
        "build-context",
        "cache-from",
        "cache-to",
        "cgroup-parent",
        "compress",
        "cpu-period",
        "cpu-quota",
        "cpu-shares",
        "-c",
        "cpuset-cpus",
        "cpuset-mems",
        "disable-content-trust",
        "force-rm",
        "isolation",
        "load",
        "memory-swap",
        "no-cache-filter",
        "output",
        "-o",
        "provenance",
        "push",
        "rm",
        "sbom",
        "security-opt",
        "shm-size",
        "squash",
        "ssh",
        "ulimit",
    ),
    complete=("dir",),
    examples=(
        ("orlop build -t app .", "the Dockerfile of this folder"),
        ("orlop build -f deploy/Dockerfile --target test --build-arg VERSION=1.2 .", "one stage of another file"),
        ("orlop build --secret id=token,src=token.txt -t app .", "a secret that never enters the image"),
        ("orlop build -t tiny - < Dockerfile", "without a context"),
    ),
)
