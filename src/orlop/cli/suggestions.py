"""What was probably meant: the nearest known word to one that is not known. Loaded only once something is wrong."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WAYS_ROUND = {
    "cp": "out: orlop exec NAME tar -c -C FOLDER FILE | tar -x; in: tar -c FILE | orlop exec -i NAME tar -x -C FOLDER",
    "commit": "write the steps down in a Dockerfile, and orlop build it; orlop diff NAME shows what was changed",
    "export": "orlop exec NAME tar -c -C / --one-file-system . > tree.tar",
    "import": "build it of two lines: FROM scratch, and ADD tree.tar /",
    "update": "limits are set when a container is made: orlop rm it, and orlop run it with others",
    "search": "registries have no search in common: look at the registry's own pages",
    "network connect": "a container is in one network: say which with orlop run --network NAME",
    "network disconnect": "a container is in one network: say which with orlop run --network NAME",
}
"""Commands of docker that are not there yet, and what to do instead."""


def distance(one: str, other: str) -> int:
    """How many letters must be added, dropped, changed or swapped with a neighbour to turn `one` into `other`."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, wanted in enumerate(other, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word nearest to `word`, "" if none is near: a third of its letters wrong at most, or a prefix."""
    ranked = sorted((distance(word, one), one) for one in known)
    for wrong, one in ranked:
        if wrong <= max(1, len(word) // 3) and wrong < len(one):
            return one
    starts = [one for _, one in ranked if len(word) >= 2 and one.startswith(word)]
    return starts[0] if starts else ""
