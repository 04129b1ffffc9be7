"""References: how people and registries name images (distribution-spec v1.1, and docker's rules for short names).

    [registry[:port]/]repository[:tag][@digest]

What docker leaves out is put back: "busybox" is "docker.io/library/busybox:latest". The first word of a path is a
registry's host only if it has a dot, a colon or an upper-case letter, or is "localhost".
"""

from __future__ import annotations

from orlop.errors import InvalidArgument
from orlop.oci.digest import HEX, Digest
from orlop.values import Value

DEFAULT_REGISTRY = "docker.io"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
MAX_NAME = 255
"""Characters in registry and repository together."""
MAX_TAG = 128

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_HOST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_TAG_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_TAG = _TAG_START | {".", "-"}
_EXAMPLE = "a reference looks like [registry[:port]/]name[:tag][@digest], for example docker.io/library/busybox:1.36"


class Reference(Value):
    """The full name of an image. `parse` makes one from what people write."""

    registry: str  # host, or host:port
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """As `parse_plain`, but a name with neither tag nor digest means "latest"."""
        found = cls.parse_plain(text)
        if found.tag or found.digest is not None:
            return found
        return found.replace(tag=DEFAULT_TAG)

    @classmethod
    def parse_plain(cls, text: str) -> Reference:
        """The reference that `text` states, with the registry that docker implies but no tag added.

        Raises InvalidArgument that says in words what is wrong.
        """
        if not text:
            raise _wrong("a reference cannot be empty")
        if not text.isascii() or not text.isprintable() or " " in text:
            raise _wrong(f"{text!r} has characters that no reference can have")
        for scheme in ("https://", "http://", "docker://", "oci://"):
            if text.startswith(scheme):
                raise _wrong(f"{text!r} has {scheme} in front: leave it out")
        if len(text) == 64 and not text.strip(HEX):
            raise _wrong(f"{text!r} is an image's id, not a name (a name cannot be 64 hexadecimal digits)")
        name, digest = _split_digest(text)
        name, tag = _split_tag(text, name)
        registry, repository = _split_registry(text, name)
        return cls(registry=registry, repository=repository, tag=tag, digest=digest)

    @property
    def name(self) -> str:
        """Registry and repository: "docker.io/library/busybox"."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar_name(self) -> str:
        """The name as docker shows it: "busybox", "someone/app", "ghcr.io/x/y"."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        library, slash, rest = self.repository.partition("/")
        # The short name must be read back as the same name: "library/a/b" keeps its first word, as does what would be
        # taken for an id, and a first word that looks like a host keeps the registry before it.
        if library == DEFAULT_NAMESPACE and slash and "/" not in rest and (len(rest) != 64 or rest.strip(HEX)):
            return rest
        return self.name if _is_host(library) and slash else self.repository

    @property
    def familiar(self) -> str:
        """The reference as docker shows it: "busybox:latest"."""
        return self.familiar_name + self._suffix()

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest is not None else tag


def _wrong(message: str, hint: str = _EXAMPLE) -> InvalidArgument:
    return InvalidArgument(message, hint=hint)


def _split_digest(text: str) -> tuple[str, Digest | None]:
    name, at, digest = text.partition("@")
    if not at:
        return text, None
    if "@" in digest:
        raise _wrong(f"{text!r} has two @")
    if not name:
        raise _wrong(f"{text!r} has a digest but no name")
    if not digest:
        raise _wrong(f"{text!r} ends in @ with no digest after it")
    try:
        return name, Digest.parse(digest)
    except InvalidArgument as error:
        raise _wrong(f"{text!r}: {error.message}") from error


