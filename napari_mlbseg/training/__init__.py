"""A training from a task to results. Uses torch and MONAI; knows no viewer, no file format and no job folder."""
