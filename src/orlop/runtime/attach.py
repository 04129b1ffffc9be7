"""A client of a container's shim: joins a terminal, or three descriptors, to the program inside."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` would load enum: 3 ms of every `run`
import _socket
import os
import select

from orlop.errors import FailedPrecondition, Unavailable
from orlop.runtime import exit as exits
from orlop.runtime import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.runtime.records import ExitRecord

_READ_SIZE = 1 << 16
_PROXIED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT")


class DetachKeys:
    """Finds the key sequence that means "let go" in what is typed. Bytes in, (bytes to pass on, found) out."""

    def __init__(self, text: str) -> None:
        self._keys = b"".join(_key(name) for name in text.split(",") if name)
        self._seen = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of `data` is for the program, and whether the sequence is complete. A part of it is held back."""
        if not self._keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._seen]:
                self._seen += 1
                if self._seen == len(self._keys):
                    self._seen = 0
                    return bytes(passed), True
                continue
            passed += self._keys[: self._seen]
            self._seen = 1 if byte == self._keys[0] else 0
            if not self._seen:
                passed.append(byte)
        return bytes(passed), False


def _key(name: str) -> bytes:
    """One key of a sequence as docker writes it: a character, or ctrl- and a letter (or one of five signs)."""
    lowered = name.lower()
    if lowered.startswith("ctrl-") and len(lowered) == 6 and "@" <= lowered[5].upper() <= "_":
        return bytes((ord(lowered[5].upper()) & 0x1F,))
    if len(name) == 1 and name.isascii():
        return name.encode()
    raise FailedPrecondition(f"{name!r} is not a detach key", hint="e.g. ctrl-p,ctrl-q")