def _split_tag(text: str, name: str) -> tuple[str, str]:
    """Cut the tag off `name`; a colon before the last slash belongs to the registry's port."""
    path, slash, last = name.rpartition("/")
    words = last.split(":")
    if not slash and last.startswith("["):
        raise _wrong(f"{text!r} names a registry but no repository")
    if len(words) > 2:
        raise _wrong(f"{text!r} has two tags ({words[1]!r} and {words[2]!r})", hint="a name can have one tag")
    if len(words) == 1:
        return name, ""
    _check_tag(text, words[1])
    if not words[0]:
        raise _wrong(f"{text!r} has a tag but no name")
    return path + slash + words[0], words[1]


def _check_tag(text: str, tag: str) -> None:
    if not tag:
        raise _wrong(f"{text!r} has an empty tag (nothing after the colon)")
    if len(tag) > MAX_TAG:
        raise _wrong(f"{text!r} has a tag of {len(tag)} characters; {MAX_TAG} are allowed")
    if tag[0] not in _TAG_START:
        raise _wrong(f"{text!r} has the tag {tag!r}; a tag starts with a letter, a digit or an underscore")
    for letter in tag:
        if letter not in _TAG:
            raise _wrong(f"{text!r} has {letter!r} in its tag", hint="tags have letters, digits, '_', '.' and '-'")


def _split_registry(text: str, name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash:
        registry, repository = DEFAULT_REGISTRY, name
    elif _is_host(first):
        registry, repository = first, rest
    else:
        registry, repository = DEFAULT_REGISTRY, name
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    _check_registry(text, registry)
    if not repository:
        raise _wrong(f"{text!r} names a registry but no repository")
    _check_repository(text, repository)
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"{DEFAULT_NAMESPACE}/{repository}"
    if len(registry) + 1 + len(repository) > MAX_NAME:
        raise _wrong(f"the name has {len(registry) + 1 + len(repository)} characters; {MAX_NAME} are allowed")
    return registry, repository


def _is_host(word: str) -> bool:
    return "." in word or ":" in word or word == "localhost" or word.lower() != word


def _check_registry(text: str, registry: str) -> None:
    if registry.startswith("["):
        host, bracket, port = registry[1:].partition("]")
        if not bracket or not host or host.strip("0123456789abcdefABCDEF:") or ":" not in host:
            raise _wrong(f"{text!r} has the registry {registry!r}, which is not an IPv6 address in brackets")
        colon, port = port[:1], port[1:]
        if colon not in ("", ":"):
            raise _wrong(f"{text!r} has something else than a port after {registry!r}")
    else:
        host, colon, port = registry.partition(":")
        for label in host.split("."):
            if not label or not _HOST.issuperset(label) or label[0] == "-" or label[-1] == "-":
                raise _wrong(f"{text!r} has the registry {registry!r}, which is not a host's name")
    if colon and not (port.isdigit() and len(port) < 6 and int(port) < 65536):
        raise _wrong(f"{text!r} has the port {port!r}; a port is a number up to 65535")


def _check_repository(text: str, repository: str) -> None:
    if repository.lower() != repository:
        raise _wrong(
            f"{text!r} has upper-case letters in its name, only lower case is allowed",
            hint=f"write {repository.lower()}",
        )
    for word in repository.split("/"):
        if not word:
            raise _wrong(f"{text!r} has an empty word in its path")
        if word[0] not in _LOWER or word[-1] not in _LOWER:
            raise _wrong(f"{text!r} has the word {word!r}; words of a name start and end with a letter or a digit")
        _check_word(text, word)


def _check_word(text: str, word: str) -> None:
    """Between letters and digits stand one dot, one or two underscores, or any number of dashes."""
    separator = ""
    for letter in word + "a":
        if letter not in _LOWER:
            separator += letter
            if letter not in "._-":
                raise _wrong(
                    f"{text!r} has {letter!r} in its name",
                    hint="names have lower-case letters, digits, '.', '_', '-' and '/'",
                )
            continue
        if separator not in ("", ".", "_", "__") and separator.strip("-"):
            raise _wrong(f"{text!r} has {separator!r} inside {word!r}; that is no separator in a name")
        separator = ""
