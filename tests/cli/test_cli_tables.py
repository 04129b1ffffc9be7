"""Tables, templates and JSON of the listing commands, as docker prints them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from enginetwin import NOW, container, image
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.images import ROWS, image_rows
from orlop.cli.listing import CONTAINERS, container_row
from orlop.cli.tables import Table, aligned, aligned_text, render

if TYPE_CHECKING:
    from commandline import Line

_CELL = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs", "Cc"]), max_size=12)


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(_CELL, min_size=n, max_size=n), min_size=1, max_size=6)))
def test_columns_stand_below_each_other(rows: list[list[str]]) -> None:
    """In an even table every column begins at one place, at least 10 wide and 3 after the longest cell."""
    lines = aligned(rows).split("\n")[:-1]

    at = 0
    for column in range(len(rows[0])):
        for row, line in zip(rows, lines, strict=True):
            assert line[at : at + len(row[column])] == row[column]
        at += max(10, max(len(row[column]) for row in rows) + 3)


@given(st.lists(st.lists(_CELL, min_size=1, max_size=4), min_size=1, max_size=6))
def test_no_cell_is_lost(rows: list[list[str]]) -> None:
    """Lines of any number of cells keep them all, in order."""
    lines = aligned(rows).split("\n")[:-1]

    assert [line.replace(" ", "") for line in lines] == ["".join(row).replace(" ", "") for row in rows]


def test_a_line_without_a_column_ends_it() -> None:
    """As in text/tabwriter, a column is a run of lines that have it: after a gap its width begins anew."""
    text = "a-long-cell-here\tx\nno columns\nb\ty\n"

    assert aligned_text(text) == "a-long-cell-here   x\nno columns\nb         y\n"


def test_ps_is_dockers() -> None:
    """The default table of containers."""
    rows = [container_row(container(), NOW, whole=False)]

    assert render(CONTAINERS, rows) == (
        "CONTAINER ID   IMAGE        COMMAND                  CREATED       STATUS       PORTS                  NAMES\n"
        '4c01db0b339c   nginx:1.25   "/docker-entrypoint.…"   2 hours ago   Up 2 hours   0.0.0.0:8080->80/tcp   web\n'
    )


def test_ps_of_nothing_is_a_header() -> None:
    """Without containers the header still says what would be there, with docker's widths."""
    assert render(CONTAINERS, []) == "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n"


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{.ID}}: {{.Command}}", '4c01db0b339c: "/docker-entrypoint.…"\n'),
        ("table {{.ID}}\\t{{.Labels}}", "CONTAINER ID   LABELS\n4c01db0b339c   app=web,team=deck\n"),
        ('table {{.Names}}\t{{.Label "team"}}', "NAMES     team\nweb       deck\n"),
        ("table {{upper .Names}}", "NAMES\nWEB\n"),
        ("{{.Image}}\\t{{.State}} {{.Networks}} {{.Mounts}}", "nginx:1.25\trunning bridge a-volume-with-…\n"),
        ("{{json .Names}}", '"web"\n'),
        ("{{.Size}} {{.LocalVolumes}}", "0B 0\n"),
    ],
)
def test_ps_templates(template: str, shown: str) -> None:
    """Docker's documented formats of ps."""
    assert render(CONTAINERS, [container_row(container(), NOW, whole=False)], template) == shown


def test_json_has_every_field_in_order_of_name() -> None:
    """`--format json` is an object a line, with docker's fields sorted as Go's encoder sorts them."""
    text = render(CONTAINERS, [container_row(container(), NOW, whole=True)] * 2, "json")

    first, second = (json.loads(line) for line in text.splitlines())
    assert first == second
    assert list(first) == sorted(set(CONTAINERS.titles))
    assert first["ID"] == "4c01db0b339c" + "0" * 52
    assert first["Command"] == "\"/docker-entrypoint.sh nginx -g 'daemon off;'\""


def test_sizes_are_shown_with_what_they_share() -> None:
    """-s shows what a container wrote, and with its image's."""
    row = container_row(container(size_rw=2_000, size_root=1_240_000), NOW, whole=False)

    assert row["Size"] == "2kB (virtual 1.24MB)"


def test_images_is_dockers() -> None:
    """An image has a line for every name; one without a name shows <none>."""
    rows = [
        row
        for one in (image("nginx:1.25", "localhost:5000/web:latest"), image())
        for row in image_rows(one, NOW, whole=False)
    ]

    assert render(ROWS, rows) == (
        "REPOSITORY           TAG       IMAGE ID       CREATED       SIZE\n"
        "nginx                1.25      abababababab   2 weeks ago   1.24MB\n"
        "localhost:5000/web   latest    abababababab   2 weeks ago   1.24MB\n"
        "<none>               <none>    abababababab   2 weeks ago   1.24MB\n"
    )


def test_quiet_is_one_field_a_line() -> None:
    """-q is for $(...): the ids and nothing else."""
    assert render(Table({"ID": "ID"}, ("ID",), quiet="ID"), [{"ID": "a"}, {"ID": "b"}], quiet=True) == "a\nb\n"


def test_listing_commands(line: Line) -> None:
    """Each listing command prints docker's table of what the engine says."""
    line.twin.images_there = [image("nginx:1.25", "web:latest"), image("old:1")]
    assert line.ok("images", "-q") == "abababababab\n"
    assert line.ok("volume", "ls") == "DRIVER    VOLUME NAME\nlocal     data\n"
    assert line.ok("volume", "ls", "--format", "{{.Name}} {{.Labels}}") == "data a=b\n"
    assert (
        line.ok("network", "ls")
        == "NETWORK ID     NAME      DRIVER    SCOPE\nbbbbbbbbbbbb   bridge    bridge    local\n"
    )
    assert line.ok("system", "df") == (
        "TYPE          TOTAL     ACTIVE    SIZE      RECLAIMABLE\n"
        "Images        2         1         4MB       1MB (25%)\n"
        "Build Cache   1         0         10B       10B\n"
    )
    assert line.ok("top", "web") == "UID       PID       CMD\n0         1234      nginx\n"


def test_stats_is_dockers(line: Line) -> None:
    """One sample a line; what does not run has dashes."""
    line.twin.rows.append(container("old", id="f" * 64, state="exited"))

    assert line.ok("stats", "--no-stream", "-a") == (
        "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O       BLOCK I/O   PIDS\n"
        "4c01db0b339c   web       12.35%    3MiB / 2GiB         0.15%     1.23kB / 0B   5MB / 1MB   3\n"
        "ffffffffffff   old       --        -- / --             --        -- / --       -- / --     --\n"
    )


def test_history_is_dockers(line: Line) -> None:
    """Steps newest first; long ones are cut, unless --no-trunc; --human=false is for programs."""
    out = line.ok("history", "web")
    assert out.splitlines()[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert "RUN make " in out
    assert "ADD " + "x" * 40 + "…" in out
    assert "2.5MB" in out
    assert "N/A" in out
    assert "x" * 60 in line.ok("history", "--no-trunc", "web")
    assert " 2500000 " in line.ok("history", "--human=false", "web")


def test_ports(line: Line) -> None:
    """All ports of a container, or where one is; tcp unless it says otherwise."""
    assert line.ok("port", "web") == "80/tcp -> 0.0.0.0:8080\n53/udp -> [::]:5353\n"
    assert line.ok("port", "web", "80") == "0.0.0.0:8080\n"
    assert line.ok("port", "web", "53/udp") == "[::]:5353\n"
    assert "81/tcp of container web is not published" in line("port", "web", "81").err
