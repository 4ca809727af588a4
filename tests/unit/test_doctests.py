"""What a docstring shows is what happens."""

import doctest
import importlib
import pkgutil

import pytest

import router
import store

MODULES = [
    module.name
    for package in (router, store)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if ".testing" not in module.name
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    found = [name for name in MODULES if doctest.testmod(importlib.import_module(name)).attempted]
    assert len(found) >= 5
