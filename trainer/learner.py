"""The stateful object that learns: a network, its feature statistics, its optimiser; one micro-batch at a time."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn

from store.artefact import pack_weights
from store.encoding import Encoded, Encoder
from store.errors import SpecError, first_line
from store.protocols import Graph
from store.records import Outcome
from store.schema import Row
from store.spec import ModelRecord, ModelSpec
from trainer.descent import Before, Descent
from trainer.errors import CheckpointError
from trainer.export import Rehearsal, Scorer, export
from trainer.losses import PlainLoss
from trainer.network import TabularNetwork
from trainer.replay import Offer
from trainer.rows import Rows, age_weights, label_weights, strata_of
from trainer.targets import Teaching, progressive

_NETWORK = "network."
RECENT = 0.98
"""Decay, per micro-batch, of the recent progressive loss."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a micro-batch did. `loss` is progressive: measured on each row before the learner has seen its label.

    `rejected` says why the batch's result may not be published; the learner is then as it was before the batch, unless it
    `goes_on` all the same. `evidence`: by gate, what was found. `lineage` is what a version that has learned this should say of
    itself. `label_times` is a small picture of when the labels were received.
    """

    rows: int
    loss: float
    recent_loss: float
    rejected: str = ""
    label_times: tuple[float, ...] = ()
    lineage: dict[str, str] = field(default_factory=dict[str, str])
    goes_on: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """What a version says of itself; a batch that only corrected others has no loss of its own."""
        found = {"loss": self.loss, "recent_loss": self.recent_loss}
        return {name: value for name, value in found.items() if math.isfinite(value)}


NOTHING = Learned(0, 0.0, 0.0)


class Learner:
    """Learns micro-batches of outcomes. Deterministic: same batches on the same machine and build, same bits.

    Args:
        device: where to learn, in place of what the declaration says. What leaves the learner is on the CPU, and one that
            learned on a GPU goes on without.

    Raises:
        SpecError: the declaration asks for a GPU that is not there, or for what does not fit the network.
    """

    def __init__(self, spec: ModelSpec, device: str | None = None) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(spec.learning.seed)
        self.record: ModelRecord = spec.record
        self.device = torch.device(device or _device(self.record))
        self.scorer = Scorer(_network(spec), spec.objective).to(self.device)
        self.descent = Descent(self.record, self.scorer, self.device)
        self._encoder = Encoder(self.record.features)
        self._plain = PlainLoss(spec.objective)
        self.teaching = Teaching(self.record)
        self._recent = (0.0, 0.0)
        self._before: tuple[dict[str, Tensor], Before, tuple[float, float], dict[str, np.ndarray]] | None = None
        self._rehearsal: Rehearsal | None = None
        self._last: tuple[Rows, Tensor] | None = None
        self.encoded = self._encoder.encode([])
        """The inputs of the last batch, of all its outcomes."""

    def prepare(self) -> None:
        """Make what the first batch would otherwise wait for."""
        assert self.descent.optimiser

    def export(self) -> Graph:
        return export(copy.deepcopy(self.scorer).cpu(), self.record.features)

    def learn(self, outcomes: Sequence[Outcome], seed: str) -> Learned:
        """Score, then learn, `learning.passes` times over the batch. `seed` makes what is random repeatable after a crash."""
        # Of the one generator that learning draws from: torch.manual_seed looks for every device there could be.
        number = int.from_bytes(seed.encode()[-7:], "big") + self.record.learning.seed
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)
        rows, judged = self._rows(outcomes), progressive(self.record.labels, outcomes)
        received = sample([outcome.received_at for outcome in outcomes])
        self.prepare()
        lineage = {"afresh": self.descent.afresh} if self.descent.afresh else {}
        self._before = _copied(self.scorer.state_dict()), self.descent.begin(), self._recent, self.teaching.trust.begin()
        try:
            loss = self._progressive(rows, judged)
            taught = rows if self.teaching.plain(outcomes) else self._taught(outcomes, rows)
            offer = Offer.of(outcomes, rows, self.record) if self.descent.replay is not None else None
            self.scorer.train()
            self.descent.fit(taught, offer, len(outcomes), np.random.default_rng(number % 2**64))
            self.scorer.eval()
            problem = self._problem() or ("the loss is not finite" if judged and not math.isfinite(loss) else "")
        except (RuntimeError, ValueError) as error:
            problem, loss = f"learning failed: {first_line(error, 300)}", float("nan")
        if problem:
            self.undo()
            return Learned(len(outcomes), loss, self.recent_loss, problem, received)
        if judged:
            weight = self._recent[1] * RECENT + len(judged)
            self._recent = ((self._recent[0] * self._recent[1] * RECENT + loss * len(judged)) / weight, weight)
        return Learned(len(outcomes), loss, self.recent_loss, "", received, lineage)

    def undo(self) -> None:
        """Be as before the last batch, bit for bit."""
        assert self._before is not None, "no batch was learned"
        tensors, before, self._recent, trust = self._before
        self.teaching.trust.undo(trust)
        self._restore(tensors)
        self.descent.undo(before)

    def encode(self, rows: Sequence[Row]) -> Encoded:
        return self._encoder.encode(rows)

    @torch.no_grad()
    def score(self, encoded: Encoded) -> np.ndarray:
        """Return scores, float32 [rows, outputs], as a version of this moment answers."""
        self.scorer.eval()
        return self.scorer(*self._inputs(encoded)).cpu().numpy()

    @torch.no_grad()
    def score_before(self, encoded: Encoded) -> np.ndarray:
        """Likewise, as the learner was before the last batch."""
        assert self._before is not None, "no batch was learned"
        self.scorer.eval()
        before = {name: tensor for name, tensor in self._before[0].items() if name in self.scorer.state_dict()}
        return torch.func.functional_call(self.scorer, before, self._inputs(encoded)).cpu().numpy()

    def _inputs(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(encoded.numbers).to(self.device), torch.from_numpy(encoded.categories).to(self.device)

    def weights(self) -> bytes:
        """What a version ships, as safetensors."""
        return pack_weights(self.shipped())

    def golden(self, graph: Graph) -> tuple[tuple[float, ...], ...]:
        """Answer the graph's golden inputs with ONNX Runtime, as a replica will."""
        if self._rehearsal is None or self._rehearsal.digest != graph.digest:
            self._rehearsal = Rehearsal(graph)
        return self._rehearsal.scores(self.shipped())

    def shipped(self) -> dict[str, np.ndarray]:
        """The tensors that a version ships."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.scorer.weights().items()}

    def checkpoint(self) -> bytes:
        """Everything that is not in the weights: what only training needs, what the steps remember, the recent loss."""
        shipped = self.scorer.weights().keys()
        tensors, rest = self.descent.checkpoint()
        tensors |= {name: tensor for name, tensor in self.scorer.state_dict().items() if name not in shipped}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        trust = self.teaching.trust.packed()
        # One text: several would be written in any order, and the same state is to be the same bytes.
        return pack_weights(arrays, {"learner": json.dumps({"recent": self._recent, "descent": rest, "trust": trust})})

    def restore(self, weights: bytes, checkpoint: bytes) -> None:
        """Become the learner that wrote these.

        Raises:
            CheckpointError: they cannot be read or are of another network.
        """
        try:
            tensors = load(weights) | load(checkpoint)
            header: dict[str, Any] = json.loads(checkpoint[8 : 8 + int.from_bytes(checkpoint[:8], "little")])["__metadata__"]
            known: dict[str, Any] = json.loads(header.get("learner", f'{{"recent": {header.get("recent")}}}'))
            mean, weight = known["recent"]
            self._restore({name: tensor for name, tensor in tensors.items() if name.startswith(_NETWORK)})
            self.descent.restore(tensors, known.get("descent", ""))
            self.teaching = Teaching(self.record, known.get("trust", ""))
        except Exception as error:  # safetensors and torch raise many kinds
            raise CheckpointError(f"the checkpoint does not fit this network: {first_line(error, 300)}") from error
        self._recent = (mean, weight)

    @property
    def recent_loss(self) -> float:
        return self._recent[0]

    @torch.no_grad()
    def _restore(self, tensors: dict[str, Tensor]) -> None:
        mine = self.scorer.state_dict()
        if mine.keys() != tensors.keys():
            raise ValueError(f"tensors differ: {', '.join(sorted(mine.keys() ^ tensors.keys()))[:300]}")
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)

    def _rows(self, outcomes: Sequence[Outcome]) -> Rows:
        self.encoded = encoded = self._encoder.encode([outcome.row for outcome in outcomes])
        settings, weights = self.record.learning, None
        if settings.half_life_s is not None:
            weights = torch.from_numpy(age_weights(outcomes, settings.half_life_s)).float().to(self.device)
        return Rows(
            *self._inputs(encoded),
            self._labels(outcomes),
            weights,
            label_weights(outcomes, settings, self.record),
            {by: strata_of(outcomes, by, self.record) for by in settings.strata},
        )

    def _labels(self, outcomes: Sequence[Outcome]) -> Tensor:
        if self.record.objective == "multiclass":
            index = {name: number for number, name in enumerate(self.record.classes)}
            return torch.tensor([index[str(outcome.label)] for outcome in outcomes], dtype=torch.int64, device=self.device)
        return torch.tensor([float(outcome.label) for outcome in outcomes], device=self.device)

    @torch.no_grad()
    def _progressive(self, rows: Rows, judged: list[int]) -> float:
        """The objective's proper loss, whatever is minimised, on those rows by which the model is judged; NaN without any."""
        self.scorer.eval()
        rows = rows if len(judged) == len(rows) else rows.at(judged)
        logits = self.scorer.network(rows.numbers, rows.categories)
        if self.record.drift is not None:
            self._last = rows, logits
        return float(self._plain.mean(logits, rows.labels)) if judged else math.nan

    @torch.no_grad()
    def seen(self) -> tuple[Encoded, np.ndarray, np.ndarray]:
        """Return what the last batch was judged by, before it was learned: the encoded rows, scores float32 [rows, outputs],
        losses float64 [rows]. Kept only of models that are watched for drift."""
        assert self._last is not None, "no batch was kept"
        rows, logits = self._last
        encoded = Encoded(rows.numbers.cpu().numpy(), rows.categories.cpu().numpy())
        return encoded, self.scorer.link(logits).cpu().numpy(), self._plain(logits, rows.labels).cpu().double().numpy()

    @torch.no_grad()
    def _taught(self, outcomes: Sequence[Outcome], rows: Rows) -> Rows:
        """What outcomes teach that say more than a label, or take one back: a row for each class of each that counts."""
        self.scorer.eval()
        scores = self.scorer(rows.numbers, rows.categories).double().cpu().numpy()
        probabilities = np.concatenate([1.0 - scores, scores], axis=1) if self.record.objective == "binary" else scores
        places = self.teaching.news(outcomes)
        terms = self.teaching.terms([outcomes[place] for place in places], probabilities[places])
        kept = [np.flatnonzero(term.weights) for term in terms]
        index = np.concatenate([np.array(places, dtype=np.int64)[some] for some in kept])
        labels = np.concatenate([term.labels[some] for term, some in zip(terms, kept, strict=True)])
        weights = np.concatenate([term.weights[some] for term, some in zip(terms, kept, strict=True)])
        # The mean is over outcomes, not over their terms.
        return rows.taught(index, labels, weights * (len(index) / max(1, len(places))))

    def _problem(self) -> str:
        # An optimiser that has seen an infinite gradient takes no step ever again, and the weights look as good as new.
        state = {"weights": self.scorer.state_dict(), "the optimiser's sums": self.descent.tensors()}
        named = {f"{what} are not finite: {name}": one for what, found in state.items() for name, one in found.items()}
        floats = {said: tensor for said, tensor in named.items() if tensor.is_floating_point()}
        # A sum is finite only if all it sums are, or it overflows: then look closer.
        if not bool(torch.stack([tensor.sum().float() for tensor in floats.values()]).isfinite().all()):
            return next((said for said, tensor in floats.items() if not bool(torch.isfinite(tensor).all())), "")
        return ""


def _network(spec: ModelSpec) -> nn.Module:
    record = spec.record
    if spec.network is not None:
        return spec.network(record.features, record.outputs)
    return TabularNetwork(record.features.numbers, record.features.buckets, record.outputs, shape=record.shape)


def _device(record: ModelRecord) -> str:
    asked = record.learning.device
    if asked == "cuda" and not torch.cuda.is_available():
        raise SpecError(
            f"model '{record.name}': learning: device 'cuda', and Ray gave this trainer no GPU that torch sees: give trainers "
            "one, or take 'auto', which goes on without"
        )
    return asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def sample(values: Sequence[float], count: int = 32) -> tuple[float, ...]:
    """Return evenly spaced order statistics: a small picture of a distribution."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if len(ordered) > count:
        ordered = ordered[np.linspace(0, len(ordered) - 1, count).astype(int)]
    return tuple(ordered.tolist())
