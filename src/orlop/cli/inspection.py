"""`inspect`, for anything and for each kind of thing."""

from __future__ import annotations

from orlop.cli.command import Command
from orlop.cli.options import Option
from orlop.cli.session import display, tell
from orlop.errors import OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.cli.options import Given
    from orlop.cli.session import Session

_FORMAT = Option("format", "f", "text", "FORMAT", "'json', or a Go template for each thing")
_SIZE = Option("size", "s", "flag", "", "Show sizes too, if it is a container")
_KINDS = ("container", "image", "network", "volume")


def _inspect(kind: str) -> Callable[[Session, Given], int]:
    """The command for one kind, or for any ("")."""

    def run(session: Session, given: Given) -> int:
        wanted = kind or given.text("type")
        sized = "size" in given.values and given.flag("size")
        found: list[Any] = []
        code = 0
        for name in given.arguments:
            try:
                found.append(session.engine.system.inspect(name, wanted, size=sized))
            except OrlopError as error:
                tell(error)
                code = 1
        _print(found, given.text("format"))
        return code

    return run


def _print(found: list[Any], template: str) -> None:
    from orlop.oci import jsontext

    if not template:
        display(jsontext.pretty(found) + "\n")
    elif template == "json":
        display(jsontext.dumps(found).decode() + "\n")
    elif found:
        from orlop.cli.golang import typed
        from orlop.cli.tables import unescaped
        from orlop.cli.templates import Template

        parsed = Template(unescaped(template))
        for one in found:
            display(parsed.execute(typed(one)) + "\n", template)


def _command(kind: str, example: tuple[str, str], *, size: bool = False) -> Command:
    return Command(
        run=_inspect(kind),
        usage=f"{kind.upper()} [{kind.upper()}...]",
        options=(_FORMAT, _SIZE) if size else (_FORMAT,),
        least=1,
        most=None,
        complete=(kind,),
        examples=(example,),
    )


INSPECT = Command(
    run=_inspect(""),
    usage="NAME|ID [NAME|ID...]",
    options=(_FORMAT, _SIZE, Option("type", "", "text", "KIND", "Only things of this kind", choices=_KINDS)),
    least=1,
    most=None,
    complete=("container",),
    examples=(
        ("orlop inspect web", "everything about a container, an image, a volume or a network"),
        ("orlop inspect -f '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web", "some of it"),
        ("orlop inspect -f '{{json .Config.Env}}' web", "a part of it as JSON"),
    ),
)
CONTAINER_INSPECT = _command(
    "container", ("orlop container inspect -f '{{.State.ExitCode}}' job", "how it ended"), size=True
)
IMAGE_INSPECT = _command("image", ("orlop image inspect -f '{{.Config.Cmd}}' app", "what it runs"))
VOLUME_INSPECT = _command("volume", ("orlop volume inspect -f '{{.Mountpoint}}' data", "where its files are"))
NETWORK_INSPECT = _command("network", ("orlop network inspect bridge", "its subnet and its containers"))
