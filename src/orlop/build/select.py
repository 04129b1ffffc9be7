"""Which files of a tree a COPY takes: wildcards, symlinks, --parents, --exclude. Reads listings, changes nothing.

What comes out serves both the cache key (names, kinds, modes, contents) and the copying itself.
"""

from __future__ import annotations

import hashlib
import os
import stat
from posixpath import basename, normpath

from orlop.build import ignore, lint
from orlop.build.dockerfile.source import DockerfileError, did_you_mean, near
from orlop.build.patterns import compile_glob, has_wildcards, unescaped
from orlop.errors import InvalidArgument, OrlopError
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orlop.build.dockerfile.source import Finding, Span
    from orlop.build.patterns import Matcher
    from orlop.build.steps import CopyStep
    from orlop.build.tree import Node, Tree


class Root:
    """One source that was found. `path` is where it is in the tree, `name` what a copy of a file is called.

    `below` are the (path relative to the source, path in the tree, node) of a directory's contents, parents first;
    for a file it is empty. Inner-loop object.
    """

    __slots__ = ("below", "name", "node", "path")

    def __init__(self, path: str, name: str, node: Node, below: list[tuple[str, str, Node]]) -> None:
        self.path = path
        self.name = name
        self.node = node
        self.below = below


class Selection(Value):
    """What a COPY takes from one tree."""

    roots: tuple[Root, ...]
    findings: tuple[Finding, ...] = ()


def select(step: CopyStep, tree: Tree, *, where: str) -> Selection:
    """The files that `step` names in `tree`; `where` is what to call the tree in errors ("the build context").

    Raises DockerfileError for a source that is missing; it says which ignore rule hides it, or what is there instead.
    """
    excludes = _excludes(step)
    roots: list[Root] = []
    findings: list[Finding] = []
    for source, span in zip(step.sources, step.spans, strict=True):
        try:
            found = _parents(tree, source, excludes) if step.parents else _plain(tree, source, excludes)
        except DockerfileError:
            raise
        except OrlopError as error:
            raise DockerfileError(error.message, source=step.source, span=span, hint=error.hint) from error
        if found:
            roots += found
        elif has_wildcards(source):
            findings.append(_nothing(step, tree, source, span))
        elif _lookup(tree, source) is None:
            raise _missing(step, tree, source, span, where)
    return Selection(roots=tuple(roots), findings=tuple(findings))


def _excludes(step: CopyStep) -> Matcher | None:
    if not step.excludes:
        return None
    try:
        return ignore.of_patterns(step.excludes, "--exclude")
    except InvalidArgument as error:
        raise DockerfileError(error.message, source=step.source, span=step.instruction.span, hint=error.hint) from error


def _lookup(tree: Tree, source: str) -> str | None:
    return tree.resolve(unescaped(source))


def _plain(tree: Tree, source: str, excludes: Matcher | None) -> list[Root]:
    if not has_wildcards(source):
        path = _lookup(tree, source)
        if path is None:
            return []
        return _root(tree, path, basename(normpath(unescaped(source))), excludes)
    roots = []
    for path in _globbed(tree, source):
        resolved = tree.resolve(path)
        if resolved is not None:
            roots += _root(tree, resolved, basename(path), excludes)
    return roots


def _root(tree: Tree, path: str, name: str, excludes: Matcher | None) -> list[Root]:
    node = tree.node(path)
    if node is None:
        return []
    if node.is_dir:
        return [Root(path, name, node, list(_contents(tree, path, excludes)))]
    if excludes is not None and excludes.ignores(name):
        return []
    return [Root(path, name, node, [])]


def _contents(tree: Tree, path: str, excludes: Matcher | None) -> Iterator[tuple[str, str, Node]]:
    skip = len(path) + 1 if path else 0
    if excludes is None:
        for full, node in tree.walk(path):
            yield full[skip:], full, node
        return
    kept_folders: dict[str, tuple[str, Node]] = {}
    given: set[str] = set()
    for full, node in tree.walk(path):
        relative = full[skip:]
        if excludes.ignores(relative):
            if node.is_dir and excludes.may_return(relative):
                kept_folders[relative] = (full, node)
            continue
        for folder in _above(relative):  # a hidden folder returns with what is in it
            if folder in kept_folders and folder not in given:
                given.add(folder)
                yield folder, *kept_folders[folder]
        yield relative, full, node


def _above(path: str) -> Iterator[str]:
    parts = path.split("/")
    for count in range(1, len(parts)):
        yield "/".join(parts[:count])


def _globbed(tree: Tree, source: str) -> list[str]:
    """The paths that a pattern matches, component by component; wildcards do not pass through symlinks."""
    parts = [part for part in normpath(source).split("/") if part]
    fixed = 0
    while fixed < len(parts) and not has_wildcards(parts[fixed]):
        fixed += 1
    base = tree.resolve(unescaped("/".join(parts[:fixed])))
    if base is None:
        return []
    found = [base]
    for part in parts[fixed:]:
        matches = compile_glob(part).match
        inner = []
        for folder in found:
            node = tree.node(folder)
            if node is None or not node.is_dir:
                continue
            prefix = f"{folder}/" if folder else ""
            inner += [prefix + name for name in tree.children(folder) if matches(name)]
        found = inner
    return found


