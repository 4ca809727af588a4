"""The shape of the default network, as a declaration says it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Width = Annotated[int, Field(ge=1, le=65_536)]


class Shape(BaseModel):
    """What the default network is made of: a wide linear part and a deep one, over embedded categories and numbers.

    Args:
        hidden: how wide the perceptron's hidden layers are, from the input on; none makes it linear.
        dimension: of the embeddings of categories.
        cross: how many cross layers (Wang and others 2021, DCN V2) stand before the perceptron, each of which multiplies its
            input with all features once more; 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[Width, ...] = Field(default=(64, 32), max_length=16)
    dimension: int = Field(default=8, ge=1, le=4096)
    cross: int = Field(default=0, ge=0, le=16)


DEFAULT_SHAPE = Shape()
