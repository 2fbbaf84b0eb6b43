"""Sessions and results as napari layers."""
