"""All gates of one version, the cheap ones first; the first that fails ends it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.gates.behaviour import Behaviour
from trainer.gates.calibration import Calibration
from trainer.gates.finite import Finite
from trainer.gates.gate import Case, Gate
from trainer.gates.latency import Latency
from trainer.gates.quality import Quality
from trainer.gates.size import Size
from trainer.gates.slices import Slices

GATES: tuple[Gate, ...] = (Finite(), Quality(), Calibration(), Slices(), Behaviour(), Size(), Latency())
"""In order of cost, and those that send the learner back before those that do not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problem` is empty for a version that may be published; `back`: the learner is to return to its last good state.
    `evidence`: by gate, what it found; gates that were not asked are not in it."""

    problem: str = ""
    back: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)


def judge(case: Case) -> Verdict:
    evidence: dict[str, Any] = {}
    for gate in GATES:
        if gate.applies(case):
            found = gate.judge(case)
            evidence[gate.name] = dict(found.evidence)
            if found.problem:
                return Verdict(f"{gate.name}: {found.problem}", found.back, evidence)
    return Verdict("", False, evidence)
