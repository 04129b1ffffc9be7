"""What `--help` shows, and the reference page docs/cli.md: both are made from the commands' tables."""

from __future__ import annotations

import textwrap

from orlop.cli import commands
from orlop.cli.command import Command
from orlop.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.cli.options import Given
    from orlop.cli.session import Session

_WIDTH = 100  # columns of a help text: it is also read in pipes and pages, so the terminal's width is no measure
_INTRODUCTION = """Made from the command tables by `orlop internal reference`; a test keeps this page in step.
The words, options and output are docker's wherever docker has the same thing."""
_METAVARS = {"list": "LIST", "int": "N", "size": "BYTES", "cpus": "CPUS", "text": "TEXT"}


def version_line() -> str:
    """`orlop --version`."""
    from orlop import __version__

    return f"orlop version {__version__}"


def aliases_of(path: str) -> list[str]:
    """Every spelling of a command, its own first."""
    return [path, *(alias for alias, target in commands.ALIASES.items() if target == path)]


def command_help(path: str, command: Command) -> str:
    """The whole help of one command."""
    parts = [f"Usage:  {usage_line(path, command)}", _filled(commands.TABLE[path][1])]
    if command.about:
        parts.append(_filled(command.about))
    spellings = aliases_of(path)
    if len(spellings) > 1:
        parts.append("Aliases:\n  " + ", ".join(f"orlop {one}" for one in spellings))
    if command.options:
        parts.append("Options:\n" + "\n".join(_option_rows(command.options)))
    if command.examples:
        shown = [f"  {line}\n      {what}" for line, what in command.examples]
        parts.append("Examples:\n" + "\n".join(shown))
    return "\n\n".join(parts) + "\n"


def usage_line(path: str, command: Command) -> str:
    """`orlop run [OPTIONS] IMAGE [COMMAND] [ARG...]`."""
    return " ".join(filter(None, (f"orlop {path}", "[OPTIONS]" if command.options else "", command.usage)))


def group_help(group: str) -> str:
    """The commands of a group; of orlop itself for ""."""
    from orlop.cli.program import GLOBAL_OPTIONS

    prefix = f"{group} " if group else ""
    spelled = {**commands.TABLE, **{alias: commands.TABLE[path] for alias, path in commands.ALIASES.items()}}
    entries = {
        path.removeprefix(prefix): help_line
        for path, (_, help_line) in spelled.items()
        if path.startswith(prefix) and " " not in path.removeprefix(prefix)
    }
    groups = {
        path.removeprefix(prefix): help_line
        for path, help_line in commands.GROUPS.items()
        if path.startswith(prefix) and path not in commands.HIDDEN and " " not in path.removeprefix(prefix)
    }
    parts = [f"Usage:  orlop {prefix}{'COMMAND' if group else '[OPTIONS] COMMAND'}"]
    parts.append(commands.GROUPS[group] if group else "The whole container toolchain in one program, without a daemon.")
    if groups:
        parts.append("Management commands:\n" + "\n".join(_rows(groups.items())))
    if group:
        seen: dict[str, str] = {}
        for name, text in sorted(entries.items()):
            if text not in seen.values():  # one line for list, ls and ps
                seen[name] = text
        entries = seen
    parts.append("Commands:\n" + "\n".join(_rows(entries.items())))
    if not group:
        parts.append("Global options:\n" + "\n".join(_option_rows(GLOBAL_OPTIONS)))
    parts.append(f"Run 'orlop {prefix}COMMAND --help' for more about a command.")
    return "\n\n".join(parts) + "\n"


def _rows(entries: Iterable[tuple[str, str]]) -> Iterable[str]:
    rows = list(entries)
    width = max(len(name) for name, _ in rows) + 2
    return (f"  {name:{width}}{text}" for name, text in rows)


def _option_rows(options: Sequence[Option]) -> Iterable[str]:
    named = [(option_name(option), _described(option)) for option in sorted(options, key=lambda one: one.long)]
    width = max(len(name) for name, _ in named) + 3
    for name, text in named:
        lines = textwrap.wrap(text, _WIDTH - width - 2) or [""]
        yield f"  {name:{width}}{lines[0]}"
        for line in lines[1:]:
            yield " " * (width + 2) + line


def option_name(option: Option) -> str:
    """`-m, --memory BYTES`, aligned for a column."""
    short = f"-{option.short}, " if option.short else "    "
    metavar = option.metavar or _METAVARS.get(option.kind, "")
    return f"{short}--{option.long} {metavar}".rstrip()


def _described(option: Option) -> str:
    text = option.help
    if option.choices:
        text += f" ({', '.join(option.choices)})"
    if option.default not in (False, "", (), 0, None):
        shown = "true" if option.default is True else option.default
        text += f" (default {shown})"
    return text


def _filled(text: str) -> str:
    return "\n".join(textwrap.fill(part, _WIDTH) for part in text.split("\n"))


def markdown() -> str:
    """The reference page: every command with its usage, options and examples."""
    from orlop.cli.program import GLOBAL_OPTIONS

    parts = [
        "# The commands",
        _INTRODUCTION,
        _exit_codes(),
        f"## Global options\n\nThey come before the command: `orlop --root /srv/orlop ps`.\n\n{_md(GLOBAL_OPTIONS)}",
    ]
    for path in sorted(commands.TABLE):
        if path.split(" ", 1)[0] in commands.HIDDEN:
            continue
        command = commands.load(path)
        section = [f"## orlop {path}", commands.TABLE[path][1] + ".", f"```\n{usage_line(path, command)}\n```"]
        if command.about:
            section.append(command.about)
        spellings = aliases_of(path)[1:]
        if spellings:
            section.append("Also: " + ", ".join(f"`orlop {one}`" for one in spellings) + ".")
        if command.options:
            section.append(_md(command.options))
        if command.examples:
            section.append("\n".join(f"- `{line}`: {what}" for line, what in command.examples))
        parts.append("\n\n".join(section))
    return "\n\n".join(parts) + "\n"


def _exit_codes() -> str:
    rows = (
        ("0", "done"),
        ("1", "the command failed, or has the wrong number of arguments"),
        ("125", "`run`, `create` and `exec`: orlop itself failed; every command: an option that cannot be"),
        ("126", "`run` and `exec`: the program is there and cannot be executed"),
        ("127", "`run` and `exec`: there is no such program"),
        ("130", "interrupted with ^C"),
        ("141", "nobody reads the output any more"),
        ("other", "`run`, `exec`, `start -a`, `attach`: the program's own exit code; 128 + n if signal n ended it"),
    )
    return "## Exit codes\n\n| code | meaning |\n|---|---|\n" + "\n".join(f"| {a} | {b} |" for a, b in rows)


def _md(options: Sequence[Option]) -> str:
    lines = ["| option | meaning |", "|---|---|"]
    for option in sorted(options, key=lambda one: one.long):
        text = _described(option).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{option_name(option).strip()}` | {text} |".replace("``", "`"))
    return "\n".join(lines)


def _reference(session: Session, given: Given) -> int:  # noqa: ARG001  # the shape of every command
    print(markdown(), end="")
    return 0


REFERENCE = Command(run=_reference)
