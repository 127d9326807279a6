from tests.lab.fixtures import *  # noqa: F403
