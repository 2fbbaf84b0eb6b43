"""Image files: NIfTI and TIFF in and out with nothing of their geometry lost, and sample data. No napari, no Qt."""
