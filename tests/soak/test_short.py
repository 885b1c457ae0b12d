"""A short soak, so that the long one keeps working."""

from tests.soak.run import soak


def test_fifteen_seconds_of_everything():
    soak(15, seed=7)
