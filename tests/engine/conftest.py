"""Fixtures of the engine's tests."""

from tests.threads import one_thread  # noqa: F401
