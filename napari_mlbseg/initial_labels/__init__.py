"""y^n, the first labels of unannotated slices: interpolated between clean slices, or carried along the image."""
