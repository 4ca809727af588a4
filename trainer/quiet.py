"""Libraries that print, log and warn of what is not ours to mend, kept quiet."""

import contextlib
import logging
import os
import warnings
from collections.abc import Generator


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Let nothing out up to warnings. Handlers that are given to the root logger meanwhile are taken away again: some
    modules do that where they are imported."""
    root = logging.root
    disabled, level, handlers = root.manager.disable, root.level, list(root.handlers)
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
