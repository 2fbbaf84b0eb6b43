"""Benchmarks of accuracy and speed: ``python -m benchmarks.NAME``. The package does not import them."""
