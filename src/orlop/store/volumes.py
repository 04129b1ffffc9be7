"""Named volumes: what is known of the folders in `root/volumes`."""

from __future__ import annotations

from orlop.store.named import NamedRecords


class Volumes(NamedRecords):
    """The table of volumes. Collection never touches a volume: what is in it is somebody's data."""

    _table = "volumes"