def _parents(tree: Tree, source: str, excludes: Matcher | None) -> list[Root]:
    """--parents: the named paths keep their folders, from the root or from the `/./` in them."""
    before, pivot, after = source.partition("/./")
    base_text, pattern = (before or "/", after) if pivot else ("/", source)
    pattern = normpath(pattern).lstrip("/")
    bases = _globbed(tree, base_text) if has_wildcards(base_text) else [tree.resolve(unescaped(base_text))]
    roots = []
    for base in bases:
        node = tree.node(base) if base is not None else None
        if base is None or node is None or not node.is_dir:
            continue
        below = _matching(tree, base, pattern, excludes)
        if below:
            roots.append(Root(base, "", node, below))
    return roots


def _matching(tree: Tree, base: str, pattern: str, excludes: Matcher | None) -> list[tuple[str, str, Node]]:
    if pattern in {"", "."}:
        return list(_contents(tree, base, excludes))
    wanted = ignore.of_patterns([pattern], "the source")
    skip = len(base) + 1 if base else 0
    folders: dict[str, tuple[str, Node]] = {}
    given: dict[str, tuple[str, Node]] = {}
    pending = [base]
    while pending:
        folder = pending.pop()
        inner = []
        for name, node in tree.children(folder).items():
            full = f"{folder}/{name}" if folder else name
            relative = full[skip:]
            hit = wanted.ignores(relative) is not None
            if node.is_dir:
                folders[relative] = (full, node)
                if hit or _could_hold(pattern, relative):
                    inner.append(full)
            if not hit or (excludes is not None and excludes.ignores(relative)):
                continue
            for parent in _above(relative):
                given.setdefault(parent, folders[parent])
            given[relative] = (full, node)
        pending += reversed(inner)
    return [(relative, *given[relative]) for relative in sorted(given)]


def _could_hold(pattern: str, folder: str) -> bool:
    """Whether something below `folder` could match `pattern`."""
    parts = pattern.split("/")
    for part, name in zip(parts, folder.split("/"), strict=False):
        if "**" in part:
            return True
        if not compile_glob(part).match(name):
            return False
    return len(parts) > folder.count("/") + 1


def _nothing(step: CopyStep, tree: Tree, source: str, span: Span) -> Finding:
    """The warning for a wildcard without a match; it names an ignored file that would have matched."""
    matches = compile_glob(normpath(source).lstrip("/")).match
    for path, rule in tree.hidden.items():
        if matches(path):
            return lint.finding("CopyIgnoredFile", span, step.name, path, str(rule))
    return lint.finding("EmptyMatch", span, source)


def _missing(step: CopyStep, tree: Tree, source: str, span: Span, where: str) -> DockerfileError:
    path = normpath(unescaped(source)).lstrip("/")
    rule = tree.hidden_by(path)
    if rule is not None:
        return DockerfileError(
            f"{source} is hidden from the build by {rule}",
            source=step.source,
            span=span,
            hint=f"remove that line, or add !{path} below it",
        )
    folder, _, name = path.rpartition("/")
    there = tree.resolve(folder)
    names: Sequence[str] = ()
    if there is not None and (node := tree.node(there)) is not None and node.is_dir:
        names = list(tree.children(there))
    close = near(name, names)
    guess = f" (did you mean {folder + '/' if folder else ''}{close}?)" if close else ""
    if names and not close:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        hint = f"there is: {shown}"
    elif not close and folder and there is None:
        first = folder.split("/")[0]
        hint = f"there is no folder {folder}{did_you_mean(first, tree.children(''))}"
    else:
        hint = ""
    if step.origin == "" and source.startswith(".."):
        hint = "the build context is all that COPY sees; build from a folder further up to include it"
    return DockerfileError(f"{where} has no {source}{guess}", source=step.source, span=span, hint=hint)


def fingerprint(selection: Selection, tree: Tree) -> tuple[bytes, list[str]]:
    """What the selection's files are, all but their times: a digest, and a line for each to explain a miss later."""
    lines: list[str] = []
    for root in selection.roots:
        if root.node.is_dir:
            lines.append(f"{root.path}\0root")
            lines += [f"{full}\0{_about(tree, full, node)}" for _, full, node in root.below]
        else:
            lines.append(f"{root.path}\0{root.name} {_about(tree, root.path, root.node)}")
    names = "\0".join(relative for root in selection.roots for relative, _, _ in root.below)
    text = "\n".join(lines) + "\n\n" + names
    return hashlib.sha256(os.fsencode(text)).digest(), lines


def _about(tree: Tree, path: str, node: Node) -> str:
    found = node.found
    mode = found.st_mode
    if stat.S_ISREG(mode):
        text = f"f {mode & 0o7777:o} {tree.digest(path, node).hex()}"
    elif stat.S_ISDIR(mode):
        text = f"d {mode & 0o7777:o}"
    elif stat.S_ISLNK(mode):
        text = f"l {node.target}"
    else:
        text = f"{stat.S_IFMT(mode):o} {mode & 0o7777:o} {found.st_rdev:x}"
    return f"{text} {found.st_uid}:{found.st_gid}" if tree.owned else text
