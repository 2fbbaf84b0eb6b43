"""Labels stored in another orientation than their image, in the window: a copy that lies on it is used."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from napari_mlbseg.io.writers import write_layer
from napari_mlbseg.viewer.dock import MLBSegDock

pytestmark = pytest.mark.gui

AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.5, 0, -5], [0, 0, 2, 3], [0, 0, 0, 1.0]])
MASK = np.zeros((6, 16, 12), np.uint8)
MASK[2:4, 3:7, 1:5] = 1


def test_flipped_labels_are_copied_onto_their_image(make_napari_viewer, qtbot, tmp_path):
    nibabel.Nifti1Image((100 + 80 * MASK.T).astype(np.int16), AFFINE).to_filename(tmp_path / "scan.nii.gz")
    stored = nibabel.as_closest_canonical(nibabel.Nifti1Image(MASK.T, AFFINE))
    stored.to_filename(tmp_path / "scan_label.nii.gz")
    viewer = make_napari_viewer()
    dock = MLBSegDock(viewer)
    viewer.window.add_dock_widget(dock)
    viewer.open([tmp_path / "scan.nii.gz"], plugin="napari-mlbseg")
    viewer.open([tmp_path / "scan_label.nii.gz"], plugin="napari-mlbseg")
    qtbot.waitUntil(lambda: dock.controller.workspace.bindings[0].annotation is not None)
    annotation = dock.controller.workspace.bindings[0].annotation
    assert annotation.name == "scan_label on scan"
    assert np.array_equal(annotation.data, MASK)
    assert np.array_equal(viewer.layers["scan_label"].data, np.asarray(stored.dataobj).T)
    data, attributes, _ = annotation.as_layer_data_tuple()
    write_layer(str(tmp_path / "saved.nii.gz"), data, attributes)
    assert np.allclose(nibabel.load(tmp_path / "saved.nii.gz").affine, AFFINE)


def test_labels_of_another_place_are_not_taken(make_napari_viewer, qtbot, tmp_path):
    nibabel.Nifti1Image((100 + 80 * MASK.T).astype(np.int16), AFFINE).to_filename(tmp_path / "scan.nii.gz")
    away = AFFINE.copy()
    away[2, 3] += 6
    nibabel.Nifti1Image(MASK.T, away).to_filename(tmp_path / "scan_label.nii.gz")
    viewer = make_napari_viewer()
    dock = MLBSegDock(viewer)
    viewer.window.add_dock_widget(dock)
    for name in ("scan", "scan_label"):
        viewer.open([tmp_path / f"{name}.nii.gz"], plugin="napari-mlbseg")
    qtbot.wait(50)
    assert dock.controller.workspace.bindings[0].annotation is None
    assert "elsewhere in the world" in dock.data.problem.text()
