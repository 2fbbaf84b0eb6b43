"""``python -m napari_mlbseg``, for torchrun: the command line."""

from napari_mlbseg.cli import main

raise SystemExit(main())
