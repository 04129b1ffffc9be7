"""The attacker's tools: hostile images made byte by byte, and programs that are one system call."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import platform
import tarfile
from typing import TYPE_CHECKING, TypeAlias

from patience import until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from command import Orlop

Member: TypeAlias = tuple[tarfile.TarInfo, bytes]

_counter = itertools.count()
_saved: dict[tuple[str, str], bytes] = {}


def unique(word: str) -> str:
    """A name that no other test uses."""
    return f"{word}-{os.getpid()}-{next(_counter)}"


def file(name: str, data: bytes | str = b"", mode: int = 0o644) -> Member:
    """A regular file for a layer."""
    info = tarfile.TarInfo(name)
    info.mode = mode
    content = data.encode() if isinstance(data, str) else data
    info.size = len(content)
    return info, content


def folder(name: str, mode: int = 0o755) -> Member:
    """A directory for a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def link(name: str, target: str) -> Member:
    """A symbolic link for a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info, b""


def hard_link(name: str, target: str) -> Member:
    """A hard link for a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.LNKTYPE, target
    return info, b""


def device(name: str, kind: str, major: int, minor: int) -> Member:
    """A device node for a layer; `kind` is "c" or "b"."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.CHRTYPE if kind == "c" else tarfile.BLKTYPE
    info.devmajor, info.devminor, info.mode = major, minor, 0o666
    return info, b""


def fifo(name: str) -> Member:
    """A named pipe for a layer."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.FIFOTYPE
    return info, b""


def tar(*members: Member) -> bytes:
    """The members as one archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for info, data in members:
            writer.addfile(info, io.BytesIO(data))
    return out.getvalue()


def saved(orlop: Orlop, name: str) -> bytes:
    """`orlop save` of an image, once a session."""
    key = (str(orlop.folder), name)
    if key not in _saved:
        orlop("save", "-o", str(orlop.folder / "saved.tar"), name)
        _saved[key] = (orlop.folder / "saved.tar").read_bytes()
    return _saved[key]


def image_over(base: bytes, name: str, members: list[Member], config: dict[str, object]) -> bytes:
    """A docker archive: the layers of the archive `base`, one more of `members`, and `config` laid over its config."""
    with tarfile.open(fileobj=io.BytesIO(base)) as reader:
        read = {one.name: reader.extractfile(one).read() for one in reader if one.isfile()}  # type: ignore[union-attr]  # files have content
    (entry,) = json.loads(read["manifest.json"])
    document = json.loads(read[entry["Config"]])
    layers = [read[path] for path in entry["Layers"]]
    if members:
        layer = tar(*members)
        document["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(layer).hexdigest()}")
        layers.append(layer)
    document["config"] = {**document.get("config", {}), **config}
    document.pop("history", None)
    return archive(name, document, layers)


def archive(name: str, document: Mapping[str, object], layers: list[bytes]) -> bytes:
    """A docker archive of a config and layers, as they are, true or not."""
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [f"{name}:latest"], "Layers": names}]
    return tar(
        file("config.json", json.dumps(document)),
        *(file(path, layer) for path, layer in zip(names, layers, strict=True)),
        file("manifest.json", json.dumps(manifest)),
    )


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds, or fail with `what`."""
    until(condition, what)


# --- programs that make one system call and exit with its errno

_NUMBERS = {
    # x86_64, aarch64 (the kernel's syscall_64.tbl and asm-generic/unistd.h)
    "unshare": (272, 97),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "open_by_handle_at": (304, 265),
    "userfaultfd": (323, 282),
    "process_vm_writev": (311, 271),
    "quotactl": (179, 60),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "io_uring_setup": (425, 425),
    "clone": (56, 220),
    "ptrace": (101, 117),
    "syslog": (103, 116),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "personality": (135, 92),
}


def syscall_program(name: str, *arguments: int, data: bytes = b"") -> bytes:
    """A static ELF file that calls `name` with up to four small arguments and exits with the errno (0: it worked).

    The argument -1 stands for the address of `data`.
    """
    x86 = platform.machine() == "x86_64"
    number = _NUMBERS[name][0 if x86 else 1]
    base, headers = 0x400000, 64 + 56
    values = [0x400000 + headers + 128 if one == -1 else one for one in arguments]
    code = _x86_64(number, values) if x86 else _aarch64(number, values)
    body = code.ljust(128, b"\0") + data + b"\0"
    size = headers + len(body)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + _le(2, 2) + _le(62 if x86 else 183, 2) + _le(1, 4)
    header += _le(base + headers, 8) + _le(64, 8) + bytes(12) + _le(64, 2) + _le(56, 2) + _le(1, 2) + bytes(6)
    load = _le(1, 4) + _le(7, 4) + bytes(8) + _le(base, 8) * 2 + _le(size, 8) * 2 + _le(0x1000, 8)
    return header + load + body


def _le(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def _x86_64(number: int, values: list[int]) -> bytes:
    moves = {0: b"\xbf", 1: b"\xbe", 2: b"\xba", 3: b"\x41\xba"}  # edi, esi, edx, r10d
    code = b"".join(moves[at] + _le(value & 0xFFFFFFFF, 4) for at, value in enumerate(values))
    code += b"\xb8" + _le(number, 4) + b"\x0f\x05"
    # test rax, rax; jns over the neg -> 0; mov edi, eax; exit_group
    return code + bytes.fromhex("4885c0 7904 f7d8 eb02 31c0 89c7 b8e7000000 0f05")


def _aarch64(number: int, values: list[int]) -> bytes:
    def mov(register: int, value: int) -> list[int]:
        return [0xD2800000 | (value & 0xFFFF) << 5 | register, 0xF2A00000 | (value >> 16 & 0xFFFF) << 5 | register]

    words = [word for at, value in enumerate(values) for word in mov(at, value)] + mov(8, number) + [0xD4000001]
    # cmp x0, 0; cneg x0, x0, lt; csel x0, xzr, x0 where it was positive; exit_group
    words += [0xB6F80060, 0xCB0003E0, 0x14000002, 0xD2800000, *mov(8, 94), 0xD4000001]
    return b"".join(_le(word, 4) for word in words)
