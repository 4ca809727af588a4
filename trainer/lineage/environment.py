"""What decides, beside the data, which bits come out of learning: code, libraries, processor, threads."""

import hashlib
import platform
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict

import router
import store
import trainer
from store.learning import Learning
from store.protocols import Version
from store.search import Way
from store.shape import Shape
from store.spec import ModelSpec

WHEELS = ("torch", "numpy", "onnxruntime", "tidemill")
_CPUINFO = Path("/proc/cpuinfo")


class Environment(BaseModel):
    """Where something is learned. `code` is a digest of the sources of store, router and trainer, `model_code` of the modules
    that a model's features and network are defined in; what those import in turn is in neither.

    `instructions` is what torch makes use of, such as AVX2.
    """

    model_config = ConfigDict(frozen=True)

    wheels: dict[str, str]
    python: str
    processor: str
    instructions: str
    device: str
    threads: int
    code: str
    model_code: str

    @classmethod
    def here(cls, spec: ModelSpec, device: str) -> Self:
        """Return that of this process, once a learner has set it up."""
        return cls(
            wheels={name: _version(name) for name in WHEELS},
            python=platform.python_version(),
            processor=_processor(),
            instructions=torch.backends.cpu.get_cpu_capability(),
            device=device,
            threads=torch.get_num_threads(),
            code=_platform_code(),
            model_code=_model_code(spec),
        )

    def differences(self, now: "Environment") -> list[str]:
        """Say in words what is not as in another environment; nothing where the same batches give the same bits."""
        then = self._named()
        said = [f"{name} was {then[name]} and is {value}" for name, value in now._named().items() if then[name] != value]
        if self.threads != 1:
            said.append(f"it was learned by {self.threads} threads, whose sums come out in any order")
        return said

    def _named(self) -> dict[str, str]:
        plain = {
            "python": self.python,
            "the processor": self.processor,
            "torch's instruction set": self.instructions,
            "the device": self.device,
            "the number of threads": str(self.threads),
            "the platform's code": self.code,
            "the model's code": self.model_code,
        }
        return {name: self.wheels.get(name, "not on record") for name in WHEELS} | plain


def lineage_of(spec: ModelSpec, device: str) -> dict[str, Any]:
    """Return what is kept with each version, as JSON, of what it was learned with: hyperparameters (the seed is one of them),
    what labels are worth, and environment."""
    return {
        "learning": spec.learning.model_dump(mode="json"),
        "labels": spec.labels.model_dump(mode="json"),
        "environment": Environment.here(spec, device).model_dump(mode="json"),
    }


def way_of(version: Version, declared: Way) -> Way:
    """Return the way of learning that is kept with a version; what it does not say is as `declared`."""
    learning, shape = (version.lineage.get(part) for part in ("learning", "shape"))
    shape = shape or version.lineage.get("way", {}).get("shape")
    return Way(
        learning=Learning.model_validate(learning) if learning else declared.learning,
        shape=Shape.model_validate(shape) if shape else declared.shape,
    )


def _version(wheel: str) -> str:
    try:
        return version(wheel)
    except PackageNotFoundError:
        return "not installed"


@cache
def _processor() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def _platform_code() -> str:
    folders = [Path(package.__path__[0]) for package in (store, router, trainer)]
    return _digest((path.relative_to(folder.parent).as_posix(), path) for folder in folders for path in folder.rglob("*.py"))


def _model_code(spec: ModelSpec) -> str:
    modules = {spec.features.__module__} | ({spec.network.__module__} if spec.network else set())
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return _digest((name, Path(file)) for name, file in files.items() if file)


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()[:16]