def connect(shim_dir: str) -> int:
    """A connection to the shim of a running container; Unavailable when nobody listens there."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        # a short path, however deep the folder lies: socket names have 108 bytes
        folder = os.open(shim_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{folder}/attach.sock")
        finally:
            os.close(folder)
    except OSError as error:
        sock.close()
        raise Unavailable(
            f"the container's monitor does not answer: {error.strerror}",
            hint="it may have ended just now, or its monitor was killed: see orlop ps -a",
        ) from error
    return sock.detach()


class Session:
    """One client's time with a container. Owns `fd`; the other descriptors stay the caller's.

    `terminal`: the program has one, so what is typed goes through raw. `settles`: this client promises to clean up
    after the end and to say so with `settled`.
    """

    def __init__(
        self,
        fd: int,
        *,
        stdin: int = -1,
        stdout: int = 1,
        stderr: int = 2,
        terminal: bool = False,
        detach_keys: str = "",
        proxy_signals: bool = False,
        settles: bool = False,
    ) -> None:
        self._fd = fd
        self._stdin = stdin
        self._outputs = {frames.STDOUT: stdout, frames.STDERR: stderr}
        self._terminal = terminal
        self._keys = DetachKeys(detach_keys if terminal else "")
        self._proxy = proxy_signals
        self._reader = frames.FrameReader()
        self._waiting = bytearray()
        os.set_blocking(fd, False)
        wants = frames.WANT_OUTPUT | (frames.WANT_STDIN if stdin >= 0 else 0)
        self._send(frames.hello(wants | (frames.WILL_SETTLE if settles else 0)))

    def _send(self, data: bytes) -> None:
        """Queue and send what goes now. Never blocks: the shim may be waiting for us to read."""
        self._waiting += data
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting[:_READ_SIZE])]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._waiting.clear()  # what it still has to say comes by reading

    def run(self) -> ExitRecord | None:
        """Pass everything on until the program ends: its exit record; None when the user detached.

        Unavailable when the shim goes away without a word.
        """
        raw = None
        if self._terminal and self._stdin >= 0 and os.isatty(self._stdin):
            from orlop.linux import terminal as terminals  # few programs have one

            raw = terminals.raw(self._stdin)
            self._resize()
        watch = Signals(self._proxy, resizes=self._terminal)
        try:
            return self._pass_on(watch)
        finally:
            watch.close()
            if raw is not None:
                from orlop.linux import terminal as terminals

                terminals.restore(self._stdin, raw)

    def _pass_on(self, watch: Signals) -> ExitRecord | None:
        typing = self._stdin >= 0
        while True:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN | (select.POLLOUT if self._waiting else 0))
            poll.register(watch.fd, select.POLLIN)
            if typing and len(self._waiting) < _READ_SIZE:
                poll.register(self._stdin, select.POLLIN)
            ready = dict(poll.poll())
            if watch.fd in ready:
                self._signalled(watch.taken())
            if self._stdin in ready:
                going = self._typed()
                if going is None:
                    self._flush()
                    return None
                typing = going
            if ready.get(self._fd, 0) & select.POLLOUT:
                self._send(b"")
            if ready.get(self._fd, 0) & ~select.POLLOUT and (ended := self._told()) is not None:
                return ended

    def _flush(self) -> None:
        """Send all that waits, however long it takes."""
        os.set_blocking(self._fd, True)
        self._send(b"")

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._resize()
            else:
                self._send(frames.encode(frames.SIGNAL, bytes((number,))))

    def _resize(self) -> None:
        from orlop.linux import terminal as terminals

        for fd in (self._stdin, self._outputs[frames.STDOUT]):
            if fd >= 0 and os.isatty(fd):
                self._send(frames.resize(*terminals.window_size(fd)))
                return

    def _typed(self) -> bool | None:
        """Pass input on: whether there may be more; None when it held the detach keys."""
        try:
            data = os.read(self._stdin, _READ_SIZE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._send(frames.encode(frames.CLOSE_STDIN))
            return False
        passed, detached = self._keys.feed(data)
        self._send(frames.encode_stream(frames.STDIN, passed))
        return None if detached else True

    def _told(self) -> ExitRecord | None:
        """Take what the shim sent; the exit record if that was in it."""
        try:
            data = os.read(self._fd, _READ_SIZE)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data = b""
        if not data:
            raise Unavailable(
                "the container's monitor is gone, so how the program ends cannot be known here",
                hint="see orlop ps -a; the program itself was not touched",
            )
        for kind, payload in self._reader.feed(data):
            if kind in self._outputs:
                write_all(self._outputs[kind], payload)
            elif kind == frames.EXIT:
                return exits.decode(payload)
            elif kind == frames.ERROR:
                raise Unavailable(f"the container's monitor says: {payload.decode(errors='replace')}")
        return None

    def settled(self) -> None:
        """Tell the shim that we have cleaned up: it need not run the exit command."""
        self._send(frames.encode(frames.SETTLED))
        self._flush()

    def hang_up(self) -> None:
        """Break the connection, from another thread too: `run` ends with Unavailable."""
        sock = _socket.socket(fileno=os.dup(self._fd))
        try:
            sock.shutdown(_socket.SHUT_RDWR)
        except OSError:
            return
        finally:
            sock.close()

    def close(self) -> None:
        """Close the connection. A shim that was promised to be settled, and was not told so, settles by itself."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def request_program(shim_dir: str, name: str, argv: list[str]) -> int:
    """Have the shim start `argv` beside the container, detached from everybody; its pid."""
    fd = connect(shim_dir)
    try:
        parts = [part.encode("utf-8", "surrogateescape") for part in (name, *argv)]
        os.write(fd, frames.hello() + frames.encode(frames.EXEC, b"\0".join(parts)))
        reader = frames.FrameReader()
        while data := os.read(fd, _READ_SIZE):
            for kind, payload in reader.feed(data):
                if kind == frames.OK:
                    return int(payload)
                if kind == frames.ERROR:
                    raise Unavailable(f"the container's monitor says: {payload.decode(errors='replace')}")
    finally:
        os.close(fd)
    raise Unavailable("the container's monitor went away", hint="see orlop ps -a")


def write_all(fd: int, data: bytes) -> None:
    """Write everything; an output that nobody reads any more is passed over, as docker does."""
    if fd < 0:
        return
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except BrokenPipeError:
            return


class Signals:
    """Signals as readable bytes on `fd`, where this thread may receive any."""

    RESIZED = signal.SIGWINCH

    def __init__(self, proxy: bool, *, resizes: bool) -> None:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: list[tuple[int, Any]] = []
        names = [*(_PROXIED if proxy else ()), *(("SIGWINCH",) if resizes else ())]
        try:
            self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        except ValueError:
            self._old_wakeup = None  # not the main thread: signals are somebody else's
            return
        for name in names:
            number = getattr(signal, name)
            self._before.append((number, signal.signal(number, lambda *_: None)))

    def taken(self) -> bytes:
        """The numbers that have come."""
        try:
            return os.read(self.fd, 64)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Everything as it was."""
        for number, handler in self._before:
            signal.signal(number, handler)
        if self._old_wakeup is not None:
            signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.fd)
        os.close(self._writer)
