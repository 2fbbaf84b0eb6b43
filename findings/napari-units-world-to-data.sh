#!/usr/bin/env bash
# napari 0.9.2, two layers whose units of length differ (micrometre and nanometre): the sliders count in the smaller unit
# (viewer.dims.units), and what is drawn takes that into account, but layer.world_to_data(viewer.dims.point) does not. So the
# usual way for a plugin to learn which slice is in view is right with one layer and a thousand times off as soon as a layer
# in another unit is added. The point has to be converted from viewer.dims.units to layer.units first.
# Exit 0: still so; 1: it has changed.
set -euo pipefail
here=$(mktemp -d); trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check napari==0.9.2
cd "$here"
venv/bin/python - <<'P'
import sys

import napari
import numpy as np
from napari.components import ViewerModel

numbers = np.broadcast_to(np.arange(16.0)[:, None, None], (16, 8, 8)).copy()  # a slice holds its own number
viewer = ViewerModel()
layer = viewer.add_image(numbers, scale=(2, 1, 1), units=("um",) * 3)


def look() -> tuple[float, float]:
    viewer.dims.set_current_step(0, 5)
    return float(layer._slice.image.raw.flat[0]), round(float(layer.world_to_data(viewer.dims.point)[0]), 3)


alone = look()
viewer.add_image(numbers, scale=(2000, 1000, 1000), units=("nm",) * 3)
beside = look()
print("napari", napari.__version__, "| drawn slice, slice by world_to_data: alone", alone, "| beside a layer in nm", beside)
print("viewer.dims.units:", [str(unit) for unit in viewer.dims.units], "layer.units:", [str(unit) for unit in layer.units])
sys.exit(not (alone == (5.0, 5.0) and beside == (5.0, 5000.0)))
P
