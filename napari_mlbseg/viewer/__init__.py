"""The window: napari layers and Qt panels around a `SegmentationSession`. Never imports torch."""
