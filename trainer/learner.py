"""The stateful object that learns: a network, its feature statistics, its optimiser; one micro-batch at a time."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn

from store.artefact import pack_weights
from store.encoding import Encoded, Encoder
from store.protocols import Graph
from store.records import Outcome
from store.spec import ModelRecord, ModelSpec
from trainer.errors import CheckpointError
from trainer.export import Rehearsal, Scorer, export
from trainer.network import TabularNetwork

_STATE = "adagrad."
RECENT = 0.98
"""Decay, per micro-batch, of the recent progressive loss."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a micro-batch did. `loss` is progressive: measured on each row before the learner has seen its label.

    `rejected` says why the batch's result may not be published; the learner is then as it was before the batch.
    `label_times` is a small picture of when the labels were received.
    """

    rows: int
    loss: float
    recent_loss: float
    rejected: str = ""
    label_times: tuple[float, ...] = ()


NOTHING = Learned(0, 0.0, 0.0)


class Learner:
    """Learns micro-batches of outcomes. Deterministic: same batches on the same machine and build, same bits.

    Args:
        device: where to learn; None takes a GPU where Ray has given this process one. What leaves the learner is on the CPU,
            and one that learned on a GPU goes on without.
    """

    def __init__(self, spec: ModelSpec, device: str | None = None) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(spec.learning.seed)
        self.record: ModelRecord = spec.record
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.scorer = Scorer(_network(spec), spec.objective).to(self.device)
        self._encoder = Encoder(self.record.features)
        self._loss = _losses(self.record)
        self._made: torch.optim.Adagrad | None = None
        self._recent = (0.0, 0.0)
        self._before: tuple[dict[str, Tensor], tuple[float, float]] | None = None
        self._rehearsal: Rehearsal | None = None
        self._last: tuple[Encoded, Tensor, Tensor] | None = None
        self.pace = 1.0
        """What the learning rate is multiplied by."""

    @property
    def _optimiser(self) -> torch.optim.Adagrad:
        """Made when it is first needed: torch imports its compiler for it, which a first version need not wait for."""
        if self._made is None:
            settings = self.record.learning
            self._made = torch.optim.Adagrad(
                self.scorer.parameters(),
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
                fused=self.device.type == "cpu",
            )
        return self._made

    def prepare(self) -> None:
        """Make what the first batch would otherwise wait for."""
        assert self._optimiser

    def export(self) -> Graph:
        return export(copy.deepcopy(self.scorer).cpu(), self.record.features)

    def learn(self, outcomes: Sequence[Outcome], seed: str) -> Learned:
        """Score, then learn, `learning.passes` times over the batch. `seed` makes what is random repeatable after a crash."""
        # Of the one generator that learning draws from: torch.manual_seed looks for every device there could be.
        number = int.from_bytes(seed.encode()[-7:], "big") + self.record.learning.seed
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)
        encoded = self._encoder.encode([outcome.row for outcome in outcomes])
        labels = self._labels(outcomes)
        received = sample([outcome.received_at for outcome in outcomes])
        self.prepare()
        self._before = self._tensors(copy=True), self._recent
        try:
            loss = self._progressive(encoded, labels)
            self._fit(encoded, labels)
            problem = self._problem()
        except (RuntimeError, ValueError) as error:
            problem, loss = f"learning failed: {str(error).splitlines()[0][:300]}", float("nan")
        if problem:
            self.undo()
            return Learned(len(outcomes), loss, self._recent_loss, problem, received)
        weight = self._recent[1] * RECENT + len(outcomes)
        self._recent = ((self._recent[0] * self._recent[1] * RECENT + loss * len(outcomes)) / weight, weight)
        return Learned(len(outcomes), loss, self._recent_loss, "", received)

    def undo(self) -> None:
        """Be as before the last batch, bit for bit."""
        assert self._before is not None, "no batch was learned"
        tensors, self._recent = self._before
        self._restore(tensors)

    def weights(self) -> bytes:
        """What a version ships, as safetensors."""
        return pack_weights(self._shipped())

    def golden(self, graph: Graph) -> tuple[tuple[float, ...], ...]:
        """Answer the graph's golden inputs with ONNX Runtime, as a replica will."""
        if self._rehearsal is None or self._rehearsal.digest != graph.digest:
            self._rehearsal = Rehearsal(graph)
        return self._rehearsal.scores(self._shipped())

    def _shipped(self) -> dict[str, np.ndarray]:
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.scorer.weights().items()}

    def checkpoint(self) -> bytes:
        """Everything that is not in the weights: the optimiser once it has begun, what only training needs, the recent loss."""
        shipped = self.scorer.weights().keys()
        rest = {name: tensor.cpu().numpy() for name, tensor in self._tensors().items() if name not in shipped}
        return pack_weights(rest, {"recent": json.dumps(self._recent)})

    def restore(self, weights: bytes, checkpoint: bytes) -> None:
        """Become the learner that wrote these.

        Raises:
            CheckpointError: they cannot be read or are of another network.
        """
        try:
            tensors = load(weights) | load(checkpoint)
            self._made = None
            if any(name.startswith(_STATE) for name in tensors):
                self.prepare()
            self._restore(tensors)
            header = json.loads(checkpoint[8 : 8 + int.from_bytes(checkpoint[:8], "little")])
            mean, weight = json.loads(header["__metadata__"]["recent"])
        except Exception as error:  # safetensors and torch raise many kinds
            raise CheckpointError(f"the checkpoint does not fit this network: {str(error).splitlines()[0]}") from error
        self._recent = (mean, weight)

    @property
    def _recent_loss(self) -> float:
        return self._recent[0]

    def _tensors(self, copy: bool = False) -> dict[str, Tensor]:
        tensors = {name: tensor.detach() for name, tensor in self.scorer.state_dict().items()}
        for name, parameter in self.scorer.named_parameters() if self._made is not None else ():
            state = self._optimiser.state[parameter]
            tensors[f"{_STATE}sum:{name}"] = state["sum"]
            tensors[f"{_STATE}step:{name}"] = state["step"]
        return {name: tensor.clone() for name, tensor in tensors.items()} if copy else tensors

    @torch.no_grad()
    def _restore(self, tensors: dict[str, Tensor]) -> None:
        mine = self._tensors()
        if mine.keys() != tensors.keys():
            raise ValueError(f"tensors differ: {', '.join(sorted(mine.keys() ^ tensors.keys()))[:300]}")
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)

    def _labels(self, outcomes: Sequence[Outcome]) -> Tensor:
        if self.record.objective == "multiclass":
            index = {name: number for number, name in enumerate(self.record.classes)}
            return torch.tensor([index[str(outcome.label)] for outcome in outcomes], dtype=torch.int64, device=self.device)
        return torch.tensor([float(outcome.label) for outcome in outcomes], device=self.device)

    def _inputs(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(encoded.numbers).to(self.device), torch.from_numpy(encoded.categories).to(self.device)

    @torch.no_grad()
    def _progressive(self, encoded: Encoded, labels: Tensor) -> float:
        self.scorer.eval()
        logits = self.scorer.network(*self._inputs(encoded))
        if self.record.drift is not None:
            self._last = encoded, logits, labels
        return float(self._loss(logits, labels))

    @torch.no_grad()
    def seen(self) -> tuple[Encoded, np.ndarray, np.ndarray]:
        """Return the last batch as it was before it was learned: the encoded rows, scores float32 [rows, outputs], losses
        float64 [rows]. Kept only of models that are watched for drift."""
        assert self._last is not None, "no batch was kept"
        encoded, logits, labels = self._last
        losses = _row_losses(self.record, logits, labels)
        return encoded, self.scorer.link(logits).cpu().numpy(), losses.cpu().double().numpy()

    def reset_optimiser(self) -> None:
        """Let the optimiser begin anew; the weights stay."""
        self._made = None
        self.prepare()

    def _fit(self, encoded: Encoded, labels: Tensor) -> None:
        settings = self.record.learning
        numbers, categories = self._inputs(encoded)
        self.scorer.train()
        for group in self._optimiser.param_groups:
            group["lr"] = settings.learning_rate * self.pace
        for start in range(0, len(labels), settings.rows):
            part = slice(start, start + settings.rows)
            if isinstance(self.scorer.network, TabularNetwork):
                self.scorer.network.observe(numbers[part])
            for _ in range(settings.passes):
                self._optimiser.zero_grad()
                loss = self._loss(self.scorer.network(numbers[part], categories[part]), labels[part])
                loss.backward()
                self._optimiser.step()
        self._forget(settings.memory)
        self.scorer.eval()

    @torch.no_grad()
    def _forget(self, memory: float) -> None:
        sums = [self._optimiser.state[parameter]["sum"] for parameter in self.scorer.parameters()]
        for accumulated in sums:
            accumulated.mul_(memory)

    def _problem(self) -> str:
        floats = {name: tensor for name, tensor in self.scorer.state_dict().items() if tensor.is_floating_point()}
        # A sum is finite only if all it sums are, or it overflows: then look closer.
        if not bool(torch.stack([tensor.sum().float() for tensor in floats.values()]).isfinite().all()):
            for name, tensor in floats.items():
                if not bool(torch.isfinite(tensor).all()):
                    return f"weights are not finite: {name}"
        return ""


def _network(spec: ModelSpec) -> nn.Module:
    record = spec.record
    if spec.network is not None:
        return spec.network(record.features, record.outputs)
    return TabularNetwork(record.features.numbers, record.features.buckets, record.outputs)


def _losses(record: ModelRecord) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of an objective, from logits [rows, outputs] and labels [rows]. Ranking learns relevance pointwise."""
    if record.objective == "binary":
        return lambda logits, labels: nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels)
    if record.objective == "multiclass":
        return nn.functional.cross_entropy
    return lambda logits, labels: nn.functional.mse_loss(logits[:, 0], labels)


def _row_losses(record: ModelRecord, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each row; their mean is that of `_losses`."""
    if record.objective == "binary":
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")
    if record.objective == "multiclass":
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    return nn.functional.mse_loss(logits[:, 0], labels, reduction="none")


def sample(values: Sequence[float], count: int = 32) -> tuple[float, ...]:
    """Return evenly spaced order statistics: a small picture of a distribution."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if len(ordered) > count:
        ordered = ordered[np.linspace(0, len(ordered) - 1, count).astype(int)]
    return tuple(ordered.tolist())
