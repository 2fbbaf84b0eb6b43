"""Fixtures of these tests."""

from tests.threads import one_thread  # noqa: F401
