"""content/index.json: the names, as an OCI image layout lists them (image-layout.md, "index.json file")."""

from __future__ import annotations

from orlop.errors import NotFound
from orlop.linux import wholefile
from orlop.oci import jsontext, mediatype
from orlop.store import faults
from orlop.store.locks import FileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.store.root import Root

REF_NAME = "org.opencontainers.image.ref.name"
DEFAULT_NAMESPACE = "default"


def write_index(root: Root) -> None:
    """Write index.json from the names of all namespaces, by rename.

    A layout has one room for names: of two namespaces that use the same one, "default" wins, then the first by name.
    The lock makes sure that an older list never replaces a newer one.
    """
    path = f"{root.content.root}/index.json"
    with FileLock(f"{root.content.root}/index.lock", what="the index"):
        data = jsontext.dumps(_index(root))
        try:
            wholefile.write(path, data, mode=0o644, beside=f"{path}.new")
        except OSError as error:
            raise faults.explained(error, "write the index", path) from error


def _index(root: Root) -> dict[str, Any]:
    rows = root.state.database.query(
        "SELECT reference, manifest, media_type, namespace FROM names JOIN images USING (namespace, manifest)"
        " ORDER BY reference, namespace <> ?, namespace",
        (DEFAULT_NAMESPACE,),
    )
    manifests: dict[str, dict[str, Any]] = {}
    for reference, manifest, media_type, _ in rows:
        if reference in manifests:
            continue
        try:
            size = root.content.size(manifest)
        except NotFound:
            continue
        manifests[reference] = {
            "mediaType": media_type,
            "digest": manifest,
            "size": size,
            "annotations": {REF_NAME: reference},
        }
    return {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": list(manifests.values())}
