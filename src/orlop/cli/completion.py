"""`completion`, and what the scripts it prints ask: `orlop internal complete -- WORDS...`.

The scripts know nothing of orlop's commands: they pass the words typed so far (the last one is the one to be completed,
maybe empty) and get lines of `VALUE<TAB>WHAT IT IS` back; `:file` and `:dir` ask for the shell's own file completion.
"""

from __future__ import annotations

from orlop.cli import commands
from orlop.cli.command import Command
from orlop.errors import OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orlop.cli.options import Given, Option
    from orlop.cli.session import Session

_BASH = r"""# bash completion of orlop: source it, or keep it as /usr/share/bash-completion/completions/orlop
_orlop() {
    local line=${COMP_LINE:0:COMP_POINT} word prefix answer
    local -a words
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[${#words[@]} - 1]}
    # bash takes ":" and "=" for the ends of words, so it wants only what is after the last one
    prefix=${word%"${word##*[:=]}"}
    COMPREPLY=()
    while IFS= read -r answer; do
        answer=${answer%%$'\t'*}
        case $answer in
            :file | :dir)
                compopt -o filenames
                while IFS= read -r answer; do
                    COMPREPLY+=("$answer")
                done < <(compgen -"${answer:1:1}" -- "${word#"$prefix"}")
                ;;
            *) COMPREPLY+=("${answer#"$prefix"}") ;;
        esac
    done < <(orlop internal complete -- "${words[@]:1}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -F _orlop orlop
"""

_ZSH = r"""#compdef orlop
# zsh completion of orlop: keep it as _orlop in a folder of $fpath
_orlop() {
    local line
    local -a values
    for line in "${(@f)$(orlop internal complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            '') ;;
            :file | :dir)
                # after --option= the path begins behind the sign
                [[ $PREFIX == --*=* ]] && compset -P 1 '*='
                if [[ $line == :dir ]]; then _files -/; else _files; fi
                ;;
            *) values+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
        esac
    done
    (( $#values )) && _describe orlop values
}
if [[ $funcstack[1] == _orlop ]]; then _orlop "$@"; else compdef _orlop orlop; fi
"""

_FISH = r"""# fish completion of orlop: keep it as ~/.config/fish/completions/orlop.fish
function __orlop_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    # after --option= the path begins behind the sign
    set -l option (string match -r -- '^--[^=]+=' "$current")
    set -l path (string replace -r -- '^--[^=]+=' '' "$current")
    for line in (orlop internal complete -- $words[2..-1] "$current" 2>/dev/null)
        switch $line
            case ':file'
                for one in (__fish_complete_path "$path")
                    echo "$option$one"
                end
            case ':dir'
                for one in (__fish_complete_directories "$path")
                    echo "$option$one"
                end
            case '*'
                echo $line
        end
    end
end
complete -c orlop -f -a '(__orlop_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def _completion(session: Session, given: Given) -> int:  # noqa: ARG001  # the shape of every command
    from orlop.cli.options import UsageError

    shell = given.arguments[0]
    if shell not in SCRIPTS:
        raise UsageError(f"there is no completion for {shell!r}", hint=f"use {', '.join(SCRIPTS)}", exit_code=1)
    print(SCRIPTS[shell], end="")
    return 0


def _complete(session: Session, given: Given) -> int:
    words = given.arguments or [""]
    for value, what in candidates(session, words):
        print(f"{value}\t{what}" if what else value)
    return 0


def candidates(session: Session, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What may follow: (value, what it is) that begin with the last of `words`."""
    from orlop.cli.program import GLOBAL_OPTIONS

    before, current = list(words[:-1]), words[-1]
    start = _skip_options(GLOBAL_OPTIONS, before)
    if start is None:
        offered: Iterable[tuple[str, str]] = _of_option(session, _option(GLOBAL_OPTIONS, before[-1]), current)
    else:
        path, rest = commands.resolve(before[start:])
        if path in commands.TABLE:
            offered = _of_command(session, commands.load(path), rest, current)
        elif rest:
            return  # no such command
        elif current.startswith("-") and not path:
            offered = _of_joined(session, GLOBAL_OPTIONS, current) if "=" in current else _names(GLOBAL_OPTIONS)
        else:
            offered = _of_group(path)
    for value, what in offered:
        if value.startswith((current, ":")):
            yield value, what


