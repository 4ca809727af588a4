"""Which columns of a model's encoded features each input of an ONNX model takes; or the features, made from the inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.errors import Refused
from serving.foreign.signature import MOST_COLUMNS, Input
from store.schema import FeatureField, Schema

MOST_FEATURES = 1000
"""Of a model that is made from its inputs: each is a field that every replica reads requests by."""

_NUMERIC = ("number", "boolean", "vector")
_NOT_YET = {"category": "a text", "timestamp": "a time"}


@dataclass(frozen=True, slots=True)
class Feed:
    """An input and the columns of the numbers matrix that it takes, in order."""

    input: Input
    columns: tuple[int, ...]


def matched(schema: Schema, inputs: Sequence[Input]) -> tuple[Feed, ...]:
    """Match inputs with a model's features: by name, or one input [N, d] with all that are numbers and that requests send, in
    the schema's order. Streaming features are taken by name: a model trained elsewhere on what was logged may want them.

    Raises:
        Refused: an input has no feature, or one that it cannot take; the text names both.
    """
    places = _places(schema)
    known = {field.name: field for field in schema.fields}
    if len(inputs) == 1 and inputs[0].name not in known:
        return (_table(schema, inputs[0], places),)
    return tuple(_by_name(one, known, places) for one in inputs)


def _places(schema: Schema) -> dict[str, tuple[int, ...]]:
    """Where each feature lies in the numbers matrix."""
    places: dict[str, tuple[int, ...]] = {}
    start = 0
    for field in schema.fields:
        places[field.name] = tuple(range(start, start + field.numbers))
        start += field.numbers
    return places


def _table(schema: Schema, one: Input, places: dict[str, tuple[int, ...]]) -> Feed:
    fields = [field for field in schema.asked if field.kind in _NUMERIC]
    columns = tuple(column for field in fields for column in places[field.name])
    where = f"input '{one.name[:80]}'"
    if one.flat or one.width != len(columns) or one.text:
        takes = "text" if one.text else f"{one.width} numbers"
        names = ", ".join(field.name for field in schema.asked)
        raise Refused(
            f"{where} takes {takes}, the model's numeric features make {len(columns)}, and no feature has its name: "
            f"name inputs as the features ({names[:300]}), or take all that are numbers, in their order"
        )
    for field in fields:
        _check_type(one, field)
    return Feed(one, columns)


def _by_name(one: Input, known: dict[str, FeatureField], places: dict[str, tuple[int, ...]]) -> Feed:
    where = f"input '{one.name[:80]}'"
    field = known.get(one.name)
    if field is None:
        raise Refused(f"{where} has no feature of its name: there are {', '.join(known)[:300]}")
    if field.kind in _NOT_YET:
        raise Refused(
            f"{where} would take feature '{field.name}', which is {_NOT_YET[field.kind]}: an import takes numbers only"
        )
    if one.text:
        raise Refused(f"{where} takes text, and feature '{field.name}' is a {field.kind}: an import takes numbers only")
    if one.width != field.numbers:
        raise Refused(f"{where} takes {one.width} numbers for each row, and feature '{field.name}' has {field.numbers}")
    _check_type(one, field)
    return Feed(one, places[field.name])


def _check_type(one: Input, field: FeatureField) -> None:
    if field.optional and (one.whole or one.boolean):
        takes = "whole numbers" if one.whole else "booleans"
        raise Refused(
            f"input '{one.name[:80]}' takes {takes}, and feature '{field.name}' may be missing, which none of them says"
        )


def derived(inputs: Sequence[Input]) -> Schema:
    """Return the features that a model's inputs ask for: a number or boolean of each [N] or [N, 1], a vector of each [N, d].

    Raises:
        Refused: an input takes text, or has a name or a size that no feature can have.
    """
    if len(inputs) > MOST_FEATURES:
        raise Refused(f"the model has {len(inputs):,} inputs: {MOST_FEATURES:,} are the most; one [N, d] takes d numbers")
    fields: list[FeatureField] = []
    for one in inputs:
        if not one.name.isprintable() or not 1 <= len(one.name) <= 100:
            raise Refused(
                f"input {one.name[:80]!r}: a feature is named after it, so its name is to be 1 to 100 printable characters"
            )
        if one.text:
            raise Refused(
                f"input '{one.name}' takes text: a model's features can be made from inputs of numbers and booleans only"
            )
        fields.append(_feature(one))
    schema = Schema(fields=tuple(fields))
    if schema.numbers > MOST_COLUMNS:
        raise Refused(f"the inputs take {schema.numbers:,} numbers for each row: {MOST_COLUMNS:,} are the most")
    return schema


def _feature(one: Input) -> FeatureField:
    if one.width > 1:
        return FeatureField(name=one.name, kind="vector", length=one.width)
    if one.boolean:
        return FeatureField(name=one.name, kind="boolean")
    if one.whole:
        least, most = one.bounds
        return FeatureField(name=one.name, kind="number", ge=least, le=most)
    return FeatureField(name=one.name, kind="number")
