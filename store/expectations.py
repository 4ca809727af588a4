"""What a model's features are expected to be: plain data, kept beside the model, inferred by its trainer or edited by people.

    kind         of features that are    says
    range        number                  `low` <= value <= `high`
    norm         vector                  the same of its Euclidean norm
    age          timestamp               the same of the seconds from it to the prediction, as its wall clock has them
    categories   category                the value is one of `values`
    missing      optional                of WINDOW rows a share of at most `most_missing` has no value

Types need no expectation: a schema refuses what is of another one. A missing value violates nothing but `missing`.
"""

from collections import Counter
from functools import lru_cache
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from store.errors import Fenced, RevisionConflict, SchemaError
from store.names import AUDIT, CONTROL, expectations_consumer
from store.protocols import Advance, EventLog, position_key
from store.schema import Kind as FieldKind
from store.schema import Schema

Kind = Literal["range", "norm", "age", "categories", "missing"]
WINDOW = 1000
"""Rows over which a share of missing values is looked at."""

BOUNDED: dict[str, FieldKind] = {"range": "number", "norm": "vector", "age": "timestamp"}
"""Kinds that have bounds, and of which features they are."""


class Expectation(BaseModel):
    """One expectation of one feature; see above. `action`: count what violates it, or refuse the request as well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    kind: Kind
    low: float | None = Field(default=None, allow_inf_nan=False)
    high: float | None = Field(default=None, allow_inf_nan=False)
    values: tuple[str, ...] = Field(default=(), max_length=10_000)
    most_missing: float | None = Field(default=None, ge=0.0, le=1.0)
    action: Literal["count", "refuse"] = "count"

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        about = f"{self.feature[:80]}: {self.kind}"
        bounds = self.low is not None or self.high is not None
        wanted = {"categories": bool(self.values), "missing": self.most_missing is not None}
        if not wanted.get(self.kind, bounds):
            needs = {"categories": "'values'", "missing": "'most_missing'"}.get(self.kind, "'low', 'high' or both")
            raise ValueError(f"{about} needs {needs}")
        if [bool(self.values), self.most_missing is not None, bounds].count(True) > 1:
            raise ValueError(f"{about} takes nothing else")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"{about}: 'low' is above 'high'")
        if self.most_missing and self.action == "refuse":
            raise ValueError(f"{about}: a share is that of a window; a request can be refused only where 'most_missing' is 0")
        return self

    def words(self) -> str:
        """
        >>> Expectation(feature="age", kind="range", low=0, high=120).words()
        'from 0 to 120'
        """
        unit = " s before the prediction" if self.kind == "age" else ""
        subject = "a norm " if self.kind == "norm" else ""
        match self.kind, self.low, self.high:
            case "categories", _, _:
                more = f" or one of {len(self.values) - 8:,} more" if len(self.values) > 8 else ""
                return f"one of {', '.join(repr(value[:40]) for value in self.values[:8])}{more}"
            case "missing", _, _:
                return (
                    f"missing in at most {(self.most_missing or 0.0) * 100:.3g}% of rows"
                    if self.most_missing
                    else "never missing"
                )
            case _, None, high:
                return f"{subject}at most {high:.6g}{unit}"
            case _, low, None:
                return f"{subject}at least {low:.6g}{unit}"
            case _, low, high:
                return f"{subject}from {low:.6g} to {high:.6g}{unit}"


class Expectations(BaseModel):
    """All expectations of a model, the `revision`-th: inferred from `rows` outcomes, or edited, by `who` at `at`.

    With revision 0, or inferred of no rows, they wait for the trainer.
    """

    model_config = ConfigDict(frozen=True)

    expectations: tuple[Expectation, ...] = Field(default=(), max_length=20_000)
    revision: int = 0
    origin: Literal["inferred", "edited"] = "inferred"
    rows: int = 0
    at: float = 0.0
    who: str = ""

    @property
    def awaited(self) -> bool:
        return self.origin == "inferred" and not self.rows

    def check(self, schema: Schema) -> None:
        """Raises SchemaError where they are not about these features, or two of a kind are about one."""
        fields = {field.name: field for field in schema.fields}
        for one in self.expectations:
            field = fields.get(one.feature)
            if field is None:
                raise SchemaError(f"expectations: there is no feature '{one.feature[:80]}' among {', '.join(fields)[:300]}")
            wanted = BOUNDED.get(one.kind, "category" if one.kind == "categories" else field.kind)
            if field.kind != wanted:
                raise SchemaError(f"expectations: '{one.feature}' is a {field.kind}, and '{one.kind}' is for a {wanted}")
            if one.kind == "missing" and not field.optional:
                raise SchemaError(f"expectations: '{one.feature}' can never be missing; 'missing' is for optional features")
        counts = Counter((one.feature, one.kind) for one in self.expectations)
        if twice := next((name for name, count in counts.items() if count > 1), None):
            raise SchemaError(f"expectations: there are two of kind '{twice[1]}' for '{twice[0]}'")


async def read_expectations(log: EventLog, model: str) -> Expectations:
    _, state = await log.consumer(expectations_consumer(model))
    return _parsed(state) if state else Expectations()


async def write_expectations(
    log: EventLog, model: str, wanted: Expectations, expected: int, audit: bytes = b""
) -> Expectations:
    """Replace a model's expectations and keep the audit record, both or neither; return them with their new revision.

    They lie where a consumer's state does, whose position is the revision: moved from the expected one, or not at all.

    Raises:
        RevisionConflict: the revision is not the expected one.
    """
    new = wanted.model_copy(update={"revision": expected + 1})
    step = Advance(expectations_consumer(model), _position(expected), _position(new.revision), new.model_dump_json().encode())
    try:
        await log.advance(step, [*([(AUDIT, audit)] if audit else []), (CONTROL, b"")])
    except Fenced as error:
        raise RevisionConflict(model, expected, position_key(error.actual)[0]) from None
    return new


def _position(revision: int) -> str:
    return f"{revision}-0"


@lru_cache(maxsize=1024)
def _parsed(text: bytes) -> Expectations:
    return Expectations.model_validate_json(text)
