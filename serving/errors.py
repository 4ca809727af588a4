"""What a request can be refused for, and the one table from errors to HTTP status.

ServingError
├── BadRequest           400  not JSON, or not this shape
├── Unauthorized         401  no key, or a wrong one, where one is needed
├── Forbidden            403  a key of another role, or for other models
├── UnknownModel         404
├── NotTrainable         409  learning is asked of a model that has no trainer
├── InUse                409  a model that is to be removed has experiments that run
├── TooSlow              408  a body that does not come in time
├── TooLarge             413  body or batch over the limit
├── Invalid              422  features, labels or settings that fail their schema
├── Refused              422  a model from elsewhere that cannot become a version
├── PreconditionRequired 428  a PUT that needs If-Match
├── LimitReached         429  more than the key or the model allows
├── VersionFailed        500  a version raised, or gave a score that is no number
├── Overloaded           503  more requests at a time than a replica takes
├── NotReady             503  no version yet
├── LogUnavailable       503  the prediction cannot be logged
└── TimedOut             504  replicas have not applied a change in time, or the request's deadline has passed
"""

from collections.abc import Sequence

from store.artefact import ArtefactError
from store.errors import (
    Conflict,
    EpochConflict,
    Fenced,
    LineError,
    ModelExists,
    NotFound,
    PolicyError,
    RevisionConflict,
    SchemaError,
    SpecError,
    StoreError,
    Unavailable,
)
from store.records import Failures

RETRY_AFTER_S = 1


class ServingError(Exception):
    """Root of serving's errors."""


class BadRequest(ServingError):
    """The body is not JSON, or not of the expected shape."""


class Unauthorized(ServingError):
    """A key, or the operators' token, is missing or wrong."""


class Forbidden(ServingError):
    """The key is good, but not for this."""


class UnknownModel(ServingError):
    def __init__(self, model: str, known: list[str]) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"no model '{model[:80]}'; this platform serves: {names}")


class TooSlow(ServingError):
    """The body does not come in time."""


class TooLarge(ServingError):
    """The body or the batch is over its limit."""


class Invalid(ServingError):
    """Features, labels or settings fail their schema."""


class Refused(ServingError):
    """A model from elsewhere is not what it should be, or does not fit; nothing of it is kept."""


class NotTrainable(ServingError):
    def __init__(self, model: str) -> None:
        super().__init__(
            f"model '{model}' was imported and has no trainer, so it cannot be retrained: "
            f"'tidemill import FILE --model {model}' gives it its next version"
        )


class InUse(ServingError):
    """A model that is to be removed has experiments that run."""


class PreconditionRequired(ServingError):
    """A change that needs If-Match came without it."""


class LimitReached(ServingError):
    """A key or a model is asked more than it may be. `retry_s`: when to come again, in seconds."""

    def __init__(self, text: str, retry_s: int = RETRY_AFTER_S) -> None:
        super().__init__(text)
        self.retry_s = retry_s


class VersionFailed(ServingError):
    """A version could not answer. Carries what of the request it could not answer, where that is known."""

    def __init__(self, text: str, failures: Sequence[Failures] = ()) -> None:
        super().__init__(text)
        self.failures = failures


class Overloaded(ServingError):
    """More requests are at work than this replica takes."""


class NotReady(ServingError):
    """There is no version to answer with yet."""


class LogUnavailable(ServingError):
    """The event log does not take entries, and this platform answers only what it has logged."""


class TimedOut(ServingError):
    """Replicas have not applied a change in time, or the request's deadline has passed; the text says which."""


STATUS: dict[type[Exception], int] = {
    BadRequest: 400,
    Unauthorized: 401,
    Forbidden: 403,
    UnknownModel: 404,
    NotTrainable: 409,
    InUse: 409,
    TooSlow: 408,
    TooLarge: 413,
    Invalid: 422,
    Refused: 422,
    PreconditionRequired: 428,
    LimitReached: 429,
    VersionFailed: 500,
    Overloaded: 503,
    NotReady: 503,
    LogUnavailable: 503,
    TimedOut: 504,
    NotFound: 404,
    EpochConflict: 409,
    RevisionConflict: 409,
    ModelExists: 409,
    Fenced: 409,
    Conflict: 409,
    PolicyError: 422,
    LineError: 422,
    SchemaError: 422,
    SpecError: 422,
    ArtefactError: 500,
    Unavailable: 503,
    StoreError: 500,
    ServingError: 500,
}


def status_of(error: Exception) -> int:
    """Return the HTTP status of a domain error: that of its nearest class in the table."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
