"""`images`, `history`, `tag` and `rmi`."""

from __future__ import annotations

import time

from orlop.cli import units
from orlop.cli.command import Command
from orlop.cli.listoptions import FILTER, FORMAT, NO_TRUNC, filters, label_of, labels_text
from orlop.cli.options import Option
from orlop.cli.session import tell
from orlop.cli.tables import Table, show
from orlop.engine.requests import ListImages, RemoveImage
from orlop.errors import NotFound, OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from orlop.cli.options import Given
    from orlop.cli.session import Session
    from orlop.engine.requests import HistoryRow, ImageSummary

_NONE = "<none>"

ROWS = Table(
    {
        "Repository": "REPOSITORY",
        "Tag": "TAG",
        "Digest": "DIGEST",
        "ID": "IMAGE ID",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "Size": "SIZE",
        "Containers": "CONTAINERS",
        "Platform": "PLATFORM",
        "Labels": "LABELS",
    },
    ("Repository", "Tag", "ID", "CreatedSince", "Size"),
    quiet="ID",
)

STEPS = Table(
    {
        "ID": "IMAGE",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "CreatedBy": "CREATED BY",
        "Size": "SIZE",
        "Comment": "COMMENT",
    },
    ("ID", "CreatedSince", "CreatedBy", "Size", "Comment"),
    quiet="ID",
)


def image_rows(image: ImageSummary, now: float, *, whole: bool) -> Iterator[dict[str, Any]]:
    """A row for every name of an image; one without names has one row."""
    digests = {text.partition("@")[0]: text.partition("@")[2] for text in image.digests}
    names = [tuple(name.rpartition(":")[::2]) for name in image.names]
    for repository, tag in names or [(next(iter(digests), _NONE), _NONE)]:
        yield {
            "Repository": repository,
            "Tag": tag,
            "Digest": digests.get(repository, _NONE),
            "ID": image.id if whole else units.short_id(image.id),
            "CreatedSince": units.since(image.created, now),
            "CreatedAt": units.local_time(image.created) if image.created else "N/A",
            "Size": units.human_size(image.size, 3),
            "Containers": str(image.containers),
            "Platform": image.platform,
            "Labels": labels_text(image.labels),
            "Label": label_of(image.labels),
        }


def _images(session: Session, given: Given) -> int:
    wanted = ListImages(
        reference=given.arguments[0] if given.arguments else "",
        filters=filters(given.list("filter")),
    )
    now = time.time()
    rows = [
        row
        for image in session.engine.images.list(wanted)
        for row in image_rows(image, now, whole=given.flag("no-trunc"))
    ]
    table = ROWS
    if given.flag("digests"):
        table = Table(ROWS.titles, ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"), quiet="ID")
    if given.flag("quiet"):  # an image with two names is still one image
        rows = list({row["ID"]: row for row in rows}.values())
    show(table, rows, given)
    return 0


def step_row(step: HistoryRow, now: float, *, whole: bool, human: bool) -> dict[str, Any]:
    """One step as the fields of docker's `history` templates."""
    created_by = step.created_by.replace("\t", " ")
    named = not step.id.startswith("<")
    return {
        "ID": step.id if whole or not named else units.short_id(step.id),
        "CreatedSince": units.since(step.created, now) if human else units.iso_time(step.created),
        "CreatedAt": units.iso_time(step.created) if step.created else "N/A",
        "CreatedBy": created_by if whole else units.ellipsis(created_by, 45),
        "Size": units.human_size(step.size, 3) if human else str(step.size),
        "Comment": step.comment,
        "Tags": ",".join(step.tags),
    }


def _history(session: Session, given: Given) -> int:
    now = time.time()
    steps = session.engine.images.history(given.arguments[0])
    whole, human = given.flag("no-trunc"), given.flag("human")
    show(STEPS, [step_row(step, now, whole=whole, human=human) for step in steps], given)
    return 0


def _tag(session: Session, given: Given) -> int:
    session.engine.images.tag(*given.arguments)
    return 0


def _rmi(session: Session, given: Given) -> int:
    code = 0
    for name in given.arguments:
        try:
            removed = session.engine.images.remove(RemoveImage(image=name, force=given.flag("force")))
        except OrlopError as error:
            tell(error)
            code = code if given.flag("force") and isinstance(error, NotFound) else 1
            continue
        for action, what in removed.actions:
            print(f"{action.capitalize()}: {what}")
    return code


IMAGES = Command(
    run=_images,
    usage="[REPOSITORY[:TAG]]",
    options=(
        Option("all", "a", "flag", "", "Show all images"),
        Option("digests", "", "flag", "", "Show digests"),
        FILTER,
        FORMAT,
        NO_TRUNC,
        Option("quiet", "q", "flag", "", "Show only ids"),
    ),
    most=1,
    refused=("tree",),
    complete=("image",),
    examples=(
        ("orlop images", "all images, newest first"),
        ("orlop images --filter dangling=true -q", "the ids of images without a name"),
    ),
)

HISTORY = Command(
    run=_history,
    usage="IMAGE",
    options=(
        FORMAT,
        Option("human", "H", "flag", "", "Print sizes and times for people", default=True),
        NO_TRUNC,
        Option("quiet", "q", "flag", "", "Show only ids"),
    ),
    least=1,
    most=1,
    refused=("platform",),
    complete=("image",),
    examples=(("orlop history --no-trunc app", "every step that made an image, and its size"),),
)

TAG = Command(
    run=_tag,
    usage="SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    least=2,
    most=2,
    complete=("image", "image"),
    examples=(("orlop tag app registry.example.com/team/app:1.2", "the name that `orlop push` will send it to"),),
)

RMI = Command(
    run=_rmi,
    usage="IMAGE [IMAGE...]",
    options=(Option("force", "f", "flag", "", "Remove all its names, and names that containers use"),),
    least=1,
    most=None,
    refused=("no-prune", "platform"),
    complete=("image",),
    examples=(("orlop rmi app:old", "take the name away; the image goes with its last name"),),
)
