"""Containers: what was asked for (`config`) and what became of it (`state`)."""

from __future__ import annotations

from orlop.errors import AlreadyExists, InvalidArgument, NotFound
from orlop.oci import jsontext
from orlop.oci.digest import HEX
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.store.database import Database, Row

_COLUMNS = "id, namespace, name, image, image_name, sandbox, created, labels, config, state"
_SHOWN = 8
_LIMIT = 1 << 30  # bytes; what we wrote ourselves is not hostile


class ContainerRecord(Value):
    """One container. `config` and `state` are JSON objects whose shape is the engine's; read-only by agreement."""

    id: str  # 64 hexadecimal digits
    namespace: str
    name: str
    image: str  # the manifest's digest
    image_name: str  # as the user wrote it
    sandbox: str  # the pod sandbox's id, "" for none
    created: int  # Unix nanoseconds
    labels: dict[str, str]
    config: dict[str, Any]
    state: dict[str, Any]


class Containers:
    """The table of containers. Names are unique in a namespace, ids everywhere."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: ContainerRecord) -> None:
        """Record a new container; AlreadyExists if its name or its id is taken."""
        with self._database.writing() as transaction:
            self._check_free(record.namespace, record.name)
            if transaction.one("SELECT 1 FROM containers WHERE id = ?", (record.id,)) is not None:
                raise AlreadyExists(f"there is a container {record.id} already")
            transaction.execute(
                f"INSERT INTO containers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # constants
                (
                    record.id,
                    record.namespace,
                    record.name,
                    record.image,
                    record.image_name,
                    record.sandbox,
                    record.created,
                    jsontext.dumps(record.labels).decode(),
                    jsontext.dumps(record.config).decode(),
                    jsontext.dumps(record.state).decode(),
                ),
            )

    def get(self, id: str) -> ContainerRecord | None:  # noqa: A002  # the specification's word
        """The container with this full id, or None."""
        row = self._database.one(
            f"SELECT {_COLUMNS} FROM containers WHERE id = ?",  # noqa: S608  # constants only
            (id,),
        )
        return None if row is None else _record(row)

    def find(self, namespace: str, text: str) -> ContainerRecord:
        """The container that `text` means to docker: a full id, a name, or the beginning of an id.

        NotFound; InvalidArgument, listing the candidates, if a prefix fits several.
        """
        select = f"SELECT {_COLUMNS} FROM containers WHERE namespace = ?"  # noqa: S608  # constants only
        for where in (" AND id = ?", " AND name = ?"):
            row = self._database.one(select + where, (namespace, text.removeprefix("/")))
            if row is not None:
                return _record(row)
        if text and not text.strip(HEX):
            rows = self._database.query(f"{select} AND id >= ? AND id < ?", (namespace, text, text + "g"))
            if len(rows) == 1:
                return _record(rows[0])
            if rows:
                shown = ", ".join(f"{row[0][: max(12, len(text) + 1)]} ({row[2]})" for row in rows[:_SHOWN])
                more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
                raise InvalidArgument(
                    f"{text} is the beginning of {len(rows)} containers' ids: {shown}{more}", hint="give more digits"
                )
        raise NotFound(f"there is no container {text}", hint="see `orlop ps -a`")

    def all(self, namespace: str = "", *, sandbox: str = "") -> list[ContainerRecord]:
        """All containers of a namespace ("": of all), oldest first; with `sandbox` those in that pod."""
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM containers WHERE (:namespace = '' OR namespace = :namespace)"  # noqa: S608  # constants only
            " AND (:sandbox = '' OR sandbox = :sandbox) ORDER BY created, id",
            {"namespace": namespace, "sandbox": sandbox},
        )
        return [_record(row) for row in rows]

    def update_state(self, id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> ContainerRecord:  # noqa: A002
        """Replace the state by what `change` makes of it, with nobody else in between; returns the new record.

        `change` must not touch the store: it runs inside the transaction. NotFound if the container is gone.
        """
        with self._database.writing() as transaction:
            record = self._get(id)
            state = change(dict(record.state))
            transaction.execute(
                "UPDATE containers SET state = ? WHERE id = ?", (jsontext.dumps(state).decode(), record.id)
            )
        return record.replace(state=state)

    def update_config(self, id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> ContainerRecord:  # noqa: A002
        """As `update_state`, for the configuration (`docker update`, connecting networks)."""
        with self._database.writing() as transaction:
            record = self._get(id)
            config = change(dict(record.config))
            transaction.execute(
                "UPDATE containers SET config = ? WHERE id = ?", (jsontext.dumps(config).decode(), record.id)
            )
        return record.replace(config=config)

    def rename(self, id: str, name: str) -> None:  # noqa: A002  # the specification's word
        """Give a container another name; NotFound, or AlreadyExists if that is taken (also by itself)."""
        with self._database.writing() as transaction:
            record = self._get(id)
            self._check_free(record.namespace, name)
            transaction.execute("UPDATE containers SET name = ? WHERE id = ?", (name, id))

    def delete(self, id: str) -> bool:  # noqa: A002  # the specification's word
        """Forget a container; whether it was known. Its snapshot and files go with the next collection."""
        return self._database.execute("DELETE FROM containers WHERE id = ?", (id,)) > 0

    def _get(self, container: str) -> ContainerRecord:
        record = self.get(container)
        if record is None:
            raise NotFound(f"there is no container {container}", hint="it was removed meanwhile")
        return record

    def _check_free(self, namespace: str, name: str) -> None:
        row = self._database.one("SELECT id FROM containers WHERE namespace = ? AND name = ?", (namespace, name))
        if row is not None:
            raise AlreadyExists(
                f"the name {name} is in use by container {row[0][:12]}",
                hint=f"remove it (orlop rm {name}), rename it, or choose another name",
            )


def _record(row: Row) -> ContainerRecord:
    what = "a container's record"
    return ContainerRecord(
        id=row[0],
        namespace=row[1],
        name=row[2],
        image=row[3],
        image_name=row[4],
        sandbox=row[5],
        created=row[6],
        labels=jsontext.loads(row[7], what=what, limit=_LIMIT),
        config=jsontext.loads(row[8], what=what, limit=_LIMIT),
        state=jsontext.loads(row[9], what=what, limit=_LIMIT),
    )
