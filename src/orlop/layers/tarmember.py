"""The headers of one tar member, put together: extended ones first, then the real one.

Takes every dialect in the wild: old v7, ustar, pax (extended and global headers, all three sparse formats), GNU (long
names, old sparse format, base-256 numbers) and star.
"""

from __future__ import annotations

from orlop.layers import tarformat as form
from orlop.layers.tarentry import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, NO_XATTRS, SYMLINK, Entry
from orlop.layers.tarformat import BLOCK, HEADER, BadTar, HeaderTooLarge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.layers.tarentry import Tape

_KINDS = {
    b"\0": FILE,
    b"0": FILE,
    b"1": HARDLINK,
    b"2": SYMLINK,
    b"3": CHAR,
    b"4": BLOCK_DEVICE,
    b"5": DIRECTORY,
    b"6": FIFO,
    b"7": FILE,  # "contiguous"
    b"D": DIRECTORY,  # GNU incremental: the data are a list of names, skipped
    b"S": FILE,  # GNU sparse
}
_META = b"xXgLK"
_XATTR_KEYS = ("SCHILY.xattr.", "LIBARCHIVE.xattr.")


def end_of_archive(tape: Tape, offset: int) -> None:
    """Check what follows the first block of zeros, which lay at `offset`, and consume the rest of the stream."""
    block = tape.block()
    if block and block != form.ZEROS:
        raise BadTar("one block of zeros, then something else", offset=offset)
    tape.drain()


