"""What the extra `tuning` brings, and what is said where it is not installed."""

from importlib.util import find_spec

from tuning.errors import TuningError


def require(module: str, use: str) -> None:
    """Raises TuningError where a module is missing that some use needs."""
    if find_spec(module) is None:
        raise TuningError(f"{use} needs {module}: pip install 'tidemill[tuning]'")
