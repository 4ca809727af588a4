"""The mean loss on recent outcomes must not be worse than the last good state's by more than a margin.

Rows are paired: both states answer the same rows, from before the batch that one of them has just learned. A batch of wrong
labels makes a version that fits those labels and misses the others. Small batches do little harm each; they add up against the
last good state, which stays the same one for half a window of outcomes (`trainer.gates.window`).
"""

from trainer.gates.gate import Case, Finding, allowance, enough, surely_above


class Quality:
    name = "quality"

    def applies(self, case: Case) -> bool:
        return case.settings.quality is not None and enough(case)

    def judge(self, case: Case) -> Finding:
        margin = allowance(case, case.settings.quality or 0.0)
        loss, before = float(case.losses.mean()), float(case.reference.mean())
        evidence = {"loss": loss, "before": before, "margin": margin, "rows": len(case.rows)}
        if not surely_above(case.losses - case.reference, margin, case.alpha):
            return Finding(evidence=evidence)
        why = (
            f"worse than the last good state: loss {loss:.4g} after {before:.4g} on {len(case.rows):,} recent outcomes, "
            f"more than {margin:.2g} apart beyond chance"
        )
        return Finding(why, back=True, evidence=evidence)
