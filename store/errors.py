"""What can go wrong in the store.

StoreError
├── Unavailable          Redis does not answer, or cannot write
├── Conflict             somebody else moved first: compare-and-set failed
│   ├── EpochConflict    the policy's epoch is no longer the expected one
│   ├── RevisionConflict a model's expectations are no longer at the expected revision
│   ├── ModelExists      a model of this name is on record, or is just being purged
│   └── Fenced           another consumer moved this position: this one must stop
├── NotFound             no such model, version, graph or weights
├── SchemaError          a feature class that cannot be turned into a schema
├── SpecError            a model declaration that makes no sense, or differs from the one on record
├── LineError            a line that cannot be added, or cannot become main
└── PolicyError          a policy that makes no sense, or names what does not exist
"""


class StoreError(Exception):
    """Root of the store's errors."""


class Unavailable(StoreError):
    """Redis does not answer, or refuses to write."""


class Conflict(StoreError):
    """A compare-and-set found another value than the expected one."""


class EpochConflict(Conflict):
    def __init__(self, model: str, expected: int, actual: int) -> None:
        super().__init__(f"the policy of model '{model}' is at epoch {actual}, not {expected}: read it again and repeat")
        self.model, self.expected, self.actual = model, expected, actual


class RevisionConflict(Conflict):
    def __init__(self, model: str, expected: int, actual: int) -> None:
        super().__init__(
            f"the expectations of model '{model}' are at revision {actual}, not {expected}: read them again and repeat"
        )
        self.model, self.expected, self.actual = model, expected, actual


class ModelExists(Conflict):
    def __init__(self, model: str, purging: bool = False) -> None:
        super().__init__(
            f"what was kept of model '{model}' is being dropped: 'tidemill model remove {model} --purge' ends that"
            if purging
            else f"there is a model '{model}' already: 'tidemill model remove {model}' makes room for another"
        )
        self.model = model


class Fenced(Conflict):
    def __init__(self, consumer: str, expected: str, actual: str) -> None:
        super().__init__(f"{consumer} is at {actual}, not at {expected}: another process has taken over")
        self.consumer, self.expected, self.actual = consumer, expected, actual


class ArchiveBusy(Conflict):
    """Somebody else writes a model's archive."""


class NotFound(StoreError):
    """The named thing is not in the store."""


class SchemaError(StoreError):
    """A feature class cannot be turned into a schema."""


class SpecError(StoreError):
    """A model declaration makes no sense, or differs from the one on record."""


class LineError(StoreError):
    """A line cannot be added, or cannot become main; the text says why."""


class PolicyError(StoreError):
    """A policy makes no sense, or names what does not exist."""


def first_line(error: BaseException, most: int) -> str:
    """Return an error's first line, of `most` characters at most; the name of its kind where it says nothing.

    >>> first_line(ValueError("what is wrong\\nand where"), 9), first_line(TimeoutError(), 80)
    ('what is w', 'TimeoutError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:most]
