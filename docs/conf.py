from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import parameter_table

import napari_mlbseg

project = "napari-mlbseg"
author = "napari-mlbseg developers"
release = version = napari_mlbseg.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "_parameters.md"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings tell types, with shapes
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch", "monai"]  # reading the documentation's source needs no gigabytes
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_theme_options = {"github_url": "https://github.com/napari-mlbseg/napari-mlbseg", "navigation_with_keys": False}

parameter_table.write(Path(__file__).parent)
