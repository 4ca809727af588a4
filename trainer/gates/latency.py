"""A version must answer in time. The learner goes on: going back would not make it faster.

The only gate that another run may decide otherwise; what it decided is on the version's record, and is not asked again.
"""

from trainer.gates.gate import Case, Finding


class Latency:
    name = "latency"

    def applies(self, case: Case) -> bool:
        return case.settings.latency_ms is not None and len(case.rows) > 0

    def judge(self, case: Case) -> Finding:
        most, rows = case.settings.latency_ms or 0.0, case.settings.latency_rows
        found = case.latency_s(rows) * 1000.0
        why = f"{found:.3g} ms for {rows} rows, more than {most:g} ms" if found > most else ""
        return Finding(why, evidence={"latency_ms": found, "rows": rows})
