"""Every error that this package raises on purpose.

::

    BlackBoxDeltaError
    ├── ConfigError            a setting, or a combination of settings, makes no sense
    │   ├── TemplateError      the template cannot be read or lacks a field
    │   └── VerbalizerError    label words are empty, missing or collide
    ├── DataError              the labelled data cannot be used
    ├── ModelError             the model cannot be found, loaded or used this way
    │   ├── UnsupportedError   the backend does not offer what the run needs
    │   └── FingerprintError   an artifact belongs to another model
    ├── BackendError           a reply was missing, broken or not a number
    │   ├── OutOfMemoryError   even the smallest batch does not fit
    │   └── RemoteError        a server cannot be reached, refuses, or answers nonsense
    │       ├── RejectedError  the server understood what was asked and does not do it
    │       └── AuthorisationError  the server does not accept the key, or there is none
    ├── BudgetError            the budget cannot pay for what was asked
    │   └── SpentError         it ran out in the middle of a request
    ├── RunError               a run folder is damaged, in use or belongs to another run
    │   ├── JournalError       the journal is damaged, in use or of a newer version
    │   └── ArtifactError      the saved delta is damaged or of a newer version
    ├── ExportError            what was tuned has no place in the other package's layout
    └── MissingExtraError      an optional dependency is not installed

A message says what was wrong, where, and what to do about it.
"""

from __future__ import annotations

_LOST = "lost_queries"


class BlackBoxDeltaError(Exception):
    """Base class of all errors raised by ``blackbox_delta``."""


class ConfigError(BlackBoxDeltaError, ValueError):
    """A setting, or a combination of settings, makes no sense."""


class TemplateError(ConfigError):
    """The template cannot be read, lacks a field or names an unknown one."""


class VerbalizerError(ConfigError):
    """Label words are empty, missing or collide."""


class DataError(BlackBoxDeltaError, ValueError):
    """The labelled data cannot be used."""


class ModelError(BlackBoxDeltaError):
    """The model cannot be found, loaded or used this way."""


class UnsupportedError(ModelError):
    """The backend does not offer what the run needs."""


class FingerprintError(ModelError):
    """An artifact belongs to another model."""


class BackendError(BlackBoxDeltaError):
    """A reply was missing, broken or not a number; it never becomes a loss."""


class OutOfMemoryError(BackendError):
    """Even the smallest batch does not fit into memory."""


class RemoteError(BackendError):
    """A server cannot be reached, refuses what was asked, or answers nonsense."""


class RejectedError(RemoteError):
    """The server understood what was asked and does not do it; asking again ends the same."""


class AuthorisationError(RemoteError):
    """The server does not accept the key, or needs one and was given none."""


class BudgetError(BlackBoxDeltaError, ValueError):
    """The budget cannot pay for what was asked."""


class SpentError(BudgetError):
    """The budget ran out in the middle of a request, because replies were lost.

    Attributes:
        sent: Queries that were sent for the request, those lost included.
        lost: Those of them whose reply was lost.
    """

    def __init__(self, message: str, sent: int, lost: int = 0) -> None:
        super().__init__(message)
        self.sent, self.lost = sent, lost


def tell_lost(error: BaseException, queries: int) -> None:
    """Lets ``error``, which ends a request, say how many of its queries no reply tells of.

    They were sent and may be billed, however the request ended: with an error of the server's, a
    mistake of somebody's, or Ctrl-C. So any exception can carry the number.
    """
    vars(error)[_LOST] = queries


def take_lost(error: BaseException) -> int:
    """What :func:`tell_lost` wrote, once: whoever takes it writes it down, and nobody twice."""
    return int(vars(error).pop(_LOST, 0))


class RunError(BlackBoxDeltaError):
    """A run folder is damaged, in use or belongs to another run."""


class JournalError(RunError):
    """The journal is damaged, in use or of a newer version."""


class ArtifactError(RunError):
    """The saved delta is damaged or of a newer version."""


class ExportError(BlackBoxDeltaError):
    """What was tuned has no place in the other package's layout."""


class MissingExtraError(BlackBoxDeltaError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'blackbox-delta[{extra}]'"
        )
