"""All that a platform can be asked for, at once and for long: what grows, what fails, what is left: `make soak`."""

from tests.bench.soak.soak import soak

__all__ = ["soak"]
