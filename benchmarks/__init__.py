"""Benchmarks of accuracy and speed: ``python -m benchmarks.NAME``. Nothing else imports them but their tests."""
