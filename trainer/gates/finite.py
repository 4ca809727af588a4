"""Weights and scores must be finite numbers."""

import numpy as np

from trainer.gates.gate import Case, Finding


class Finite:
    name = "finite"

    def applies(self, case: Case) -> bool:
        return case.settings.finite

    def judge(self, case: Case) -> Finding:
        for name, tensor in case.weights.items():
            if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
                return Finding(f"weights are not finite: {name}", back=True)
        scores = np.concatenate([case.scores, case.fresh])
        broken = int((~np.isfinite(scores)).any(axis=1).sum())
        if broken:
            return Finding(f"scores are not finite on {broken:,} of {len(scores):,} recent rows", back=True)
        return Finding()
