"""An annotation layer is deleted by mistake: what was painted comes back, at once and in the session opened again."""

from __future__ import annotations

import numpy as np
import pytest

from napari_mlbseg.session.persistence.folder import SessionFolder

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]


def _delete_annotation(viewer, dock, wait_for) -> None:
    viewer.layers.remove(viewer.layers["heart annotation"])
    wait_for(lambda: dock.controller.workspace.current.annotation is None)


@pytest.mark.parametrize("anew", [False, True])
def test_a_deleted_annotation_comes_back_at_once_and_when_the_session_is_opened_again(heart, wait_for, anew):
    viewer, dock, annotation = heart
    controller, path = dock.controller, dock.controller.session.folder
    assert not dock.data.volume_rows[0].restore.isVisible()
    annotation.data[3, 10:20, 10:20] = 2
    controller.mark_clean(True, 3)
    controller.session.save()
    painted = annotation.data.copy()
    _delete_annotation(viewer, dock, wait_for)
    assert "press Restore" in dock.data.problem.text()
    assert controller.workspace.clean_slices(controller.workspace.current) == set()
    if anew:
        dock.data.volume_rows[0].new.click()
        viewer.layers["heart annotation"].data[5, 10:20, 10:20] = 1
        controller.session.mark_dirty("heart", 5)

    def restore() -> None:
        row = dock.data.volume_rows[0]
        assert row.restore.isVisible()
        row.restore.click()
        wait_for(lambda: (layer := controller.workspace.current.annotation) and np.array_equal(layer.data, painted))
        assert controller.workspace.clean_slices(controller.workspace.current) == {3}
        assert not row.restore.isVisible(), "nothing is missing any more"
        assert dock.data.problem.text() == ""

    restore()
    if anew:
        (other,) = (layer for layer in viewer.layers if "annotation" in layer.name and layer.data[5].any())
        viewer.layers.remove(other)
        wait_for(dock.data.volume_rows[0].restore.isVisible)
        return
    _delete_annotation(viewer, dock, wait_for)
    controller.session.save()
    assert len(list(path.glob("images/*"))) == 1, "the image is copied once"
    viewer.layers.clear()
    wait_for(lambda: not controller.workspace.bindings)
    elsewhere = path.with_name("again.mlbseg")
    controller.session.save_as(elsewhere)
    controller.session.close()
    assert [volume.attached for volume in SessionFolder(elsewhere).read().volumes] == [True, False]
    dock.session.open_session(elsewhere)
    wait_for(lambda: "heart" in viewer.layers)
    restore()
    controller.session.save()
    assert [volume.attached for volume in SessionFolder(elsewhere).read().volumes] == [True]


def test_a_session_that_is_opened_again_shows_the_midst_of_what_is_painted(heart, open_dock, wait_for):
    viewer, dock, annotation = heart
    for z in (7, 9, 10):
        annotation.data[z, 10:20, 10:20] = 1
        dock.controller.mark_clean(True, z)
    dock.controller.session.save()
    elsewhere = dock.controller.session.folder.with_name("again.mlbseg")
    dock.controller.session.save_as(elsewhere)
    dock.controller.session.close()
    viewer.layers.clear()
    viewer, dock = open_dock()
    dock.session.open_session(elsewhere)
    wait_for(lambda: "heart" in viewer.layers and dock.controller.workspace.current_slice == 9)
    assert dock.controller.workspace.clean_slices(dock.controller.workspace.current) == {7, 9, 10}
