"""One request and its answer, over ASGI: what handlers read from and write to."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from orlop.errors import Cancelled
from orlop.registry.server.replies import API_VERSION, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from typing import Any

    from orlop.registry.server.replies import Headers
    from orlop.registry.server.storage import Session

IDLE = 60.0
"""Seconds without a byte after which a request's body is given up."""

_PIECE = 1 << 20


class Disconnected(Cancelled):
    """The client went away in the middle of its request: there is nobody to answer."""


class Exchange:
    """A request that is being answered."""

    __slots__ = ("_query", "_receive", "_scope", "_send", "head", "name", "reference")

    def __init__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
        name: str,
        reference: str,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._query: dict[str, list[str]] | None = None
        self.name = name
        self.reference = reference
        self.head = scope["method"] == "HEAD"

    def header(self, name: bytes) -> bytes:
        """The value of a request header (lower-case `name`), b"" without it."""
        for key, value in self._scope["headers"]:
            if key == name:
                return bytes(value)
        return b""

    def query(self, key: str) -> str:
        """The first value of a query parameter, "" without it."""
        values = self.queries(key)
        return values[0] if values else ""

    def queries(self, key: str) -> list[str]:
        """All values of a query parameter."""
        if self._query is None:
            self._query = {}
            text = self._scope["query_string"]
            if text:
                try:
                    pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=100)
                except ValueError as error:
                    raise Refusal(400, "UNSUPPORTED", "the query cannot be understood") from error
                for name, value in pairs:
                    self._query.setdefault(name, []).append(value)
        return self._query.get(key, [])

    def length(self) -> int | None:
        """The body's Content-Length in bytes, None where the client did not say."""
        text = self.header(b"content-length")
        if not text:
            return None
        if not text.isdigit():
            raise Refusal(400, "SIZE_INVALID", "Content-Length is not a number")
        return int(text)

    @property
    def sends_paths(self) -> bool:
        """Whether the server below can send a whole file by itself."""
        return "http.response.pathsend" in (self._scope.get("extensions") or ())

    # Answers

    async def reply(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """Answer. `headers` say the content's length, also where `body` is empty because this is a HEAD request."""
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await self._send({"type": "http.response.body", "body": b"" if self.head else body})

    async def done(self, status: int, headers: Headers) -> None:
        """Answer without a body."""
        await self.reply(status, [*headers, (b"content-length", b"0"), API_VERSION])

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error."""
        body = refusal.body()
        length = (b"content-length", b"%d" % len(body))
        headers = [(b"content-type", b"application/json"), length, API_VERSION, *refusal.headers]
        await self.reply(refusal.status, headers, body)

    async def send_file(self, status: int, headers: Headers, path: str) -> None:
        """Answer with a whole file, sent by the server below."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.pathsend", "path": path})

    async def send_range(self, status: int, headers: Headers, path: str, start: int, size: int) -> None:
        """Answer with `size` bytes of a file, from byte `start`."""
        loop = asyncio.get_running_loop()
        with open(path, "rb", buffering=0) as file:  # opening takes 5 us; reading is in a thread
            file.seek(start)
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            while size > 0:
                piece = await loop.run_in_executor(None, file.read, min(size, _PIECE))
                if not piece:
                    raise EOFError(path)  # too late for an answer: the server below breaks the connection
                size -= len(piece)
                await self._send({"type": "http.response.body", "body": piece, "more_body": size > 0})

    # Bodies

    async def body(self, limit: int) -> bytes:
        """The whole body; a 413 if it has more than `limit` bytes."""
        length = self.length()
        pieces: list[bytes] = []
        total = 0
        if length is None or length <= limit:
            async for piece in self._pieces():
                pieces.append(piece)
                total += len(piece)
                if total > limit:
                    break
        if total > limit or (length or 0) > limit:
            raise Refusal(413, "SIZE_INVALID", f"more than {limit} bytes are not accepted here")
        return b"".join(pieces)

    async def body_into(self, session: Session) -> None:
        """Append the body to an upload: one thread hashes and writes a piece while the next one arrives.

        If the client goes away, what has arrived is kept and `Disconnected` is raised.
        """
        loop = asyncio.get_running_loop()
        job: asyncio.Future[None] | None = None
        pieces: list[bytes] = []
        held = 0
        try:
            async for piece in self._pieces():
                pieces.append(piece)
                held += len(piece)
                if held >= _PIECE:
                    job = await _after(job, loop, session, pieces)
                    pieces, held = [], 0
        finally:
            job = await _after(job, loop, session, pieces)
            if job is not None:
                await _finished(job)

    async def _pieces(self) -> _Pieces:
        """The body's pieces as they come; raises Disconnected if it ends before it is whole, or stalls."""
        expected = self.length()
        loop = asyncio.get_running_loop()
        got = 0
        try:
            async with asyncio.timeout(IDLE) as deadline:
                while True:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise Disconnected("the client went away")
                    piece = message.get("body", b"")
                    if piece:
                        got += len(piece)
                        yield piece
                    if not message.get("more_body", False):
                        break
                    deadline.reschedule(loop.time() + IDLE)
        except TimeoutError as error:
            raise Disconnected("the client stalled") from error
        if expected is not None and got != expected:
            raise Disconnected("the body is cut")


if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import TypeAlias

    _Pieces: TypeAlias = AsyncIterator[bytes]


async def _after(
    job: asyncio.Future[None] | None, loop: asyncio.AbstractEventLoop, session: Session, pieces: Sequence[bytes]
) -> asyncio.Future[None] | None:
    """Start writing `pieces` once the write before is done."""
    if job is not None:
        await _finished(job)
    return loop.run_in_executor(None, session.write, pieces) if pieces else None


async def _finished(job: asyncio.Future[None]) -> None:
    """Wait for a write in any case: its thread must not outlive the request's hold on the upload."""
    await asyncio.wait((job,))
    job.result()
