"""`version`, `info`, `doctor` and `events`."""

from __future__ import annotations

from orlop.cli import units
from orlop.cli.command import Command
from orlop.cli.options import Option
from orlop.cli.session import display
from orlop.cli.tables import aligned, unescaped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from orlop.cli.options import Given
    from orlop.cli.session import Session
    from orlop.engine.requests import Finding

_ONE = Option("format", "f", "text", "FORMAT", "'json', or a Go template")


def _print_one(value: Mapping[str, Any], template: str) -> None:
    """One object as JSON or through a template."""
    if template == "json":
        from orlop.oci import jsontext

        display(jsontext.dumps(value).decode() + "\n")
        return
    from orlop.cli.golang import typed
    from orlop.cli.templates import Template

    display(Template(unescaped(template)).execute(typed(dict(value))) + "\n", template)


def _version(session: Session, given: Given) -> int:  # noqa: ARG001  # the shape of every command
    import os
    import platform

    from orlop import __version__
    from orlop.cli.help import version_line

    machine = os.uname()
    values = {
        "Version": __version__,
        "Python": platform.python_version(),
        "Os": "linux",
        "Arch": machine.machine,
        "KernelVersion": machine.release,
    }
    if given.text("format"):
        # docker's templates ask for .Client and .Server: with no daemon both are this program
        _print_one(values | {"Client": values, "Server": values}, given.text("format"))
        return 0
    print(version_line())
    for name, value in list(values.items())[1:]:
        print(f" {name + ':':16}{value}")
    return 0


def _info(session: Session, given: Given) -> int:
    found = session.engine.system.info()
    if given.text("format"):
        _print_one(found, given.text("format"))
        return 0
    for name, value in found.items():
        shown = units.human_memory(value) if name == "MemTotal" else value
        if isinstance(value, list | dict):
            shown = ", ".join(value.values() if isinstance(value, dict) else value)
        print(f"{_words(name)}: {str(shown).lower() if isinstance(shown, bool) else shown}")
    return 0


def _words(name: str) -> str:
    """A field's name, "ContainersRunning", as a person reads it: "Containers Running"; "NCPU" stays."""
    found = name[0]
    for before, mark, after in zip(name, name[1:], name[2:] + "A", strict=False):
        word = mark.isupper() and (before.islower() or after.islower())
        found += f" {mark}" if word else mark
    return found


def _doctor(session: Session, given: Given) -> int:
    findings = session.engine.system.doctor()
    if given.flag("json"):
        from orlop.oci import jsontext

        rows = [{field: getattr(one, field) for field in one._fields} for one in findings]
        print(jsontext.pretty(rows))
    else:
        print(doctors_report(findings), end="")
    return 1 if any(one.state == "fail" for one in findings) else 0


def doctors_report(findings: list[Finding]) -> str:
    """The findings for a person: what each is, then what to do about those that are not well."""
    out = aligned([(f"[{one.state:4}] {one.subject}", one.detail) for one in findings])
    remedies = [f"{one.subject}: {one.remedy}" for one in findings if one.remedy and one.state != "ok"]
    if remedies:
        out += "\nWhat to do:\n" + "".join(f"  - {remedy}\n" for remedy in remedies)
    return out


def _events(session: Session, given: Given) -> int:
    from orlop.cli.events import fields, line
    from orlop.cli.listoptions import filters

    template = given.text("format")
    wanted = filters(given.list("filter"))
    for event in session.engine.system.events(given.text("since"), given.text("until"), filters=wanted):
        if template:
            _print_one(event if template == "json" else fields(event), template)
        else:
            display(line(event) + "\n")
        # whoever reads wants to know now
        print(end="", flush=True)
    return 0


VERSION = Command(
    run=_version,
    options=(_ONE,),
    examples=(("orlop version -f '{{.Version}}'", "only the number"),),
)

INFO = Command(
    run=_info,
    options=(_ONE,),
    examples=(("orlop info -f '{{.Driver}}'", "how layers are put together on this machine"),),
)

DOCTOR = Command(
    run=_doctor,
    options=(Option("json", "", "flag", "", "Print the findings as JSON"),),
    about="Looks, and changes nothing. The exit code is 1 if something is missing without which containers cannot run.",
    examples=(("orlop doctor", "what works here, and how to mend what does not"),),
)

EVENTS = Command(
    run=_events,
    options=(
        Option(
            "filter", "f", "list", "KEY=VALUE", "Only what fits: type, event, container, image, volume, network, label"
        ),
        Option("format", "", "text", "FORMAT", "'json', or a Go template for each event"),
        Option("since", "", "text", "TIME", "Begin with what happened then: 2026-01-31T12:00:00Z, or 10m"),
        Option("until", "", "text", "TIME", "End then"),
    ),
    examples=(
        ("orlop events --since 10m --filter type=container", "the last ten minutes, and what comes, until ^C"),
        ("orlop events --format json", "for programs: an object a line"),
    ),
)