class Member:
    """One member's headers being put together: extended ones first, then the real one."""

    __slots__ = ("block", "link", "name", "offset", "pax", "records", "shared", "tape")

    def __init__(self, tape: Tape, offset: int, block: bytes, shared: dict[str, bytes]) -> None:
        self.tape = tape
        self.offset = offset
        self.block = block
        self.shared = shared
        self.name: str | None = None  # GNU long name and link
        self.link: str | None = None
        self.pax: dict[str, bytes] = shared
        self.records: list[tuple[str, bytes]] = []

    def entry(self) -> Entry | None:
        """The member; None when only global headers were left before the end."""
        block = self.block
        extended = False
        while block[156] in _META:
            self._verify(block)
            extended = self._extend(block) or extended
            block = self.tape.block()
            if not block or block == form.ZEROS:
                if extended:
                    raise BadTar("an extended header describes no entry", offset=self.offset)
                if block:
                    end_of_archive(self.tape, self.offset)
                return None
        self._verify(block)
        self.block = block
        try:
            return self._build()
        except ValueError as error:
            raise BadTar(f"a field cannot be read ({error})", offset=self.offset) from error

    def _verify(self, block: bytes) -> None:
        if not form.checksum_fits(block):
            raise BadTar("a header's checksum does not fit", offset=self.tape.offset - BLOCK)

    def _extend(self, block: bytes) -> bool:
        """Take in one extended header; True when it belongs to the next entry alone."""
        tape = self.tape
        try:
            size = form.number(block[124:136])
        except ValueError as error:
            raise BadTar(f"a field cannot be read ({error})", offset=tape.offset - BLOCK) from error
        if not 0 <= size <= form.MAX_EXTENDED:
            raise HeaderTooLarge(f"an extended header of {size} bytes", offset=tape.offset - BLOCK)
        at = tape.offset
        data = tape.take(size)
        tape.skip(-size % BLOCK)
        kind = block[156]
        if kind == 0x4C:  # L
            self.name = form.text(data)
        elif kind == 0x4B:  # K
            self.link = form.text(data)
        else:
            records = form.pax_records(data, offset=at)
            if kind == 0x67:  # g
                self._merge(self.shared, records)
                if self.pax is not self.shared:
                    self.pax = {**self.shared, **self.pax}
                return False
            self.records += records
            if self.pax is self.shared:
                self.pax = dict(self.shared)
            self._merge(self.pax, records)
        return True

    @staticmethod
    def _merge(into: dict[str, bytes], records: list[tuple[str, bytes]]) -> None:
        for key, value in records:
            if value or key.startswith(_XATTR_KEYS):
                into[key] = value
            else:
                into.pop(key, None)  # an empty value takes an earlier one back

    def _build(self) -> Entry:
        block = self.block
        (name, mode, uid, gid, size, mtime, _, flag, link, magic, uname, gname, major, minor, prefix, rest) = (
            HEADER.unpack(block)
        )
        kind = _KINDS.get(flag)
        if kind is None:
            raise BadTar(f"an entry of the unknown type {flag!r}", offset=self.offset)
        number, text = form.number, form.text
        entry = Entry(
            text(name),
            kind,
            mode=number(mode) & 0o7777,
            uid=number(uid),
            gid=number(gid),
            size=number(size),
            mtime=number(mtime) * 1_000_000_000,
            link=text(link) if kind in {HARDLINK, SYMLINK} else "",
        )
        entry.offset = self.offset
        if magic[:5] == b"ustar":
            self._ustar(entry, (magic, uname, gname, prefix, rest))
            if kind in {CHAR, BLOCK_DEVICE}:
                entry.major, entry.minor = number(major), number(minor)
        if self.name is not None:
            entry.name = self.name
        if self.link is not None:
            entry.link = self.link
        if self.pax:
            self._apply_pax(entry)
        self._settle(entry, flag)
        return entry

    def _ustar(self, entry: Entry, fields: tuple[bytes, bytes, bytes, bytes, bytes]) -> None:
        magic, uname, gname, prefix, rest = fields
        entry.uname, entry.gname = form.text(uname), form.text(gname)
        if not prefix[0]:
            return
        if magic == form.MAGIC_GNU:
            # GNU keeps times here. Go before 1.9 wrote a prefix all the same, and such layers are still around.
            head = prefix[:12].strip(b" \0")
            if prefix[0] & 0x80 or head.isdigit():
                return
        elif rest[8:] == b"tar\0":
            prefix = prefix[:131]  # star keeps two times behind a shorter prefix
        entry.name = f"{form.text(prefix)}/{entry.name}"

    def _apply_pax(self, entry: Entry) -> None:
        for key, value in self.pax.items():
            if key in {"path", "linkpath", "uname", "gname"}:
                if b"\0" in value:
                    raise ValueError(f"{key} holds a NUL")
                shown = value.decode("utf-8", "surrogateescape")
                if key == "path":
                    entry.name = shown
                elif key == "linkpath":
                    entry.link = shown if entry.kind in {HARDLINK, SYMLINK} else ""
                else:
                    setattr(entry, key, shown)
            elif key == "mtime":
                entry.mtime = form.pax_time(value)
            elif key in {"size", "uid", "gid"}:
                setattr(entry, key, form.pax_number(value))
            elif key.startswith(_XATTR_KEYS):
                self._xattr(entry, key, value)

    def _xattr(self, entry: Entry, key: str, value: bytes) -> None:
        if key[0] == "L":
            import base64  # bsdtar's own spelling, rare
            from urllib.parse import unquote  # same

            name = unquote(key[17:], errors="surrogateescape")
            value = base64.b64decode(value + b"=" * (-len(value) % 4))
        else:
            name = key[13:]
        if not name or len(name) > form.MAX_XATTR_NAME or len(value) > form.MAX_XATTR_VALUE:
            raise HeaderTooLarge(f"the extended attribute {name[:64]!r} of {len(value)} bytes", offset=self.offset)
        if entry.xattrs is NO_XATTRS:
            entry.xattrs = {}
        entry.xattrs.setdefault(name, value) if key[0] == "L" else entry.xattrs.__setitem__(name, value)

    def _settle(self, entry: Entry, flag: bytes) -> None:
        """What depends on several headers: real size, sparse maps, stored length, the kind of odd old entries."""
        if not 0 <= entry.size <= form.MAX_NUMBER:
            raise BadTar(f"an entry of {entry.size} bytes", offset=self.offset)
        entry.stored = entry.size
        if entry.kind == FILE:
            if flag == b"\0" and entry.name.endswith("/"):
                entry.kind = DIRECTORY  # as before POSIX there was no type for them
            elif flag == b"S":
                self._gnu_sparse(entry)
            elif b"GNU.sparse" in b"".join(key.encode("utf-8", "replace") for key in self.pax):
                self._pax_sparse(entry)
        if entry.kind != FILE:
            entry.size = 0
            if entry.kind != DIRECTORY:
                # Links, devices and fifos carry no data, whatever size is stated (star gives links the file's).
                entry.stored = 0
        if len(entry.name) > 1:
            entry.name = entry.name.rstrip("/") or "/"
        for name in (entry.name, entry.link):
            if len(name) > form.MAX_NAME:
                raise HeaderTooLarge(f"a name of {len(name)} characters", offset=self.offset)

    def _gnu_sparse(self, entry: Entry) -> None:
        block = self.block
        found = form.gnu_sparse_entries(block[386:482], 4)
        more = block[482]
        while more:
            area = self.tape.take(BLOCK)
            found += form.gnu_sparse_entries(area, 21)
            more = area[504]
            if len(found) > form.MAX_EXTENDED // 24:
                raise HeaderTooLarge("a sparse map without end", offset=self.offset)
        entry.size = form.number(block[483:495])
        entry.extents = form.checked_extents(found, size=entry.size, stored=entry.stored, offset=self.offset)

    def _pax_sparse(self, entry: Entry) -> None:
        pax = self.pax
        if pax.get("GNU.sparse.major") == b"1" and pax.get("GNU.sparse.minor") == b"0":
            found: list[tuple[int, int]] | None = self._inline_map(entry)
        else:
            found = form.pax_sparse_map(self.records)
        if found is None:
            return
        size = pax.get("GNU.sparse.realsize", pax.get("GNU.sparse.size"))
        if size is None:
            raise BadTar("a sparse file without its real size", offset=self.offset)
        name = pax.get("GNU.sparse.name")
        if name:
            if b"\0" in name:
                raise ValueError("a name holds a NUL")
            entry.name = name.decode("utf-8", "surrogateescape")
        entry.size = form.pax_number(size)
        entry.extents = form.checked_extents(found, size=entry.size, stored=entry.stored, offset=self.offset)

    def _inline_map(self, entry: Entry) -> list[tuple[int, int]]:
        """Format 1.0: the map precedes the data, as decimal lines padded to a block."""
        text = b""
        wanted = -1
        while wanted < 0 or text.count(b"\n") < wanted:
            if len(text) > form.MAX_EXTENDED:
                raise HeaderTooLarge("a sparse map without end", offset=self.offset)
            if entry.stored < BLOCK:
                raise BadTar("a sparse map longer than its entry", offset=self.offset)
            text += self.tape.take(BLOCK)
            entry.stored -= BLOCK
            if wanted < 0 and b"\n" in text:
                wanted = 1 + 2 * form.pax_number(text[: text.index(b"\n")])
        numbers = [form.pax_number(line) for line in text.split(b"\n")[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))
