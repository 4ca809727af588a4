"""ADWIN: a window that grows while its mean stays, and is cut where it does not (Bifet and Gavaldà 2007)."""

from river.drift import ADWIN

from trainer.drift.mean import CLIP


class AdaptiveWindow:
    """River's ADWIN over standardised means. `level`: false alarms accepted per mean."""

    name = "adwin"

    def __init__(self, level: float) -> None:
        self._adwin = ADWIN(delta=min(0.5, level), clock=1)

    def rose(self, mean: float) -> bool | None:
        """Take in a mean in [-CLIP, CLIP]; return whether the means have risen, None if they have fallen."""
        # Its bound is for values from 0 to 1.
        before = self._adwin.estimation
        value = (mean + CLIP) / (2.0 * CLIP)
        self._adwin.update(value)
        if not self._adwin.drift_detected:
            return False
        return True if self._adwin.estimation > before else None
