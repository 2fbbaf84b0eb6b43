#!/usr/bin/env bash
# An OME-TIFF may be spread over several files. tifffile 2026.3.3, asked for a series one of whose files was not copied along,
# returns an array of the full shape in which the missing slices are zeros; the only sign is a record in the log "tifffile"
# (no warning, no exception, nothing in the returned object). A program that shows no log takes black slices for image.
# Exit 0: still so; 1: it has changed.
set -euo pipefail
here=$(mktemp -d); trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check tifffile==2026.3.3 numpy==2.4.6
cd "$here"
venv/bin/python - <<'P'
import logging
import os
import sys
import warnings

import numpy as np
import tifffile

records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger("tifffile").addHandler(handler)

names = ["first.ome.tif", "second.ome.tif"]
uids = [f"urn:uuid:{n:08d}-0000-0000-0000-000000000000" for n in (1, 2)]
planes = "".join(
    f'<TiffData FirstZ="{z}" IFD="{z % 3}" PlaneCount="1"><UUID FileName="{names[z // 3]}">{uids[z // 3]}</UUID></TiffData>'
    for z in range(6)
)
for part, name in enumerate(names):
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="{uids[part]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="16" '
        f'SizeY="16" SizeZ="6" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(name, ome=False) as file:
        for z in range(3):
            plane = np.full((16, 16), 10 * (part + 1) + z, np.uint8)
            file.write(plane, description=xml if z == 0 else None, metadata=None, contiguous=False)
print("both files:    ", tifffile.imread(names[0]).max(axis=(1, 2)).tolist())
os.unlink(names[1])
records.clear()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    stack = tifffile.imread(names[0])
found = stack.max(axis=(1, 2)).tolist()
print("second missing:", found, "| warnings:", len(said), "| log:", [record.levelname for record in records])
sys.exit(not (found == [10, 11, 12, 0, 0, 0] and not said and records))
P
