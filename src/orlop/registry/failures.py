"""What can go wrong with a registry, said so that a person knows what to do next. No secret gets into a message."""

from __future__ import annotations

from orlop.errors import (
    InvalidArgument,
    NotFound,
    OrlopError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from orlop.oci.jsontext import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT_LIMIT = 300
_MISSING = ("MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND")

_EXPIRED = 10
_OTHER_NAME = (62, 64)
"""X509_V_ERR_CERT_HAS_EXPIRED, ..._HOSTNAME_MISMATCH and ..._IP_ADDRESS_MISMATCH (OpenSSL, x509_vfy.h)."""

_NOT_TLS = {"SSLError": ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")}
"""OpenSSL's reasons where the other side answers a handshake with something else."""


class Unreachable(Unavailable):
    """No answer from the registry: no network, no such host, nobody listening, TLS trouble."""


class Interrupted(Unavailable):
    """The connection broke, or the registry failed, in the middle of something that can be tried again."""


class NotFoundOrPrivate(Unauthenticated):
    """The registry wants credentials for it and there are none: it may not exist at all."""


class RateLimited(ResourceExhausted):
    """The registry wants fewer requests. `wait` is the seconds it asks for, 0 where it does not say."""

    wait = 0.0


class TooLarge(ResourceExhausted):
    """The registry, or a proxy before it, takes no body of this size."""


def redacted(url: str) -> str:
    """`url` without what could be secret: user and password, query, fragment."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    cut = min((at for at in (rest.find("?"), rest.find("#")) if at >= 0), default=len(rest))
    host, slash, path = rest[:cut].partition("/")
    host = host.rpartition("@")[2]
    return plain(f"{scheme}{separator}{host}{slash}{path}" + ("?..." if cut < len(rest) else ""))


def plain(text: str) -> str:
    """Somebody else's text, cut and without what a terminal would act on."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: _TEXT_LIMIT + 1])
    return shown if len(shown) <= _TEXT_LIMIT else shown[:_TEXT_LIMIT] + "..."


def said(body: bytes) -> tuple[str, str]:
    """The (code, message) of a registry's error body (spec.md, "Error Codes"); ("", "") where it has none."""
    try:
        value = loads(body, what="an error", limit=1 << 16)
        first = value["errors"][0]
        code, message = first.get("code", ""), first.get("message", "")
        detail = first.get("detail")
    except (InvalidArgument, KeyError, IndexError, TypeError, AttributeError):
        return "", ""
    if isinstance(detail, str) and detail and not message:
        message = detail
    return plain(str(code or "")), plain(str(message or ""))


def refused(
    status: int, body: bytes, headers: Mapping[str, str], *, what: str, registry: str, user: str, verb: str = "read"
) -> OrlopError:
    """The error for an answer that is not a success.

    `what` was asked for ("docker.io/library/x:1"), `user` is who we are logged in as ("" for nobody), `verb` what was
    to be done with it.
    """
    code, message = said(body)
    told = f" ({code}: {message})" if message else f" ({code})" if code else ""
    if status in (401, 403):
        return _denied(what, registry, user, verb, told)
    if status == 404:
        told = " (it has no such repository)" if code == "NAME_UNKNOWN" else "" if code in _MISSING else told
        hint = "" if user else f"if it is private, log in first: orlop login {registry}"
        return NotFound(f"{what} not found{told}", hint=hint)
    if status == 429:
        return _limited(headers, registry, user, told)
    if status == 413:
        return TooLarge(f"{registry} refuses a body of this size for {what}{told}")
    if status == 405 or code == "UNSUPPORTED":
        return Unimplemented(f"{registry} does not let anyone {verb} {what}{told}")
    if status == 507:
        return ResourceExhausted(f"{registry} is full{told}")
    if status >= 500:
        return Interrupted(f"{registry} failed with status {status}{told}", hint="it may work later")
    return InvalidArgument(f"{registry} refused to {verb} {what} with status {status}{told}")


def _denied(what: str, registry: str, user: str, verb: str, told: str) -> OrlopError:
    if not user:
        return NotFoundOrPrivate(
            f"{what} not found: or private and you are not logged in{told}", hint=f"orlop login {registry}"
        )
    return PermissionDenied(
        f"{user} may not {verb} {what}, or it does not exist{told}",
        hint=f"check the name, or log in as somebody else: orlop login {registry}",
    )


def _limited(headers: Mapping[str, str], registry: str, user: str, told: str) -> RateLimited:
    from time import time

    from orlop.registry.headers import seconds

    wait = seconds(headers.get("Retry-After", ""), time())
    hints = [] if user else [f"log in for a higher limit: orlop login {registry}"]
    if wait:
        hints.append(f"try again in {int(wait)} s")
    error = RateLimited(
        f"{registry} limits how many requests it answers{told}", hint="; ".join(hints) or "wait a while"
    )
    error.wait = wait or 0.0
    return error


def unreachable(error: BaseException, *, registry: str, url: str) -> Unreachable:
    """The error for a request that got no answer at all; `error` is urllib3's."""
    where = registry if registry in url else f"{registry} (at {redacted(url)})"
    causes = _causes(error)
    if any(type(cause).__name__ == "ProxyError" for cause in causes):
        return Unreachable(f"the proxy before {where} failed", hint="check HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
    for cause in causes:
        kind = type(cause).__name__  # by name, so that ssl (30 ms) is not imported where it was not used
        if kind in ("NameResolutionError", "gaierror"):
            return Unreachable(
                f"cannot find {where}: its name has no address", hint="check the spelling, and that there is a network"
            )
        if kind == "SSLCertVerificationError":
            return _untrusted(where, registry, getattr(cause, "verify_code", 0))
        if kind in _NOT_TLS and getattr(cause, "reason", "") in _NOT_TLS[kind]:
            return Unreachable(
                f"{where} does not speak TLS",
                hint=f"if it is meant to be plain HTTP, list it: ORLOP_INSECURE_REGISTRIES={registry}",
            )
        if kind == "ConnectionRefusedError":
            return Unreachable(f"{where} refuses connections: nothing listens there", hint="is the registry running?")
        if kind in ("ConnectTimeoutError", "TimeoutError"):
            return Unreachable(f"{where} does not answer", hint="check the network, and proxies (HTTPS_PROXY)")
    last = causes[-1]
    reason = last.strerror if isinstance(last, OSError) and last.strerror else type(last).__name__
    return Unreachable(f"cannot reach {where}: {plain(str(reason))}", hint="check the network")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what is inside it, innermost first."""
    found: list[BaseException] = []
    next_one: BaseException | None = error
    while next_one is not None and next_one not in found and len(found) < 10:
        found.append(next_one)
        inside = getattr(next_one, "reason", None)
        if not isinstance(inside, BaseException):
            inside = next((arg for arg in next_one.args if isinstance(arg, BaseException)), None)
        next_one = inside or next_one.__cause__ or next_one.__context__
    return found[::-1]


def _untrusted(where: str, registry: str, code: int) -> Unreachable:
    if code == _EXPIRED:
        return Unreachable(
            f"the certificate of {where} has expired", hint="check this machine's clock, or tell its owner"
        )
    if code in _OTHER_NAME:
        return Unreachable(f"the certificate of {where} is for another name", hint="use the name it was made for")
    return Unreachable(
        f"the certificate of {where} is not from an authority that this machine trusts",
        hint=f"make this machine trust its authority, or list it: ORLOP_INSECURE_REGISTRIES={registry}",
    )
