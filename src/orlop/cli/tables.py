"""Rows for people and for scripts: docker's tables, `--format` templates, JSON lines and `-q`. Pure but for `show`.

A table's columns are laid out as Go's text/tabwriter does it (golang.org: text/tabwriter), with docker's settings:
cells at least 10 wide, 3 blanks between them, the last cell of a line unpadded.
"""

from __future__ import annotations

from orlop.cli.session import display

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from orlop.cli.options import Given

_LEAST = 10
_BETWEEN = 3


class Table:
    """One kind of rows: what each field is titled, and the columns that are shown when nothing else is asked."""

    __slots__ = ("columns", "quiet", "titles")

    def __init__(self, titles: Mapping[str, str], columns: Sequence[str], quiet: str = "") -> None:
        self.titles = titles
        self.columns = columns
        self.quiet = quiet  # the field that -q shows

    def default(self) -> str:
        """The template of the usual table."""
        return "table " + "\\t".join(f"{{{{.{name}}}}}" for name in self.columns)


def show(table: Table, rows: Iterable[Mapping[str, Any]], given: Given) -> None:
    """Print rows as `--format` and `-q` say."""
    template = given.text("format") if "format" in given.values else ""
    quiet = "quiet" in given.values and given.flag("quiet") and (not template or template == "table")
    display(render(table, rows, template, quiet=quiet), template)


def render(table: Table, rows: Iterable[Mapping[str, Any]], template: str = "", *, quiet: bool = False) -> str:
    """The rows as text. `template`: "" or "table", "json", "table TEMPLATE", or a Go template for each row."""
    if quiet:
        return "".join(f"{row[table.quiet]}\n" for row in rows)
    if template in {"", "table"}:
        return aligned(
            [[table.titles[name] for name in table.columns], *([row[n] for n in table.columns] for row in rows)]
        )
    if template == "json":
        template = "{{json .}}"
    from orlop.cli.templates import Template

    with_head = template.startswith("table ")
    text = unescaped(template.removeprefix("table ") if with_head else template)
    parsed = Template(text)
    # docker marshals the fields of a row in the order of their names
    lines = [parsed.execute({name: row[name] for name in sorted(row)}) + "\n" for row in rows]
    if not with_head:
        return "".join(lines)
    return aligned_text(head(table, text) + "\n" + "".join(lines))


def head(table: Table, text: str) -> str:
    """The template run on titles instead of values."""
    from orlop.cli.golang import Map
    from orlop.cli.templatefunctions import HEADER_FUNCTIONS
    from orlop.cli.templates import Template

    titles = dict(table.titles) | {"Label": _label_title}
    return Template(text, HEADER_FUNCTIONS).execute(Map(titles))


def _label_title(name: str) -> str:
    """`{{.Label "com.example.version"}}` is titled "version"."""
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")


def unescaped(template: str) -> str:
    r"""Shells pass \t and \n of '...' as two characters; docker takes them as a tab and a newline."""
    return template.replace("\\t", "\t").replace("\\n", "\n")


def aligned_text(text: str) -> str:
    """Lines with tabs between cells, laid out."""
    return aligned([line.split("\t") for line in text.removesuffix("\n").split("\n")])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, laid out. A column is a run of lines that have a cell there with another cell after it."""
    out: list[str] = []
    _format(lines, 0, len(lines), [], out)
    return "".join(out)


def _format(lines: Sequence[Sequence[str]], first: int, last: int, widths: list[int], out: list[str]) -> None:
    column = len(widths)
    at = first
    while at < last:
        if column >= len(lines[at]) - 1:
            at += 1
            continue
        _write(lines[first:at], widths, out)
        first = at
        width = _LEAST
        while at < last and column < len(lines[at]) - 1:
            width = max(width, len(lines[at][column]) + _BETWEEN)
            at += 1
        _format(lines, first, at, [*widths, width], out)
        first = at
    _write(lines[first:last], widths, out)


def _write(lines: Iterable[Sequence[str]], widths: Sequence[int], out: list[str]) -> None:
    for line in lines:
        for at, cell in enumerate(line):
            # what is after the last tab is no column, and gets no blanks
            out.append(cell.ljust(widths[at]) if at < len(widths) and at < len(line) - 1 else cell)
        out.append("\n")
