"""Environment variables and labels from options and files, in docker's rules.

A file has one NAME=VALUE a line; lines that begin with # and empty ones are skipped; blanks before the name are dropped
and everything after the = is the value, as it stands. A bare NAME takes the value of this process' environment, and is
left out where there is none.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LIMIT = 1 << 20  # bytes of a file: more than a program's environment may have


def from_files_and_options(
    files: Iterable[str], options: Iterable[str], environ: Mapping[str, str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """("NAME=VALUE", ...) of files first and options last, and the names that are to be unset.

    With `environ` bare names are looked up in it: one given as an option that is not set there is unset in the
    container too, as docker does. Without (labels) a bare name stays as it is.
    """
    found: list[str] = []
    unset: list[str] = []
    for path in files:
        for entry in read_file(path):
            found += _resolved(entry, environ)
    for entry in options:
        resolved = _resolved(entry, environ)
        if not resolved:
            unset.append(entry)
        found += resolved
    return tuple(found), tuple(unset)


def _resolved(entry: str, environ: Mapping[str, str] | None) -> list[str]:
    if environ is None or "=" in entry:
        return [entry]
    return [f"{entry}={environ[entry]}"] if entry in environ else []


def read_file(path: str) -> list[str]:
    """The entries of an --env-file or --label-file."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _LIMIT:
        raise InvalidArgument(f"{path} is larger than {_LIMIT} bytes, too large for a file of variables")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8 (byte {error.start})") from error
    return [entry for number, line in enumerate(text.split("\n"), 1) if (entry := _entry(line, f"{path}:{number}"))]


def _entry(line: str, where: str) -> str:
    line = line.removesuffix("\r").lstrip()
    if not line or line.startswith("#"):
        return ""
    name = line.partition("=")[0]
    if not name or any(mark.isspace() for mark in name):
        raise InvalidArgument(f"{where}: {name!r} is not a name", hint="write NAME=VALUE, without blanks in NAME")
    return line
