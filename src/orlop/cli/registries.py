"""`login`, `logout`, `registry serve`, `registry user add` and `registry user rm`."""

from __future__ import annotations

import sys

from orlop.cli.command import Command
from orlop.cli.options import Option, UsageError
from orlop.cli.session import warn
from orlop.engine.requests import Login

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.options import Given
    from orlop.cli.session import Session

_PASSWORD_LIMIT = 64 << 10  # bytes: tokens are long, files given by mistake longer


def _password(given: Given, prompt: str, *, twice: bool = False) -> str:
    """The password from the option, from standard input, or typed without being seen."""
    if given.flag("password-stdin"):
        if "password" in given.named:
            raise UsageError("--password and --password-stdin contradict each other", exit_code=1)
        data = sys.stdin.buffer.read(_PASSWORD_LIMIT + 1)
        if len(data) > _PASSWORD_LIMIT:
            raise UsageError("what came from standard input is too long for a password", exit_code=1)
        return data.decode(errors="surrogateescape").rstrip("\r\n")
    if "password" in given.named:
        warn("using --password on the command line is insecure: other users can see it. Use --password-stdin.")
        return given.text("password")
    if not sys.stdin.isatty():
        raise UsageError(
            "cannot ask for a password: standard input is no terminal", hint="use --password-stdin", exit_code=1
        )
    from getpass import getpass  # only where a person is asked

    password = getpass(prompt)
    if twice and getpass("Again: ") != password:
        raise UsageError("the two passwords differ", exit_code=1)
    return password


def _login(session: Session, given: Given) -> int:
    registry = given.arguments[0] if given.arguments else ""
    user = given.text("username")
    if not user:
        if given.flag("password-stdin") or not sys.stdin.isatty():
            raise UsageError("login needs a user", hint="use --username NAME --password-stdin", exit_code=1)
        print("Username: ", end="", flush=True)
        user = sys.stdin.readline().strip()
    password = _password(given, "Password: ")
    if not user or not password:
        raise UsageError("login needs a user and a password", exit_code=1)
    session.engine.registries.login(Login(registry=registry, username=user, password=password))
    print("Login Succeeded")
    return 0


def _logout(session: Session, given: Given) -> int:
    registry = given.arguments[0] if given.arguments else "docker.io"
    if session.engine.registries.logout(registry):
        print(f"Removed login credentials for {registry}")
    else:
        print(f"Not logged in to {registry}")
    return 0


def _serve(session: Session, given: Given) -> int:
    from orlop.registry.server.program import ServeRequest, serve

    if given.arguments:
        raise UsageError("registry serve takes no arguments", exit_code=1)
    wanted = ServeRequest(
        root=given.text("root") or f"{session.settings.root}/registry",
        addr=given.text("addr"),
        htpasswd=given.text("htpasswd"),
        anonymous_pull=given.flag("anonymous-pull"),
        anonymous=given.flag("anonymous"),
        read_only=given.flag("read-only"),
        sparse=given.flag("sparse"),
        tls_cert=given.text("tls-cert"),
        tls_key=given.text("tls-key"),
        workers=given.number("workers"),
        access_log=given.flag("access-log"),
    )
    serve(wanted, lambda text: print(text, flush=True))
    return 0


def _add_user(session: Session, given: Given) -> int:  # noqa: ARG001  # the shape of every command
    from orlop.registry import htpasswd

    user = given.arguments[0]
    new = htpasswd.add_user(_password_file(given), user, _password(given, f"Password of {user}: ", twice=True))
    print(f"{'Added' if new else 'Changed the password of'} {user}")
    return 0


def _remove_user(session: Session, given: Given) -> int:
    from orlop.registry import htpasswd

    path = _password_file(given)
    return session.each(given.arguments, lambda user: htpasswd.remove_user(path, user))


def _password_file(given: Given) -> str:
    path = given.text("htpasswd")
    if not path:
        raise UsageError("which password file?", hint="use --htpasswd FILE", exit_code=1)
    return path


_PASSWORD_OPTIONS = (
    Option("password", "p", "text", "PASSWORD", "The password; other users of this machine can see it here"),
    Option("password-stdin", "", "flag", "", "Read the password from standard input"),
)

LOGIN = Command(
    run=_login,
    usage="[REGISTRY]",
    options=(*_PASSWORD_OPTIONS, Option("username", "u", "text", "NAME", "The user")),
    most=1,
    examples=(
        ("orlop login -u sailor --password-stdin registry.example.com < token", "without a trace in the history"),
    ),
)

LOGOUT = Command(
    run=_logout,
    usage="[REGISTRY]",
    most=1,
    examples=(("orlop logout registry.example.com", "forget the credentials"),),
)

SERVE = Command(
    run=_serve,
    options=(
        Option("access-log", "", "flag", "", "Print every request"),
        Option("addr", "", "text", "HOST:PORT", "Where to listen; port 0 takes a free one", default="127.0.0.1:5000"),
        Option("anonymous", "", "flag", "", "Serve without passwords on an address that others can reach, and mean it"),
        Option("anonymous-pull", "", "flag", "", "Let everybody pull; --htpasswd is for who pushes"),
        Option("htpasswd", "", "text", "FILE", "Users and their passwords, as bcrypt hashes", complete="file"),
        Option("read-only", "", "flag", "", "Nobody can push or delete"),
        Option("root", "", "text", "DIR", "Where the registry keeps its content", complete="dir"),
        Option("sparse", "", "flag", "", "Accept an index whose manifests are not all here"),
        Option("tls-cert", "", "text", "FILE", "Certificate, as PEM", complete="file"),
        Option("tls-key", "", "text", "FILE", "Its key, as PEM", complete="file"),
        Option("workers", "", "int", "N", "Processes; 0 is one a core, four at most"),
    ),
    examples=(
        ("orlop registry serve --root /srv/registry", "a registry for this machine, on port 5000"),
        ("orlop registry serve --addr :5000 --htpasswd users --tls-cert cert.pem --tls-key key.pem", "for others"),
    ),
)

USER_ADD = Command(
    run=_add_user,
    usage="NAME",
    options=(
        Option("htpasswd", "", "text", "FILE", "The password file; it is made if needed", complete="file"),
        *_PASSWORD_OPTIONS,
    ),
    least=1,
    most=1,
    examples=(("orlop registry user add --htpasswd users sailor", "asks for the password"),),
)

USER_RM = Command(
    run=_remove_user,
    usage="NAME...",
    options=(Option("htpasswd", "", "text", "FILE", "The password file", complete="file"),),
    least=1,
    most=None,
    examples=(("orlop registry user rm --htpasswd users sailor", "a running registry lets them in no more"),),
)
