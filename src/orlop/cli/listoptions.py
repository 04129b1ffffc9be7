"""What every listing has: filters, formats, labels in a cell."""

from __future__ import annotations

from orlop.cli.options import Option, UsageError
from orlop.engine.requests import Filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

FILTER = Option("filter", "f", "list", "KEY=VALUE", "Show only what fits")
FORMAT = Option("format", "", "text", "FORMAT", "'table', 'table TEMPLATE', 'json', or a Go template for each row")
NO_TRUNC = Option("no-trunc", "", "flag", "", "Do not cut long columns")


def filters(texts: Iterable[str]) -> tuple[Filter, ...]:
    """`--filter KEY=VALUE` texts as the engine takes them."""
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"-f, --filter is {text!r}", hint="write --filter KEY=VALUE", exit_code=1)
        negated = key.endswith("!")
        found.append(Filter(key=key.removesuffix("!").strip().lower() + "!" * negated, value=value.strip()))
    return tuple(found)


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels in one cell: "a=1,b=2"."""
    return ",".join(f"{name}={labels[name]}" for name in sorted(labels))


def label_of(labels: Mapping[str, str]) -> Callable[[str], str]:
    """`{{.Label "name"}}` of a template."""
    return lambda name: labels.get(name, "")
