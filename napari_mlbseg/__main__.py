"""``python -m napari_mlbseg``: the command line."""

from napari_mlbseg.cli.main import main

raise SystemExit(main())
