"""One blob on its way here, over as many connections as it takes."""

from __future__ import annotations

from orlop.errors import ContentMismatch
from orlop.registry import failures
from orlop.registry.transport import PIECE, Request, Transport, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3 import BaseHTTPResponse

    from orlop.oci.descriptor import Descriptor

_RECONNECTIONS = 200
"""For one blob in all; a registry that sends a byte a connection gets no further."""


class Download:
    """The bytes of `descriptor` from `offset` on. `path` is where, below the registry or as a whole URL."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        scopes: tuple[str, ...],
        descriptor: Descriptor,
        offset: int,
        *,
        repository: str,
    ) -> None:
        self._transport = transport
        self._path = path
        self._scopes = scopes
        self._descriptor = descriptor
        self._position = offset
        self._repository = repository
        self._skip = 0
        self._ended = False
        self._response: BaseHTTPResponse | None = None

    def opened(self) -> Download:
        """Itself, with the registry's answer there: whatever it refuses is raised here."""
        self._open()
        return self

    def _open(self) -> None:
        size, position = self._descriptor.size, self._position
        self._skip, self._ended = 0, False
        if position and position == size:
            return
        headers = {"Range": f"bytes={position}-"} if position else {}
        response = self._transport.request(Request(method="GET", path=self._path, scopes=self._scopes, headers=headers))
        if response.status not in (200, 206):
            body = read(response)
            raise failures.refused(
                response.status,
                body,
                response.headers,
                what=f"blob {self._descriptor.digest} of {self._repository}",
                registry=self._transport.registry,
                user=self._transport.user,
            )
        left = size - position
        if response.status == 200:  # no Range was wanted, or it was ignored
            self._skip, left = position, size
        elif response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0] != str(position):
            response.close()
            raise failures.Interrupted(f"{self._transport.registry} sent another part of the blob than was asked for")
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != left:
            response.close()
            raise ContentMismatch(
                wanted=f"{self._descriptor.digest} with {size} bytes", got=f"one with {int(length) - left + size} bytes"
            )
        self._response = response

    def pieces(self) -> Iterator[bytes]:
        """What is left, in pieces of at most 1 MiB, and never more than the descriptor's size."""
        attempt = 0
        for _ in range(_RECONNECTIONS):
            before = self._position
            try:
                if self._response is None:
                    self._open()
                yield from self._stream()
            except (failures.Interrupted, failures.Unreachable):
                attempt = 1 if self._position > before else attempt + 1
                if attempt >= self._transport.attempts:
                    raise
                self.close()
                self._transport.pause(attempt)
                continue
            return
        raise failures.Interrupted(
            f"{self._transport.registry} broke the connection {_RECONNECTIONS} times for blob {self._descriptor.digest}"
        )

    def _stream(self) -> Iterator[bytes]:
        response = self._response
        if response is None:  # nothing was left to fetch
            return
        while True:
            left = self._descriptor.size - self._position
            piece = self._read(response, min(PIECE, self._skip or left + 1))
            if not piece:
                break
            if self._skip:
                self._skip -= len(piece)
                continue
            if len(piece) > left:
                raise ContentMismatch(
                    wanted=f"{self._descriptor.digest} with {self._descriptor.size} bytes", got="a longer one"
                )
            self._position += len(piece)
            yield piece
        self._ended = True
        if self._position < self._descriptor.size:
            raise failures.Interrupted(f"{self._transport.registry} ended the blob too early")

    def _read(self, response: BaseHTTPResponse, amount: int) -> bytes:
        from urllib3 import exceptions

        try:
            return response.read(amount, decode_content=False)
        except (exceptions.HTTPError, OSError) as error:
            raise failures.Interrupted(
                f"the connection to {self._transport.registry} broke in the middle of blob {self._descriptor.digest}",
                hint="retry: what has arrived is kept",
            ) from error

    def close(self) -> None:
        """Let go of the connection. It is used again if the whole body was read."""
        response, self._response = self._response, None
        if response is not None:
            if not self._ended:
                response.close()
            response.release_conn()