def _skip_options(options: Sequence[Option], words: Sequence[str]) -> int | None:
    """Where the words begin that belong to no option; None if the last option still wants its value."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        option = _option(options, words[at])
        at += 1
        if option is not None and option.kind != "flag" and "=" not in words[at - 1]:
            at += 1
            if at > len(words):
                return None
    return at


def _option(options: Iterable[Option], word: str) -> Option | None:
    """The option that a word names; of joined short ones the last."""
    name = word.partition("=")[0]
    for option in options:
        if name == f"--{option.long}" or (not name.startswith("--") and option.short and name[-1:] == option.short):
            return option
    return None


def _of_group(group: str) -> Iterator[tuple[str, str]]:
    prefix = f"{group} " if group else ""
    for path in commands.visible():
        name = path.removeprefix(prefix)
        if path.startswith(prefix) and name and " " not in name:
            target = commands.ALIASES.get(path, path)
            yield name, commands.GROUPS[target] if target in commands.GROUPS else commands.TABLE[target][1]


def _names(options: Iterable[Option]) -> Iterator[tuple[str, str]]:
    for option in options:
        yield f"--{option.long}", option.help
        if option.short:
            yield f"-{option.short}", option.help
    yield "--help", "Show help"


def _of_command(session: Session, command: Command, rest: Sequence[str], current: str) -> Iterator[tuple[str, str]]:
    arguments, at = 0, 0
    while at < len(rest):
        word = rest[at]
        at += 1
        if word == "--" or not word.startswith("-") or word == "-":
            arguments += word != "--"
            if word == "--" or not command.interspersed:
                arguments += len(rest) - at
                yield from _of_argument(session, command, arguments, current)
                return
            continue
        option = _option(command.options, word)
        if option is not None and option.kind != "flag" and "=" not in word:
            if at == len(rest):
                yield from _of_option(session, option, current)
                return
            at += 1
    if current.startswith("--") and "=" in current:
        yield from _of_joined(session, command.options, current)
    elif current.startswith("-"):
        yield from _names(command.options)
    else:
        yield from _of_argument(session, command, arguments, current)


def _of_joined(session: Session, options: Sequence[Option], current: str) -> Iterator[tuple[str, str]]:
    """What may follow in `--option=VALUE`, written as one word."""
    name, _, value = current.partition("=")
    for offered, what in _of_option(session, _option(options, name), value):
        yield (offered if offered.startswith(":") else f"{name}={offered}"), what


def _of_option(session: Session, option: Option | None, current: str) -> Iterator[tuple[str, str]]:
    if option is None:
        return
    if option.choices:
        yield from ((choice, "") for choice in option.choices)
    elif option.complete:
        yield from _values(session, option.complete, current)


def _of_argument(session: Session, command: Command, position: int, current: str) -> Iterator[tuple[str, str]]:
    if command.usage == "SHELL":
        yield from ((shell, "") for shell in SCRIPTS)
    elif command.complete and (command.most is None or position < command.most):
        yield from _values(session, command.complete[min(position, len(command.complete) - 1)], current)


def _values(session: Session, kind: str, current: str) -> Iterator[tuple[str, str]]:
    """Names from the engine; what it cannot say now is not offered."""
    if kind in {"file", "dir"}:
        yield f":{kind}", ""
        return
    try:
        yield from _known(session, kind)
    except (OrlopError, OSError):
        return
    if kind == "volume" and "/" in current:
        yield ":file", ""


def _known(session: Session, kind: str) -> list[tuple[str, str]]:
    from orlop.engine.requests import ListContainers

    engine = session.engine
    if kind in {"container", "running"}:
        rows = engine.containers.list(ListContainers(all=kind == "container"))
        return [(name, f"{row.image}, {row.status}") for row in rows for name in row.names]
    if kind == "image":
        return [(name, "") for image in engine.images.list() for name in image.names]
    if kind == "volume":
        return [(str(one["Name"]), "") for one in engine.volumes.list()]
    if kind == "network":
        return [(str(one["Name"]), str(one.get("Driver", ""))) for one in engine.networks.list()]
    return []


COMPLETION = Command(
    run=_completion,
    usage="SHELL",
    least=1,
    most=1,
    about="SHELL is bash, zsh or fish.",
    examples=(
        ("orlop completion bash > /etc/bash_completion.d/orlop", "for everybody on this machine"),
        ("orlop completion zsh > ~/.zfunc/_orlop", "for zsh, in a folder of $fpath"),
        ("orlop completion fish > ~/.config/fish/completions/orlop.fish", "for fish"),
    ),
)
COMPLETE = Command(run=_complete, usage="-- WORDS...", most=None, interspersed=False)
