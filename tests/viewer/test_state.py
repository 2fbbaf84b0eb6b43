"""What a dock shows, compared between two moments; without a window."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from napari_mlbseg.session import AnnotatedVolume, SliceMarks
from napari_mlbseg.viewer.state import ViewState

VOLUME = AnnotatedVolume("heart", np.zeros((4, 5, 6)), np.zeros((4, 5, 6), np.uint8), uid="a")
OTHERS = {
    "name": "liver",
    "image": VOLUME.image.copy(),
    "annotation": VOLUME.annotation.copy(),
    "slice_axis": 1,
    "channel_axis": 3,
    "spacing": (2.0, 1.0, 1.0),
    "unit": "mm",
    "marks": SliceMarks(clean={1}),
    "initial_labels": VOLUME.annotation.copy(),
    "independent_slices": True,
    "uid": "b",
    "source": "elsewhere",
    "grid": object(),
    "is_moved": True,
    "geometry": "turned",
    "is_annotated": False,
}


def test_every_field_of_a_volume_is_tried():
    assert set(OTHERS) == {field.name for field in fields(AnnotatedVolume)}


@pytest.mark.parametrize("field", OTHERS)
def test_a_volume_that_differs_in_any_way_is_a_change(field):
    assert ViewState([VOLUME], []) == ViewState([replace(VOLUME)], [])
    assert ViewState([VOLUME], []) != ViewState([replace(VOLUME, **{field: OTHERS[field]})], [])


def test_volumes_and_layers_that_come_go_or_change_places_are_a_change():
    other, layers = replace(VOLUME, uid="b"), [object(), object()]
    assert ViewState([VOLUME, other], layers) == ViewState([VOLUME, other], list(layers))
    assert ViewState([VOLUME, other], layers) != ViewState([other, VOLUME], layers)
    assert ViewState([VOLUME, other], layers) != ViewState([VOLUME], layers)
    assert ViewState([VOLUME], layers) != ViewState([VOLUME], layers[::-1])
    assert ViewState([VOLUME], layers) != ViewState([VOLUME], [])


def test_an_annotation_that_nobody_paints_on_is_made_anew_and_is_no_change():
    empty = replace(VOLUME, is_annotated=False)
    again = replace(empty, annotation=np.broadcast_to(np.uint8(0), (4, 5, 6)))
    assert ViewState([empty], []) == ViewState([again], [])
    smaller = replace(empty, annotation=np.broadcast_to(np.uint8(0), (3, 5, 6)))
    assert ViewState([empty], []) != ViewState([smaller], [])
