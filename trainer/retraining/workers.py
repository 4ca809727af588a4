"""A plan carried out by several workers, through Ray Train: each learns its part of every batch, gradients are averaged by
torch's DistributedDataParallel, and feature statistics are pooled, so that all have the same weights after each step.

The same number of workers gives the same bits; another number gives others, and as good a model.
"""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import torch
import torch.distributed
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch.nn.parallel import DistributedDataParallel

from trainer.errors import RetrainingError
from trainer.giving_way import give_way
from trainer.learner import Learner
from trainer.network import Standardise, pool
from trainer.retraining.course import Course, Learnt, Progress, begun
from trainer.retraining.plan import Plan

_WEIGHTS, _FIGURES, _DONE = "weights.safetensors", "figures.json", "done"
_CPUS = 0.1
"""Of each worker, as Ray counts: what a trainer has, too. Workers give way by their priority."""
_LOOK_S = 0.5


def carry_out(plan: Plan, weights: bytes, progress: Progress | None = None) -> Learnt:
    """Retrain on the Ray that is running.

    Raises:
        RetrainingError: the window is not what it was, nothing could be learned, or a worker died.
    """
    with TemporaryDirectory(prefix="tidemill-") as folder:
        done = Path(folder) / _DONE
        trainer = TorchTrainer(
            _work,
            train_loop_config={"plan": plan.model_dump(mode="json"), "weights": weights, "done": str(done)},
            torch_config=TorchConfig(backend="nccl" if plan.device == "cuda" else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=plan.workers, use_gpu=plan.device == "cuda", resources_per_worker=_resources(plan)
            ),
            run_config=RunConfig(name="retraining", storage_path=folder),
        )
        with _watched(done, progress):
            try:
                result = trainer.fit()
            except Exception as error:  # Ray's own, around whatever happened in a worker
                raise RetrainingError(f"a worker failed: {_cause(error)}") from error
        assert result.checkpoint is not None
        with result.checkpoint.as_directory() as made:
            figures: dict[str, Any] = json.loads((Path(made) / _FIGURES).read_text())
            return Learnt((Path(made) / _WEIGHTS).read_bytes(), **figures)


def _resources(plan: Plan) -> dict[str, float]:
    return {"CPU": _CPUS} | ({"GPU": 1.0} if plan.device == "cuda" else {})


def _work(config: dict[str, Any]) -> None:
    """What each worker does."""
    give_way()
    plan = Plan.model_validate(config["plan"])
    rank = ray.train.get_context().get_world_rank()
    learner = begun(plan, config["weights"])
    together(learner)
    course = Course(plan, learner, rank)
    course.run(_writer(Path(config["done"])) if rank == 0 else None)
    course.loss_sum, course.rows = _summed(learner.device, course.loss_sum, course.rows)
    learnt = course.learnt()
    with TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            (Path(folder) / _WEIGHTS).write_bytes(learnt.weights)
            figures = {"recent_loss": learnt.recent_loss, "refusals": learnt.refusals, "refused": learnt.refused}
            (Path(folder) / _FIGURES).write_text(json.dumps({"loss": learnt.loss} | figures))
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report({"loss": learnt.loss}, checkpoint=checkpoint)


def together(learner: Learner) -> None:
    """Let a learner take each step with the others of this process group, who have the other parts of the same batches."""
    learner.descent.fitted = DistributedDataParallel(learner.scorer.network)
    for module in learner.scorer.modules():
        if isinstance(module, Standardise):
            module.pooled = _pooled


def _pooled(own: torch.Tensor) -> torch.Tensor:
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own)
    return pool(parts)


def _summed(device: torch.device, *figures: float) -> list[float]:
    sums = torch.tensor(figures, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def _writer(file: Path) -> Progress:
    def tell(done: int, of: int) -> None:
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps([done, of]))
        draft.replace(file)

    return tell


@contextmanager
def _watched(file: Path, progress: Progress | None) -> Generator[None]:
    """Pass on what the first worker says of its progress, where it is on this machine."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            if progress is not None and file.exists():
                progress(*json.loads(file.read_text()))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


def _cause(error: BaseException) -> str:
    """The last line of what Ray wrapped."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    return str(first).strip().splitlines()[-1][:300]
