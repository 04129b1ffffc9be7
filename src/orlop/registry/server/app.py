"""The registry as an ASGI application: routes, authentication, and one place where errors become answers."""

from __future__ import annotations

import asyncio
import errno
import time
from functools import partial

from orlop.errors import OrlopError
from orlop.registry.server import handlers, pushes, routes
from orlop.registry.server.auth import Everyone
from orlop.registry.server.exchange import Disconnected, Exchange
from orlop.registry.server.replies import Refusal, method_not_allowed, name_invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from orlop.registry.server.auth import Passwords
    from orlop.registry.server.files import FileStorage

    Handler = Callable[[Exchange, Any], Awaitable[None]]

UPLOADS_EXPIRE = 7 * 24 * 3600.0
"""Seconds after which an upload that nobody writes to is forgotten."""

_PURGE_EVERY = 3600.0

_READ: dict[str, dict[str, Handler]] = {
    routes.BASE: {"GET": handlers.get_base, "HEAD": handlers.get_base},
    routes.CATALOG: {"GET": handlers.get_catalog, "HEAD": handlers.get_catalog},
    routes.MANIFEST: {"GET": handlers.get_manifest, "HEAD": handlers.get_manifest},
    routes.BLOB: {"GET": handlers.get_blob, "HEAD": handlers.get_blob},
    routes.TAGS: {"GET": handlers.get_tags, "HEAD": handlers.get_tags},
    routes.REFERRERS: {"GET": handlers.get_referrers, "HEAD": handlers.get_referrers},
}
_WRITE: dict[str, dict[str, Handler]] = {
    routes.MANIFEST: {"PUT": handlers.put_manifest, "DELETE": handlers.delete_manifest},
    routes.BLOB: {"DELETE": handlers.delete_blob},
    routes.UPLOADS: {"POST": pushes.post_upload},
    routes.UPLOAD: {
        "GET": pushes.get_upload,
        "PATCH": pushes.patch_upload,
        "PUT": pushes.put_upload,
        "DELETE": pushes.delete_upload,
    },
}


class Application:
    """The ASGI application over one storage.

    `read_only` refuses everything that changes content; `sparse` accepts manifests that refer to content that is not
    here (an index of which only one platform was mirrored).
    """

    def __init__(
        self,
        storage: FileStorage,
        guard: Passwords | Everyone | None = None,
        *,
        read_only: bool = False,
        sparse: bool = False,
    ) -> None:
        self._storage = storage
        self._guard = guard or Everyone()
        self._purged = 0.0
        self._table: dict[str, dict[str, Handler]] = {kind: dict(methods) for kind, methods in _READ.items()}
        self._read_only = read_only
        for kind, methods in _WRITE.items():
            self._table.setdefault(kind, {}).update(methods)
        if sparse:
            self._table[routes.MANIFEST]["PUT"] = partial(handlers.put_manifest, sparse=True)

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        kind, name, reference = routes.route(scope["path"])
        exchange = Exchange(scope, receive, send, name, reference)
        try:
            handler = self._handler(kind, scope["method"], name)
            pull = handler in _PULLS
            await self._guard.admit(exchange.header(b"authorization"), pull=pull)
            if not pull:
                self._purge_sometimes()
            await handler(exchange, self._storage)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except Disconnected:
            await exchange.refuse(Refusal(408, "BLOB_UPLOAD_INVALID", "the request's body is cut"))
        except OSError as error:
            await exchange.refuse(_broken(error))
        except OrlopError as error:
            await exchange.refuse(Refusal(500, "UNKNOWN", error.message))

    def _handler(self, kind: str, method: str, name: str) -> Handler:
        methods = self._table.get(kind)
        if methods is None:
            if kind == routes.INVALID_NAME:
                raise name_invalid(name)
            raise Refusal(404, "UNSUPPORTED", "there is nothing here; the registry is at /v2/")
        handler = methods.get(method)
        if handler is None:
            raise method_not_allowed(method, ", ".join(methods))
        if self._read_only and handler not in _READS:
            raise Refusal(405, "UNSUPPORTED", "this registry is read-only", headers=[(b"allow", b"GET, HEAD")])
        return handler

    def _purge_sometimes(self) -> None:
        """Once an hour, forget uploads that were given up."""
        now = time.monotonic()
        if now > self._purged + _PURGE_EVERY or not self._purged:
            self._purged = now
            asyncio.get_running_loop().run_in_executor(None, self._storage.purge, UPLOADS_EXPIRE)


_READS = frozenset(handler for methods in _READ.values() for handler in methods.values())
_PULLS = _READS - {handlers.get_base}
"""What anonymous clients may do where pulling is free. Not `/v2/`: clients learn there that they can log in."""


def _broken(error: OSError) -> Refusal:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refusal(507, "DENIED", "the registry's disk is full")
    if error.errno == errno.ENAMETOOLONG:
        return Refusal(400, "NAME_INVALID", "the name is too long")
    return Refusal(500, "UNKNOWN", f"the registry's disk failed ({errno.errorcode.get(error.errno or 0, 'EIO')})")
