"""`save`, `load` and `image from-host`: images as files, and out of this machine."""

from __future__ import annotations

import os
import sys

from orlop.cli import units
from orlop.cli.command import Command
from orlop.cli.options import Option, UsageError
from orlop.engine.requests import FromHost, Load, Save
from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.options import Given
    from orlop.cli.session import Session


def _save(session: Session, given: Given) -> int:
    wanted = Save(images=tuple(given.arguments), format=given.text("format"))
    path = given.text("output")
    if path:
        _save_to(session, wanted, path)
        return 0
    if sys.stdout.isatty():
        raise UsageError("refusing to write an archive to a terminal", hint="use --output FILE, or a pipe", exit_code=1)
    session.engine.images.save(wanted, sys.stdout.buffer.write)
    return 0


def _save_to(session: Session, wanted: Save, path: str) -> None:
    """Write beside, then rename: a file that is there is whole. What is no regular file is written in place."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as out:
            session.engine.images.save(wanted, out.write)
        return
    beside = f"{path}.{os.getpid()}.part"
    try:
        out = open(beside, "xb")  # noqa: SIM115  # closed below; only opening is translated
    except OSError as error:
        raise InvalidArgument(f"cannot write {path}: {error.strerror}", hint="does its folder exist?") from error
    try:
        with out:
            session.engine.images.save(wanted, out.write)
        os.rename(beside, path)
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise


def _load(session: Session, given: Given) -> int:
    wanted = Load(platform=given.text("platform"))
    path = given.text("input")
    if not path and sys.stdin.isatty():
        raise UsageError("load reads an archive, not a terminal", hint="use --input FILE, or a pipe", exit_code=1)
    try:
        stream = open(path or 0, "rb", closefd=bool(path))  # noqa: SIM115  # closed below; only opening is translated
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    with stream, session.reporting(quiet=given.flag("quiet"), stream=1) as report:
        names = session.engine.images.load(wanted, stream, report)
    for name in names:
        print(f"Loaded image ID: {name}" if name.startswith("sha256:") else f"Loaded image: {name}")
    return 0


def _from_host(session: Session, given: Given) -> int:
    name, *programs = given.arguments
    wanted = FromHost(
        name=name,
        programs=tuple(programs),
        includes=given.list("include"),
        nss=given.flag("nss"),
        certificates=given.flag("certificates"),
        entrypoint=given.list("entrypoint"),
        command=given.list("cmd"),
        env=given.list("env"),
    )
    with session.reporting(quiet=given.flag("quiet")) as report:
        made = session.engine.images.from_host(wanted, report)
    if given.flag("quiet"):
        print(made.id)
    else:
        print(f"{name}: {units.human_size(made.size, 3)}, {made.id}")
    return 0


SAVE = Command(
    run=_save,
    usage="IMAGE [IMAGE...]",
    options=(
        Option(
            "format",
            "",
            "text",
            "FORMAT",
            "Layout of the archive",
            default="docker-archive",
            choices=("docker-archive", "oci-archive"),
        ),
        Option("output", "o", "text", "FILE", "Write to a file instead of standard output", complete="file"),
    ),
    least=1,
    most=None,
    refused=("platform",),
    complete=("image",),
    examples=(
        ("orlop save -o app.tar app:1.2", "an image as a file, to carry"),
        ("orlop save app | ssh node orlop load", "to another machine without a registry"),
    ),
)

LOAD = Command(
    run=_load,
    options=(
        Option("input", "i", "text", "FILE", "Read from a file instead of standard input", complete="file"),
        Option("platform", "", "text", "OS/ARCH[/VARIANT]", "Platform to take from an archive of several"),
        Option("quiet", "q", "flag", "", "Print only what was loaded"),
    ),
    examples=(("orlop load -i app.tar", "docker's and OCI archives, plain or compressed"),),
)

FROM_HOST = Command(
    run=_from_host,
    usage="NAME PROGRAM [PROGRAM...]",
    options=(
        Option("certificates", "", "flag", "", "Include the certificates that this machine trusts"),
        Option("cmd", "", "list", "WORD", "A word of the image's CMD (repeat it)"),
        Option("entrypoint", "", "list", "WORD", "A word of the image's ENTRYPOINT (repeat it)"),
        Option("env", "e", "list", "NAME=VALUE", "Set a variable in the image"),
        Option("include", "", "list", "DIR[:DEST]", "Include a folder", complete="dir"),
        Option("nss", "", "flag", "", "Include what name look-ups need"),
        Option("quiet", "q", "flag", "", "Print only the image's id"),
    ),
    least=2,
    most=None,
    complete=("", "file"),
    about="Packs programs of this machine, with the libraries they need, into an image: a base without a registry.",
    examples=(
        ("orlop image from-host tools bash ls cat", "an image of three programs"),
        ("orlop image from-host py python3 --include /usr/lib/python3.11 --entrypoint python3", "with a folder"),
    ),
)
