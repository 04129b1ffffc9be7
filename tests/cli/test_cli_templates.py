"""Go's templates: goldens from Go's and docker's documentation, and laws for any text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.golang import Map, formatted, quoted, show, typed
from orlop.cli.templates import Template, TemplateError

DATA = typed(
    {
        "Id": "4c01db0b339c",
        "Name": "/web",
        "RestartCount": 3,
        "State": {"Running": True, "Pid": 42, "Error": ""},
        "Config": {"Env": ["A=1", "B=2"], "Cmd": None, "Labels": {"team": "deck", "com.example/x": "y"}},
        "HostConfig": {"CapAdd": None, "Memory": 1073741824},
        "NetworkSettings": {
            "Networks": {"bridge": {"IPAddress": "172.17.0.2"}, "back": {"IPAddress": "10.5.0.2"}},
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None},
        },
        "Mounts": [{"Destination": "/a"}, {"Name": "data", "Destination": "/b"}],
        "Ratio": 0.5,
        "Nothing": None,
    }
)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        # docker's documentation of inspect
        ("{{.State.Pid}}", "42"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.5.0.2172.17.0.2"),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> {{with $conf}}{{(index . 0).HostPort}}{{end}} {{end}}",
            " 80/tcp -> 8080  81/tcp ->  ",
        ),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        ('{{join .Config.Env " , "}}', "A=1 , B=2"),
        ("{{json .Config.Env}}", '["A=1","B=2"]'),
        ("{{json .Config.Cmd}}", "null"),
        ('{{lower "A"}}{{upper .Name}}{{title "deck hand"}}', "a/WEBDeck Hand"),
        ('{{index (split .Name "/") 1}}', "web"),
        ('{{truncate .Id 4}}|{{pad "x" 1 2}}|', "4c01| x  |"),
        ("{{println .State.Pid}}", "42\n"),
        # how Go prints
        ("{{.Config.Env}}", "[A=1 B=2]"),
        ("{{.Config.Labels}}", "map[com.example/x:y team:deck]"),
        ("{{.Config.Cmd}}{{.HostConfig.CapAdd}}", "[][]"),
        ("{{.State.Running}} {{not .State.Running}}", "true false"),
        ("{{.Nothing}}", "<no value>"),
        # what docker's JSON leaves out when it is empty is there for templates all the same
        ("{{.State.Health}} {{json .State.Health}}", "<nil> null"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        (
            "{{.Config.StopSignal}}|{{.Config.Healthcheck}}|{{.HostConfig.Init}}|{{.HostConfig.Tmpfs}}",
            "|<nil>|<nil>|map[]",
        ),
        ("{{range .Mounts}}{{.Name}}|{{.Destination}};{{end}}", "|/a;data|/b;"),
        ("{{.Config.Labels.team}}|{{.Config.Labels.none}}", "deck|<no value>"),
        ('{{index .Config.Labels "com.example/x"}}|{{index .Config.Labels "none"}}|', "y||"),
        ("{{.Ratio}}", "0.5"),
        (
            '{{printf "%.2f|%5d|%-5d|%05d|%q|%v|%s|%x|%%" .Ratio 42 42 42 .Name .State.Running .Id 255}}',
            '0.50|   42|42   |00042|"/web"|true|4c01db0b339c|ff|%',
        ),
        # control
        ("{{if .State.Error}}bad{{else if eq .State.Pid 42}}pid{{else}}good{{end}}", "pid"),
        ("{{with .State.Error}}bad{{else}}good{{end}}", "good"),
        ("{{with $x := .State}}{{$x.Pid}}{{.Pid}}{{$.RestartCount}}{{end}}", "42423"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{range $i, $e := .Config.Env}}{{if $i}},{{end}}{{$e}}{{end}}", "A=1,B=2"),
        ('{{range .Config.Env}}{{if eq . "B=2"}}{{break}}{{end}}{{.}}{{end}}', "A=1"),
        ('{{range .Config.Env}}{{if eq . "A=1"}}{{continue}}{{end}}{{.}}{{end}}', "B=2"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{$n := 1}}{{if true}}{{$n = 2}}{{end}}{{$n}}", "2"),
        ("{{$n := 1}}{{if true}}{{$n := 2}}{{$n}}{{end}}{{$n}}", "21"),
        # functions
        ("{{and .State.Running .Name}}|{{or .State.Error .Name}}|{{and 0 .Missing}}", "/web|/web|0"),
        (
            '{{eq 1 2 3 1}}{{ne 1 2}}{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge 2 2}}{{lt "a" "b"}}',
            "truetruetruetruefalsetruetrue",
        ),
        ("{{len .Config.Env}}{{len .Name}}{{len .Config.Labels}}{{len .Config.Cmd}}", "2420"),
        ("{{slice .Id 0 4}}{{slice .Config.Env 1}}", "4c01[B=2]"),
        ('{{print 1 2 "a" 3}}', "1 2a3"),
        ('{{.Name | printf "%s-%s" "x" | upper}}', "X-/WEB"),
        # blanks, comments, constants
        ("a  {{- 1 -}}  b", "a1b"),
        ("a {{/* nothing */}} b", "a  b"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("{{`raw \\n`}}{{\"\\t\\u00e9\\x41\"}}{{'a'}}", "raw \\n\té" + "A97"),
        ("{{0x10}} {{-3}} {{1.5}} {{1e3}} {{true}}", "16 -3 1.5 1000 true"),
        ('}} {{"{{"}} {', "}} {{ {"),
    ],
)
def test_goldens(template: str, shown: str) -> None:
    """What Go prints for a template, we print."""
    assert Template(template).execute(DATA) == shown


@pytest.mark.parametrize(
    ("template", "message", "column"),
    [
        ("{{.Foo}}", "there is no field Foo", 3),
        ("{{.State.Runing}}", "there is no field Runing (but Running)", 9),
        ("{{.Name.Foo}}", "'/web' has no field Foo", 8),
        ("{{.Nothing.Foo}}", "nothing here to take Foo of", 11),
        ("x{{if .Id}}", "if without its end", 4),
        ("{{end}}", "unexpected {{end}}", 3),
        ("{{if .Id}}{{else}}{{else}}{{end}}", "a second else", 21),
        ("{{nope .Id}}", "there is no function nope", 3),
        ("{{jsn .Id}}", "there is no function jsn (but json)", 3),
        ("{{$x}}", "there is no variable $x", 3),
        ("{{.Id", "without its }}", 1),
        ("{{}}", "an empty action", 3),
        ('{{"x}}', 'a string without its "', 3),
        ("{{index .Config.Env 5}}", "position 5 is outside of 2", 3),
        ('{{eq 1 "1"}}', "cannot be compared", 3),
        ("{{range .Name}}{{end}}", "range cannot go over '/web'", 3),
        ('{{template "x"}}', "template cannot be used here", 3),
        ("{{break}}", "break cannot be used here", 3),
        ("{{.Name 1}}", "not a function", 3),
        ("{{1 2}}", "not a function", 3),
        ("{{len}}", "these arguments do not fit", 3),
        ("{{(1}}", "a ) is missing", 5),
        ("line\n  {{.Foo}}", "there is no field Foo", 5),
        ("{{" + "(" * 300 + "}}", "nested too deeply", 102),
    ],
)
def test_errors_point_at_the_place(template: str, message: str, column: int) -> None:
    """An error says what is wrong, shows the line, and points at the column."""
    with pytest.raises(TemplateError) as caught:
        Template(template).execute(DATA)

    assert message in caught.value.message
    assert caught.value.column == column
    assert caught.value.message.endswith(" " * (column + 1) + "^")


_PIECES = st.sampled_from(
    ["{{", "}}", "{{-", "-}}", " ", ".", ".Name", "$x", ":=", "=", "|", "(", ")", "if", "else", "end", "range", "with",
     "1", '"s"', "'c'", "`r`", "/*", "*/", "index", "len", "printf", "json", "text", "\n", ",", "break", "$", "nil"]
)  # fmt: skip


@given(
    st.lists(_PIECES, max_size=14).map(" ".join) | st.lists(_PIECES, max_size=14).map("".join) | st.text(max_size=20)
)
def test_any_text_is_a_template_or_an_error(text: str) -> None:
    """No template makes us do anything but print text or raise TemplateError."""
    try:
        shown = Template(text).execute(DATA)
    except TemplateError as error:
        assert error.column >= 1
    else:
        assert isinstance(shown, str)


@given(st.text(max_size=30).filter(lambda text: "{{" not in text))
def test_text_without_actions_stays(text: str) -> None:
    """What is not between {{ and }} is printed as it is."""
    assert Template(text).execute(DATA) == text


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON)
def test_json_of_dot_is_the_data(data: Any) -> None:
    """{{json .}} gives back the very data, whatever Go types it was given."""
    import json

    assert json.loads(Template("{{json .}}").execute(typed(data))) == data


@given(st.text(max_size=20))
def test_quoted_text_reads_back(text: str) -> None:
    """A quoted text is a Go string constant that means the text."""
    assert Template("{{" + quoted(text) + "}}").execute(None) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1"),
        (1e6, "1e+06"),
        (100000.0, "100000"),
        (123456789.0, "1.23456789e+08"),
        (1073741824.0, "1.073741824e+09"),
        (1.5e300, "1.5e+300"),
        (-0.0, "-0"),
        (0.00012, "0.00012"),
        (12.5, "12.5"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (-2.5, "-2.5"),
        (float("inf"), "+Inf"),
        (float("nan"), "NaN"),
        ([None, [1, "a"], {"b": 1, "a": True}], "[<nil> [1 a] map[a:true b:1]]"),
        (Map({}), "map[]"),
    ],
)
def test_values_print_as_go_prints_them(value: Any, shown: str) -> None:
    """fmt.Sprint, as its documentation has it (floats: %v is %g with the shortest digits)."""
    assert show(value) == shown


@pytest.mark.parametrize(
    ("template", "values", "shown"),
    [
        ("%d", ["x"], "%!d(string=x)"),
        ("%d", [], "%!d(MISSING)"),
        ("x", [1], "x%!(EXTRA int=1)"),
        ("%", [], "%!(NOVERB)"),
        ("%+d %08.3f %t %c %X", [5, 3.14159, False, 65, "hi"], "+5 0003.142 false A 6869"),
        ("%.2s|%6.1f|%-6s|", ["abc", 2.25, "ab"], "ab|   2.2|ab    |"),
        ("%v %s", [[1, 2], ["a"]], "[1 2] [a]"),
    ],
)
def test_printf_is_gos(template: str, values: list[Any], shown: str) -> None:
    """Verbs, flags, widths and Go's own marks of what does not fit."""
    assert formatted(template, values) == shown


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_lose_nothing(value: float) -> None:
    """What is printed of a float is that float."""
    assert float(show(value)) == value
