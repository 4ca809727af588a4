"""What a version is worth: figures that scikit-learn knows, by objective."""

import numpy as np
import pytest

from store.spec import ModelSpec, Objective
from trainer.compression.quality import likeness, quality
from trainer.testing import OneNumber


def _record(objective: Objective, *classes: str) -> object:
    return ModelSpec(name="m", features=OneNumber, objective=objective, classes=classes).record
