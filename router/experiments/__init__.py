"""One file per kind of experiment. A new kind is its file and one entry in `KINDS`."""

from router.experiments.ab import AB
from router.experiments.canary import Canary
from router.experiments.interleave import Interleave
from router.experiments.kind import Arm, Kind, Split
from router.experiments.shadow import Shadow

KINDS: dict[str, type[Kind]] = {"ab": AB, "canary": Canary, "interleave": Interleave, "shadow": Shadow}

__all__ = ["AB", "KINDS", "Arm", "Canary", "Interleave", "Kind", "Shadow", "Split"]
