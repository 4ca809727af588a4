"""What a version ships must not be too large. The learner goes on: going back would not make it smaller."""

from trainer.gates.gate import Case, Finding


class Size:
    name = "size"

    def applies(self, case: Case) -> bool:
        return case.settings.size_mb is not None

    def judge(self, case: Case) -> Finding:
        most = case.settings.size_mb or 0.0
        size = sum(tensor.nbytes for tensor in case.weights.values()) / 1e6
        why = f"{size:.4g} MB of weights, more than {most:g} MB" if size > most else ""
        return Finding(why, evidence={"size_mb": size})
