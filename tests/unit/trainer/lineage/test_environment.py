"""An environment says what it is, and names each thing in which another one differs."""

import sys

import pytest
import torch

from store.spec import ModelSpec
from trainer.lineage.environment import Environment
from trainer.testing import OneNumber

SPEC = ModelSpec(name="m", features=OneNumber)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_this_one_is_as_itself() -> None:
    here = Environment.here(SPEC, "cpu")
    assert here.differences(Environment.here(SPEC, "cpu")) == []
    assert here.wheels["torch"] == torch.__version__
    assert len(here.code) == len(here.model_code) == 16
    assert here.processor
    assert Environment.model_validate_json(here.model_dump_json()) == here


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wheels": {"torch": "1.0", "numpy": "1.0", "onnxruntime": "1.0", "tidemill": "0.0"}}, "torch was 1.0 and is 2"),
        ({"wheels": {"torch": "1.0", "numpy": "1.0", "onnxruntime": "1.0", "tidemill": "0.0"}}, "numpy was 1.0 and is"),
        ({"wheels": {"torch": "1.0", "numpy": "1.0", "onnxruntime": "1.0", "tidemill": "0.0"}}, "onnxruntime was 1.0"),
        ({"wheels": {"torch": "1.0"}}, "tidemill was not on record and is"),
        ({"python": "3.9.1"}, "python was 3.9.1 and is 3."),
        ({"processor": "abacus"}, "the processor was abacus and is"),
        ({"instructions": "NEON"}, "torch's instruction set was NEON and is"),
        ({"device": "cuda"}, "the device was cuda and is cpu"),
        ({"threads": 8}, "the number of threads was 8 and is 1"),
        ({"threads": 8}, "learned by 8 threads"),
        ({"code": "0" * 16}, "the platform's code was 0000000000000000 and is"),
        ({"model_code": "0" * 16}, "the model's code was 0000000000000000 and is"),
    ],
)
def test_each_difference_is_named(change: dict[str, object], said: str) -> None:
    here = Environment.here(SPEC, "cpu")
    assert any(said in one for one in here.model_copy(update=change).differences(here))


def test_several_threads_are_refused_even_where_there_are_as_many_now() -> None:
    several = Environment.here(SPEC, "cpu").model_copy(update={"threads": 2})
    assert several.differences(several) == ["it was learned by 2 threads, whose sums come out in any order"]


def test_the_code_of_a_model_is_that_of_the_module_its_features_are_in() -> None:
    elsewhere = ModelSpec(name="m", features=type("Here", (OneNumber,), {"__module__": __name__}))
    sys.modules.setdefault(__name__, sys.modules[OneNumber.__module__])
    assert Environment.here(SPEC, "cpu").model_code != Environment.here(elsewhere, "cpu").model_code
