"""What has nothing to do with segmentation: files, lazy arrays, threads. Imports nothing else of the package."""
