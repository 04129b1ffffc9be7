"""Images by namespace: what they are, and the names that point at them."""

from __future__ import annotations

from orlop.errors import InvalidArgument, NotFound
from orlop.oci import jsontext
from orlop.oci.digest import HEX, Digest
from orlop.oci.reference import Reference
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.store.database import Database, Row

_COLUMNS = "namespace, manifest, config, media_type, platform, created, size, layers, config_json"
SHOWN_CANDIDATES = 8
"""How many of the things that an ambiguous prefix may mean are listed."""


class LayerRef(Value):
    """One layer of an image: what it is unpacked, and the blob that it is packed."""

    diff_id: Digest
    digest: Digest
    size: int  # bytes of the blob
    media_type: str


class ImageRecord(Value):
    """One image for one platform. `layers` go from the lowest up; `config_json` is the whole image configuration."""

    namespace: str
    manifest: Digest
    config: Digest
    media_type: str  # the manifest's
    platform: str  # "linux/amd64"
    created: str  # RFC 3339
    size: int  # bytes unpacked
    layers: tuple[LayerRef, ...]
    config_json: dict[str, Any]


class Images:
    """The tables of images and names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, record: ImageRecord) -> None:
        """Record an image, replacing what was known of the same manifest. All its content must be kept already."""
        layers = [[layer.diff_id, layer.digest, layer.size, layer.media_type] for layer in record.layers]
        row = (
            record.namespace,
            record.manifest,
            record.config,
            record.media_type,
            record.platform,
            record.created,
            record.size,
            jsontext.dumps(layers).decode(),
            jsontext.dumps(record.config_json).decode(),
        )
        self._database.execute(
            f"INSERT INTO images ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # constants only
            " ON CONFLICT (namespace, manifest) DO UPDATE SET config = excluded.config, platform = excluded.platform,"
            " media_type = excluded.media_type, created = excluded.created, size = excluded.size,"
            " layers = excluded.layers, config_json = excluded.config_json",
            row,
        )

    def get(self, namespace: str, manifest: str) -> ImageRecord | None:
        """The image with this manifest, or None."""
        row = self._database.one(
            f"SELECT {_COLUMNS} FROM images WHERE namespace = ? AND manifest = ?",  # noqa: S608  # constants only
            (namespace, manifest),
        )
        return None if row is None else _record(row)

    def find(self, namespace: str, text: str) -> ImageRecord:
        """The image that `text` means to docker: a name, or the beginning of an id (config or manifest digest).

        A name wins over an id. NotFound; InvalidArgument, listing the candidates, if a prefix fits several images.
        """
        return self.match(namespace, text)[0]

    def match(self, namespace: str, text: str) -> tuple[ImageRecord, bool]:
        """As `find`, and whether it was found by its id (else by a name)."""
        prefix = text.removeprefix("sha256:")
        is_id = bool(prefix) and not prefix.strip(HEX) and len(prefix) <= 64
        if prefix != text:
            if not is_id:
                raise InvalidArgument(
                    f"{text!r} is not an image's id", hint="an id is hexadecimal digits after sha256:"
                )
        elif not (is_id and len(text) == 64):
            found = self._by_name(namespace, text)
            if found is not None:
                return found, False
        if is_id:
            found = self._by_prefix(namespace, text, prefix)
            if found is not None:
                return found, True
        raise NotFound(f"there is no image {text}", hint="see `orlop images`, or fetch it with `orlop pull`")

    def all(self, namespace: str) -> list[ImageRecord]:
        """All images of a namespace."""
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM images WHERE namespace = ?",  # noqa: S608  # constants only
            (namespace,),
        )
        return [_record(row) for row in rows]

    def delete(self, namespace: str, manifest: str) -> bool:
        """Forget an image and all its names; whether there was one. Its content goes with the next collection."""
        return (
            self._database.execute("DELETE FROM images WHERE namespace = ? AND manifest = ?", (namespace, manifest)) > 0
        )

    def tag(self, namespace: str, reference: str, manifest: str) -> None:
        """Point a name (`str(Reference)`) at an image, wherever it pointed before; NotFound without such an image."""
        with self._database.writing() as transaction:
            there = transaction.one("SELECT 1 FROM images WHERE namespace = ? AND manifest = ?", (namespace, manifest))
            if there is None:
                raise NotFound(f"there is no image {manifest}", hint="it was removed meanwhile: pull or build it again")
            transaction.execute(
                "INSERT INTO names VALUES (?, ?, ?) ON CONFLICT (namespace, reference)"
                " DO UPDATE SET manifest = excluded.manifest",
                (namespace, reference, manifest),
            )

    def untag(self, namespace: str, reference: str) -> bool:
        """Forget a name; whether it was one. The image stays."""
        return (
            self._database.execute("DELETE FROM names WHERE namespace = ? AND reference = ?", (namespace, reference))
            > 0
        )

    def names(self, namespace: str) -> list[tuple[str, Digest]]:
        """All names of a namespace with the manifests they point at, in order."""
        rows = self._database.query(
            "SELECT reference, manifest FROM names WHERE namespace = ? ORDER BY reference", (namespace,)
        )
        return [(reference, Digest.parse(manifest)) for reference, manifest in rows]

    def names_of(self, namespace: str, manifest: str) -> list[str]:
        """The names that point at one image, in order."""
        rows = self._database.query(
            "SELECT reference FROM names WHERE namespace = ? AND manifest = ? ORDER BY reference", (namespace, manifest)
        )
        return [reference for (reference,) in rows]

    def _by_name(self, namespace: str, text: str) -> ImageRecord | None:
        try:
            reference = Reference.parse(text)
        except InvalidArgument:
            if not text or text.strip(HEX):
                raise
            return None
        row = self._database.one(
            "SELECT manifest FROM names WHERE namespace = ? AND reference = ?", (namespace, str(reference))
        )
        if row is not None:
            return self.get(namespace, row[0])
        if reference.digest is None:
            return None
        # name:tag@digest means the digest; any name of that repository may hold it.
        plain = reference.replace(tag="")
        row = self._database.one(
            "SELECT manifest FROM names WHERE namespace = ? AND (reference = ? OR manifest = ? AND"
            " substr(reference, 1, ?) IN (?, ?))",
            (
                *(namespace, str(plain), reference.digest),
                *(len(reference.name) + 1, f"{reference.name}:", f"{reference.name}@"),
            ),
        )
        return None if row is None else self.get(namespace, row[0])

    def _by_prefix(self, namespace: str, text: str, prefix: str) -> ImageRecord | None:
        low, high = f"sha256:{prefix}", f"sha256:{prefix}g"
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM images WHERE namespace = ? AND config >= ? AND config < ?"  # noqa: S608  # same
            f" UNION SELECT {_COLUMNS} FROM images WHERE namespace = ? AND manifest >= ? AND manifest < ?",
            (namespace, low, high) * 2,
        )
        if not rows:
            return None
        # Two manifests of one config (packed differently) are one image to a user.
        configs = sorted({row[2] for row in rows})
        if len(configs) > 1:
            shown = ", ".join(config[7:19] for config in configs[:SHOWN_CANDIDATES])
            more = f" and {len(configs) - SHOWN_CANDIDATES} more" if len(configs) > SHOWN_CANDIDATES else ""
            raise InvalidArgument(
                f"{text} is the beginning of {len(configs)} images' ids: {shown}{more}", hint="give more digits"
            )
        return _record(rows[0])


def _record(row: Row) -> ImageRecord:
    return ImageRecord(
        namespace=row[0],
        manifest=Digest.parse(row[1]),
        config=Digest.parse(row[2]),
        media_type=row[3],
        platform=row[4],
        created=row[5],
        size=row[6],
        layers=tuple(
            LayerRef(diff_id=Digest.parse(diff_id), digest=Digest.parse(digest), size=size, media_type=media_type)
            for diff_id, digest, size, media_type in jsontext.loads(row[7], what="an image's record")
        ),
        config_json=jsontext.loads(row[8], what="an image's record", limit=1 << 30),
    )
