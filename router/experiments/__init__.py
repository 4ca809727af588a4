"""One file per kind of experiment. A new kind is its file and one entry in `KINDS`."""

from router.experiments.ab import AB
from router.experiments.kind import Arm, Kind
from router.experiments.shadow import Shadow

KINDS: dict[str, type[Kind]] = {"ab": AB, "shadow": Shadow}

__all__ = ["AB", "KINDS", "Arm", "Kind", "Shadow"]
