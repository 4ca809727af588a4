"""How a micro-batch moves the weights: loss, choice of rows, replay, optimiser and its rate, and all that they remember."""

import json
import logging
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from store.errors import SpecError
from store.spec import ModelRecord
from trainer.losses import loss_of
from trainer.network import TabularNetwork
from trainer.optimisers import optimiser_of
from trainer.rates import share_of_rate
from trainer.replay import Offer, Reservoir
from trainer.rows import Rows
from trainer.sampling import Candidates, choose

log = logging.getLogger(__name__)
_NETWORK = "network."


@dataclass(frozen=True, slots=True)
class Before:
    """Copies of what optimiser and loss remembered when a batch began, and what else was known of them."""

    tensors: dict[str, Tensor]
    steps: int
    afresh: str


class Descent:
    """The steps of one learner. Deterministic: same rows and draws, same bits.

    Args:
        scorer: holds the network to train as `network`.

    Raises:
        SpecError: patterns of frozen parameters match nothing or everything, or the replay is too large.
    """

    def __init__(self, record: ModelRecord, scorer: nn.Module, device: torch.device) -> None:
        self._record, self._settings, self._device = record, record.learning, device
        self._scorer = scorer
        self._network: nn.Module = scorer.get_submodule("network")
        self.fitted = self._network
        """What steps are taken with: the network, or around it what lets several processes fit it together."""
        self._trained = _trained(record, scorer)
        self._loss = loss_of(record).to(device)
        self._made: torch.optim.Optimizer | None = None
        self.replay = Reservoir(self._settings.replay, record) if self._settings.replay else None
        self.steps = 0
        """How many were taken since the model began."""
        self.pace = 1.0
        """What the learning rate is multiplied by."""
        self.afresh = ""
        """Which state did not fit the declaration when it was taken up, and starts anew; nothing after the next batch."""

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Made when it is first needed: torch imports its compiler for it, which a first version need not wait for."""
        if self._made is None:
            self._made = optimiser_of(self._settings, self._trained.values(), self._device)
        return self._made

    def reset(self) -> None:
        """Let the optimiser begin anew; the weights stay."""
        self._made = None
        assert self.optimiser

    def fit(self, rows: Rows, offer: Offer | None, outcomes: int, draw: np.random.Generator) -> None:
        """Learn a micro-batch of so many outcomes, and then let the replay, where there is one, take what it is offered; the
        network is in training mode."""
        settings, size = self._settings, self._settings.rows
        if len(rows) != outcomes:  # as many steps as for plain labels: several workers take theirs together
            size = max(1, math.ceil(len(rows) / math.ceil(outcomes / size)))
        self._loss.observe(rows.labels)
        for start in range(0, len(rows), size):
            part = rows.part(slice(start, start + size))
            if isinstance(self._network, TabularNetwork):
                self._network.observe(part.numbers)
            for _ in range(settings.passes):
                self._step(self._with_old(self._chosen(part, draw), draw))
        if settings.optimiser.kind == "adagrad" and settings.memory != 1.0:
            self._forget(settings.memory)
        if self.replay is not None and offer is not None:
            self.replay.offer(offer, draw)

    def loss(self, rows: Rows) -> Tensor:
        """Return a step's loss: the mean over its rows, weighed where they have weights."""
        logits = self.fitted(rows.numbers, rows.categories)
        if rows.weights is None:
            return self._loss.mean(logits, rows.labels)
        return (self._loss(logits, rows.labels) * rows.weights).mean()

    def _step(self, rows: Rows) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self._settings.learning_rate * share_of_rate(self._settings.rate, self.steps) * self.pace
        self.optimiser.zero_grad()
        self.loss(rows).backward()
        self.optimiser.step()
        self.steps += 1

    def _chosen(self, rows: Rows, draw: np.random.Generator) -> Rows:
        sampling = self._settings.sampling
        if sampling is None:
            return rows
        even = np.ones(len(rows))
        weights = even if rows.weights is None else rows.weights.cpu().double().numpy()
        likely = even if rows.likely is None else rows.likely
        strata = rows.strata[sampling.by] if sampling.kind == "stratified" else np.zeros(len(rows), np.int64)
        choice = choose(sampling, Candidates(weights, likely, strata, lambda: self._gradients(rows) * weights), draw)
        return rows.chosen(choice.rows, choice.factors)

    def _with_old(self, rows: Rows, draw: np.random.Generator) -> Rows:
        if self.replay is None or self._settings.replay is None or not len(self.replay):
            return rows
        return rows.beside(self.replay.drawn(draw, self._device), self._settings.replay.share)

    def _gradients(self, rows: Rows) -> np.ndarray:
        """The norm of each row's loss's gradient at its logits, float64 [rows]."""
        with torch.no_grad():
            logits = self._network(rows.numbers, rows.categories)
        logits.requires_grad_()
        [gradients] = torch.autograd.grad(self._loss(logits, rows.labels).sum(), logits)
        return gradients.norm(dim=1).cpu().double().numpy()

    @torch.no_grad()
    def _forget(self, memory: float) -> None:
        for parameter in self._trained.values():
            self.optimiser.state[parameter]["sum"].mul_(memory)

    def tensors(self) -> dict[str, Tensor]:
        """What optimiser and loss remember. The replay is apart: it undoes by itself what it took in."""
        found = {f"loss.{name}": tensor.detach() for name, tensor in self._loss.state_dict().items()}
        if self._made is not None:
            for name, parameter in self._trained.items():
                for key, value in self._made.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        found[f"{self._settings.optimiser.kind}.{key}:{name}"] = value
        return found

    def checkpoint(self) -> tuple[dict[str, Tensor], str]:
        """Return all that goes on after a restart: tensors, and the rest as a text."""
        tensors = self.tensors()
        rest: dict[str, object] = {"steps": self.steps, "optimiser": self._settings.optimiser.kind}
        if self.replay is not None:
            tensors |= {f"replay.{name}": tensor for name, tensor in self.replay.tensors().items()}
            rest["replay"] = self.replay.fingerprint
        return tensors, json.dumps(rest)

    def begin(self) -> Before:
        """Return what `undo` needs to take back the batch that begins."""
        if self.replay is not None:
            self.replay.begin()
        before = Before({name: tensor.clone() for name, tensor in self.tensors().items()}, self.steps, self.afresh)
        self.afresh = ""
        return before

    def undo(self, before: Before) -> None:
        """Be as when the last batch began."""
        self._take_loss(before.tensors)
        self._take_optimiser(before.tensors)
        self.steps, self.afresh = before.steps, before.afresh
        if self.replay is not None:
            self.replay.undo()

    def restore(self, tensors: dict[str, Tensor], rest: str) -> None:
        """Go on from a checkpoint. Of what the declaration has changed since, the state starts afresh, and `afresh` says so.

        Raises:
            ValueError, KeyError, RuntimeError: it cannot be read.
        """
        known: dict[str, Any] = json.loads(rest) if rest else {"steps": 0, "optimiser": "adagrad"}
        self.steps = int(known["steps"])
        self._made = None
        new = list[str]()
        if not self._take_loss(tensors):
            new.append(f"what the loss {self._settings.loss.kind} has seen")
        was, kind = known["optimiser"], self._settings.optimiser.kind
        if any(name.startswith(f"{was}.") for name in tensors):
            if was != kind:
                new.append(f"the state of the optimiser: {kind} instead of {was}")
            elif fresh := self._take_optimiser(tensors):
                new.append(f"the optimiser's state for {', '.join(fresh)}")
        if self.replay is not None and "replay" in known:
            if known["replay"] == self.replay.fingerprint:
                mine = {name.removeprefix("replay."): tensor for name, tensor in tensors.items() if name.startswith("replay.")}
                self.replay.restore(mine)
            else:
                new.append("the replay")
        self.afresh = "; ".join(new)
        if new:
            log.warning("model %s: its declaration changed, so this starts afresh: %s", self._record.name, self.afresh)

    @torch.no_grad()
    def _take_loss(self, tensors: dict[str, Tensor]) -> bool:
        mine = {f"loss.{name}": tensor for name, tensor in self._loss.state_dict().items()}
        if any(name not in tensors or tensors[name].shape != tensor.shape for name, tensor in mine.items()):
            return False
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        return True

    def _take_optimiser(self, tensors: dict[str, Tensor]) -> list[str]:
        """Put state in place of the present one; return the names of the parameters that have none."""
        prefix, fresh = f"{self._settings.optimiser.kind}.", list[str]()
        for name, parameter in self._trained.items():
            found = {
                key.removeprefix(prefix).partition(":")[0]: tensor
                for key, tensor in tensors.items()
                if key.startswith(prefix) and key.partition(":")[2] == name
            }
            if any(key != "step" and tensor.shape != parameter.shape for key, tensor in found.items()):
                raise ValueError(f"the optimiser's state for {name} is of another shape")
            if found:
                # The count of steps stays on the CPU, wherever its parameter is.
                place = {key: "cpu" if key == "step" else parameter.device for key in found}
                self.optimiser.state[parameter] = {key: tensor.to(place[key], copy=True) for key, tensor in found.items()}
                continue
            fresh.append(name.removeprefix(_NETWORK))
            if self._made is not None and self._settings.optimiser.kind != "adagrad":
                self._made.state.pop(parameter, None)  # made at the first step, which is undone
        return fresh


def _trained(record: ModelRecord, scorer: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters to train, by name; the others ask for no gradient."""
    named = dict(scorer.named_parameters())
    names = [name.removeprefix(_NETWORK) for name in named]
    patterns = record.learning.frozen
    said = f"model '{record.name}': learning: frozen"
    if idle := [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]:
        raise SpecError(f"{said}: no parameter's name matches '{idle[0]}'; there are {', '.join(names)}")
    frozen = [any(fnmatchcase(name, pattern) for pattern in patterns) for name in names]
    for parameter, stays in zip(named.values(), frozen, strict=True):
        parameter.requires_grad_(not stays)
    trained = {name: parameter for (name, parameter), stays in zip(named.items(), frozen, strict=True) if not stays}
    if not trained:
        raise SpecError(f"{said}: nothing is left to learn; leave one of {', '.join(names)} out")
    return trained
