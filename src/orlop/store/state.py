"""state.db: what must not be lost. Each kind of record has its module; this one has the tables and the way to them."""

from __future__ import annotations

from orlop.store.database import Database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.store.containers import Containers
    from orlop.store.database import Transaction
    from orlop.store.images import Images
    from orlop.store.layers import Layers
    from orlop.store.networks import Networks
    from orlop.store.pins import Pins
    from orlop.store.snapshots import Snapshots
    from orlop.store.volumes import Volumes

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE images (
            namespace TEXT NOT NULL, manifest TEXT NOT NULL, config TEXT NOT NULL, media_type TEXT NOT NULL,
            platform TEXT NOT NULL, created, size INTEGER NOT NULL, layers TEXT NOT NULL, config_json TEXT NOT NULL,
            PRIMARY KEY (namespace, manifest)) WITHOUT ROWID""",
        "CREATE INDEX images_by_config ON images (namespace, config)",
        """CREATE TABLE names (
            namespace TEXT NOT NULL, reference TEXT NOT NULL, manifest TEXT NOT NULL,
            PRIMARY KEY (namespace, reference),
            FOREIGN KEY (namespace, manifest) REFERENCES images ON DELETE CASCADE) WITHOUT ROWID""",
        "CREATE INDEX names_by_manifest ON names (namespace, manifest)",
        """CREATE TABLE layers (
            key TEXT PRIMARY KEY, short TEXT NOT NULL UNIQUE, diff_id TEXT NOT NULL, chained INTEGER NOT NULL,
            size INTEGER NOT NULL, boot_id TEXT NOT NULL, settled INTEGER NOT NULL) WITHOUT ROWID""",
        """CREATE TABLE snapshots (
            key TEXT PRIMARY KEY, short TEXT NOT NULL UNIQUE, layers TEXT NOT NULL, owner TEXT NOT NULL)
            WITHOUT ROWID""",
        """CREATE TABLE containers (
            id TEXT PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, image TEXT NOT NULL,
            image_name TEXT NOT NULL, sandbox TEXT NOT NULL, created, labels TEXT NOT NULL, config TEXT NOT NULL,
            state TEXT NOT NULL, UNIQUE (namespace, name)) WITHOUT ROWID""",
        """CREATE TABLE volumes (
            namespace TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL,
            PRIMARY KEY (namespace, name)) WITHOUT ROWID""",
        """CREATE TABLE networks (
            namespace TEXT NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL,
            PRIMARY KEY (namespace, name)) WITHOUT ROWID""",
        """CREATE TABLE addresses (
            network TEXT NOT NULL, address TEXT NOT NULL, owner TEXT NOT NULL,
            PRIMARY KEY (network, address)) WITHOUT ROWID""",
        "CREATE INDEX addresses_by_owner ON addresses (owner)",
        """CREATE TABLE pins (
            namespace TEXT NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, used REAL NOT NULL,
            PRIMARY KEY (namespace, owner, kind, key)) WITHOUT ROWID""",
    ),
)


class State:
    """The tables of state.db. Opened when first used."""

    def __init__(self, path: str) -> None:
        self.database = Database(path, MIGRATIONS, durable=True)
        self._tables: dict[str, Any] = {}

    @property
    def images(self) -> Images:
        """Images and their names."""
        return self._table("images", "Images")  # type: ignore[no-any-return]  # _table makes what it is asked for

    @property
    def layers(self) -> Layers:
        """Unpacked layers."""
        return self._table("layers", "Layers")  # type: ignore[no-any-return]  # same

    @property
    def snapshots(self) -> Snapshots:
        """Writable trees."""
        return self._table("snapshots", "Snapshots")  # type: ignore[no-any-return]  # same

    @property
    def containers(self) -> Containers:
        """Containers."""
        return self._table("containers", "Containers")  # type: ignore[no-any-return]  # same

    @property
    def volumes(self) -> Volumes:
        """Named volumes."""
        return self._table("volumes", "Volumes")  # type: ignore[no-any-return]  # same

    @property
    def networks(self) -> Networks:
        """Networks, and who has which address in them."""
        return self._table("networks", "Networks")  # type: ignore[no-any-return]  # same

    @property
    def pins(self) -> Pins:
        """What a cache wants kept though no image or container needs it."""
        return self._table("pins", "Pins")  # type: ignore[no-any-return]  # same

    def writing(self) -> Transaction:
        """Several changes as one: all of them or none, and one wait for the disk instead of many."""
        return self.database.writing()

    def _table(self, module: str, name: str) -> Any:
        table = self._tables.get(module)
        if table is None:
            # A command loads only the tables it uses.
            found = __import__(f"orlop.store.{module}", fromlist=(name,))
            table = self._tables[module] = getattr(found, name)(self.database)
        return table
