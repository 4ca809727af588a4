"""Where a better way to learn is looked for: settings of `Learning` and `Shape` by dotted name, and what each may be."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, ValidationError, model_validator

from store.learning import MEMORY, Learning
from store.shape import Shape

_FIXED = ("learning.seed", "learning.device", "learning.frozen")
"""No way to learn, or nothing that one run can compare."""


class _Dimension(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Range(_Dimension):
    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"from {self.low:g} to {self.high:g} is no range: low must be below high")
        return self

    @property
    def ends(self) -> tuple[JsonValue, ...]:
        return self.low, self.high


class Uniform(_Range):
    """Any number between two."""

    kind: Literal["uniform"] = "uniform"


class LogUniform(_Range):
    """Any number between two, as often between 1 and 10 as between 10 and 100."""

    kind: Literal["log_uniform"] = "log_uniform"
    low: FiniteFloat = Field(gt=0.0)


class Int(_Dimension):
    """Any whole number between two, both among them."""

    kind: Literal["int"] = "int"
    low: int
    high: int

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"from {self.low} to {self.high} is no range: low must be below high")
        return self

    @property
    def ends(self) -> tuple[JsonValue, ...]:
        return self.low, self.high


class Choice(_Dimension):
    """One of several, such as widths of layers or whole settings: {"kind": "adam"}."""

    kind: Literal["choice"] = "choice"
    values: tuple[JsonValue, ...] = Field(min_length=2)

    @property
    def ends(self) -> tuple[JsonValue, ...]:
        return self.values


Dimension = Annotated[Uniform | LogUniform | Int | Choice, Field(discriminator="kind")]


class Way(BaseModel):
    """A way to learn: hyperparameters, and the default network's shape; that says nothing where a model has its own network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning: Learning = Learning()
    shape: Shape = Shape()

    def altered(self, settings: Mapping[str, JsonValue]) -> Self:
        """Return the way with other settings, by dotted name. Where the optimiser is not Adagrad, memory is left out.

        Raises:
            ValueError: a name is no setting, or a value none for it.
        """
        plain: dict[str, Any] = self.model_dump(mode="json")
        # Whole settings before their parts: 'learning.optimiser' before 'learning.optimiser.beta1'.
        for name in sorted(settings):
            *parents, last = name.split(".")
            inner = plain
            for parent in parents:
                found = inner.get(parent)
                if not isinstance(found, dict):
                    raise ValueError(f"'{name}' is no setting")
                inner = found
            inner[last] = settings[name]
        if plain["learning"]["optimiser"]["kind"] != "adagrad":
            plain["learning"]["memory"] = MEMORY
        try:
            return type(self).model_validate(plain)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"'{where}' is no setting" if first["type"] == "extra_forbidden" else f"{where}: {first['msg']}"
            ) from None


class Search(BaseModel):
    """A search space, such as Search(over={"learning.learning_rate": LogUniform(low=0.001, high=0.3)})."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    over: dict[str, Dimension] = Field(min_length=1)

    def problem(self, way: Way, own_network: bool = False) -> str:
        """Say what makes no sense for a model that learns in this way, or nothing: each end is tried alone."""
        if own_network and any(name.startswith("shape") for name in self.over):
            return "a network of its own has no shape to be searched"
        for name, dimension in self.over.items():
            if name in _FIXED:
                return f"'{name}' cannot be searched"
            try:
                for value in dimension.ends:
                    way.altered({name: value})
            except ValueError as error:
                return f"{name}: {error}" if name not in str(error) else str(error)
        return ""


def default_search(objective: str, own_network: bool) -> Search:
    """Return the space that is searched where a declaration names none.

    Args:
        own_network: a network of the user's own has no shape to be searched.
    """
    over: dict[str, Dimension] = {
        "learning.learning_rate": LogUniform(low=0.003, high=0.3),
        "learning.optimiser": Choice(values=({"kind": "adagrad"}, {"kind": "adam"}, {"kind": "sgd"})),
        "learning.passes": Int(low=1, high=4),
        "learning.rows": Choice(values=(32, 128, 512, 1024)),
        "learning.memory": Choice(values=(0.99, 0.999, 1.0)),
        "learning.weight_decay": LogUniform(low=1e-6, high=1e-2),
        "learning.replay": Choice(values=(None, {"capacity": 8192, "rows": 64, "share": 0.3})),
        "learning.half_life_s": Choice(values=(None, 86_400.0, 604_800.0)),
    }
    if objective in ("binary", "multiclass"):
        over["learning.loss"] = Choice(values=({"kind": "plain"}, {"kind": "class_balanced"}))
    if not own_network:
        over["shape.hidden"] = Choice(values=([32], [64, 32], [128, 64], [128, 64, 32]))
        over["shape.dimension"] = Choice(values=(4, 8, 16))
        over["shape.cross"] = Int(low=0, high=2)
    return Search(over=over)
