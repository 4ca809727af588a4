"""All lines here export one of two networks, each once."""

from collections.abc import Iterator

import pytest

import trainer.learner
from store.protocols import Graph
from store.schema import Schema
from trainer.export import Scorer, export

_MADE: dict[str, Graph] = {}


@pytest.fixture(autouse=True, scope="module")
def _one_export() -> Iterator[None]:
    """Exporting a network takes longer than all else; there are two here."""

    def once(scorer: Scorer, schema: Schema) -> Graph:
        shape = str([tuple(tensor.shape) for tensor in scorer.state_dict().values()])
        if shape not in _MADE:
            _MADE[shape] = export(scorer, schema)
        return _MADE[shape]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.learner, "export", once)
        yield
