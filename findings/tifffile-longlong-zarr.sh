#!/usr/bin/env bash
# tifffile 2026.3.3 reads 64-bit integers as NumPy's C type "long long" (dtype.char 'q'), which on Linux is not the class that
# np.int64 is ("long", 'l'), although the two dtypes compare equal and print alike. zarr 3.1.6 looks the class up: the array
# that was just read cannot be stored, and the message names a type that zarr does have. np.dtype(dtype.str) is the way out.
# Seen: "No Zarr data type found that matches dtype 'dtype('int64')'". Exit 0: still so; 1: it has changed.
set -euo pipefail
here=$(mktemp -d); trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check tifffile==2026.3.3 zarr==3.1.6 numpy==2.4.6
cd "$here"
venv/bin/python - <<'P'
import sys

import numpy as np
import tifffile
import zarr

tifffile.imwrite("labels.tif", np.arange(24).reshape(2, 3, 4), metadata={"axes": "ZYX"})
read = tifffile.imread("labels.tif")
print("tifffile", tifffile.__version__, "reads", read.dtype, "char", read.dtype.char, "equal to int64:", read.dtype == np.int64)
try:
    zarr.create_array("as_read.zarr", shape=read.shape, dtype=read.dtype)
    refused = ""
except ValueError as error:
    refused = str(error)
print("zarr", zarr.__version__, "says:", refused or "nothing, it stores it")
zarr.create_array("canonical.zarr", shape=read.shape, dtype=np.dtype(read.dtype.str))
print("np.dtype(dtype.str):", np.dtype(read.dtype.str).char, "is stored")
sys.exit(not (read.dtype.char == "q" and read.dtype == np.int64 and "No Zarr data type" in refused))
P
