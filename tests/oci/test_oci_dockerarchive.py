"""docker's manifest.json, honest and hostile."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidArgument
from orlop.oci import dockerarchive
from orlop.oci.dockerarchive import SavedImage
from orlop.oci.reference import Reference

paths = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
references = st.builds(
    lambda name, tag: Reference.parse(f"{name}:{tag}"),
    st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True),
)
images = st.builds(
    SavedImage,
    config=paths,
    layers=st.lists(paths, max_size=3).map(tuple),
    names=st.lists(references, max_size=2).map(tuple),
)
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
entries = st.fixed_dictionaries(
    {}, optional={key: scalars | st.lists(scalars, max_size=2) for key in ("Config", "Layers", "RepoTags", "Parent")}
)
documents = st.recursive(
    scalars | st.lists(entries, max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(images, max_size=3))
def test_what_is_written_reads_back(given_images: list[SavedImage]) -> None:
    """`parse` undoes `build`."""
    assert dockerarchive.parse(dockerarchive.build(given_images)) == tuple(given_images)


@given(documents)
def test_anything_else_is_refused(document: Any) -> None:
    """Any JSON is a table of images, with texts where texts belong, or InvalidArgument; never another error."""
    try:
        found = dockerarchive.parse(json.dumps(document).encode())
    except InvalidArgument as error:
        assert str(error)
        return
    assert isinstance(document, list)
    assert len(found) == len(document)
    for image in found:
        assert image.config
        assert all(isinstance(text, str) for text in (image.config, *image.layers))
        assert all(isinstance(name, Reference) for name in image.names)


def test_go_writes_null_for_empty_lists() -> None:
    """An image without names and layers has null for both."""
    assert dockerarchive.parse(b'[{"Config":"c.json","RepoTags":null,"Layers":null}]') == (
        SavedImage(config="c.json", layers=()),
    )
