"""What holds for all tests: the NAT lab's fixtures, and no judging by the wall clock."""

from hypothesis import HealthCheck, settings

from tests.lab.fixtures import *  # noqa: F403

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
