"""Drift: what a model learns from is no longer as it was."""

from trainer.drift.columns import Seen
from trainer.drift.monitor import Monitor
from trainer.drift.window import Alarm, Moved, Place, SliceMoved

__all__ = ["Alarm", "Monitor", "Moved", "Place", "Seen", "SliceMoved"]
