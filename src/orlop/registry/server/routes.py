"""Which endpoint a path means (spec.md, "Endpoints"): bytes in, a tuple out, nothing else.

Names have slashes in them and may contain words like "blobs", so paths are read from the right, where the last one or
two parts say what is meant.
"""

from __future__ import annotations

from orlop.registry.grammar import is_repository

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

BASE = "base"
CATALOG = "catalog"
MANIFEST = "manifest"
BLOB = "blob"
UPLOADS = "uploads"
UPLOAD = "upload"
TAGS = "tags"
REFERRERS = "referrers"
INVALID_NAME = "invalid-name"
NOTHING = "nothing"

if TYPE_CHECKING:
    Route: TypeAlias = tuple[str, str, str]
    """(endpoint, repository, the last part: a tag, a digest, a session)"""

_NOTHING: Route = (NOTHING, "", "")


def route(path: str) -> Route:
    """The endpoint that `path` (percent-decoded) means; `NOTHING` where there is none."""
    if not path.startswith("/v2/"):
        return (BASE, "", "") if path == "/v2" else _NOTHING
    head, slash, last = path[4:].rpartition("/")
    if not slash:
        if not last:
            return BASE, "", ""
        return (CATALOG, "", "") if last == "_catalog" else _NOTHING
    if head.endswith("/manifests"):
        kind, name = MANIFEST, head[:-10]
    elif head.endswith("/blobs/uploads"):
        kind, name = (UPLOAD if last else UPLOADS), head[:-14]
    elif head.endswith("/blobs"):
        kind, name = (UPLOADS if last == "uploads" else BLOB), head[:-6]
    elif last == "list" and head.endswith("/tags"):
        kind, name = TAGS, head[:-5]
    elif head.endswith("/referrers"):
        kind, name = REFERRERS, head[:-10]
    else:
        return _NOTHING
    if not is_repository(name):
        return INVALID_NAME, name, last
    return kind, name, last
