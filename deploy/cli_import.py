"""The command that makes a version of a model from elsewhere."""

from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli_terminal import HomeOption, JsonOption, connected, errors, print_json, say

app = typer.Typer()

_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(help="The ONNX file.")],
    model: Annotated[str, typer.Option(help="The model it becomes a version of; a new name makes a new model.")],
    output: Annotated[str, typer.Option(help="Which output is the answer, where there are several.")] = "",
    line: Annotated[str, typer.Option(help="The line it becomes the newest version of.")] = "imported",
    objective: Annotated[
        str, typer.Option(help="binary, regression, multiclass or ranking, of a new model; default: by the outputs.")
    ] = "",
    classes: Annotated[str, typer.Option(help="The classes of a new multiclass model, such as a,b,c.")] = "",
    why: Annotated[str, typer.Option(help="The reason; it goes on record.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an ONNX model a version: served, compared and rolled back as any other."""
    with errors(), connected(home) as client:
        if file.suffix.lower() in _PICKLES:
            raise ValueError(
                f"{file}: a pickle runs code when opened, so it is not taken: convert the model to ONNX where you trained it"
            )
        given = {"line": line, "output": output, "objective": objective, "classes": classes, "why": why}
        made = client.import_version(model, file.read_bytes(), **{key: value for key, value in given.items() if value})
        if as_json:
            return print_json(made)
        say(f"version {made['version']} of model {model}, line {made['line']}")
        for sentence in made["said"]:
            say(f"  {sentence}")
        for sentence in _next_steps(model, made):
            say(sentence)


def _next_steps(model: str, made: dict[str, Any]) -> list[str]:
    """Say who is answered by the version, and what it is asked with."""
    number = made["version"]
    said: list[str] = []
    if made["new"]:
        features = ", ".join(f"{one['name']} ({_kind(one)})" for one in made["features"][:20])
        said.append(f"a new model, objective {made['objective']}, features {features}; nothing trains it")
    if made["answers"]:
        said.append(f"it answers as {', '.join(made['answers'])}")
    else:
        said.append(
            f"it answers nobody yet: 'tidemill experiment start {model} trial --arm imported={number}' "
            f"tries it, 'tidemill promote {model} {number}' takes it at once"
        )
    return said


def _kind(feature: dict[str, Any]) -> str:
    return f"{feature['length']} numbers" if feature["kind"] == "vector" else feature["kind"]
