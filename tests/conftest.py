"""Fixtures for all tests: those of the NAT lab."""

from tests.lab.fixtures import *  # noqa: F403
