"""Every exception this package raises on purpose.

    ZOWarmUpError
    ├── UsageError              the caller's mistake; the command line exits with 2
    │   ├── RecipeError         a recipe that cannot be read, or whose values contradict each other
    │   ├── SuiteError          a suite that cannot be read, or whose runs clash
    │   ├── DataError           data that is missing, ambiguous or does not decode
    │   ├── ModelError          a model this package cannot train as asked
    │   └── OutputError         an output directory that cannot be used
    └── RunError                a run that began and failed; the command line exits with 1
        ├── NonFiniteError      a value that must be finite is not
        ├── ClientError         work on one client failed: says which client, round and phase
        ├── WireError           a message that does not decode, or that contradicts what is held
        ├── ConnectionLost      a server that is not there, or that does not let this node in
        ├── QuorumError         too few clients answered a round, for too long
        ├── DiskError           the run directory could not be written
        ├── LedgerError         a ledger, or a snapshot of it, that is damaged: says in which round
        │   └── ReplayMismatch  weights rebuilt from the ledger are not those it says
        └── DenormalsError      the processor flushes denormal numbers to zero

A message says what happened and where, what was expected and what was found; ``hint`` says what to do.
The values in the message are kept as attributes. ``ZOWarmUpWarning`` is the category of every warning.
"""

from __future__ import annotations

from typing import Any


class ZOWarmUpError(Exception):
    """Base class; catch it to catch everything this package raises on purpose.

    Args:
        message: what went wrong and where, expected and got; lower case, one line.
        hint: what to do about it; shown on a line of its own.
        values: anything worth keeping for a caller, set as attributes.

    >>> error = RecipeError("eps is 0", hint="choose eps > 0", path="$.phase[1].eps")
    >>> print(error)
    eps is 0
    hint: choose eps > 0
    >>> error.path
    '$.phase[1].eps'
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, **values: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        for name, value in values.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class ZOWarmUpWarning(UserWarning):
    """Something that a caller should know and that stops nothing."""


class UsageError(ZOWarmUpError):
    """The caller's mistake; nothing has been written."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be read, or whose values contradict each other."""


class SuiteError(UsageError):
    """A suite that cannot be read, or whose runs clash."""


class DataError(UsageError):
    """Data that is missing, ambiguous or does not decode."""


class ModelError(UsageError):
    """A model this package cannot train as asked."""


class OutputError(UsageError):
    """An output directory that cannot be used."""


class RunError(ZOWarmUpError):
    """A run that began and failed."""


class NonFiniteError(RunError):
    """A value that must be finite is not."""


class ClientError(RunError):
    """Work on one client failed; ``client``, ``round`` and ``phase`` are attributes."""


class WireError(RunError):
    """A message between server and node that does not decode, or that contradicts what the node holds."""


class ConnectionLost(RunError):  # noqa: N818
    """A server that is not there, or that does not let this node in; ``address`` is an attribute."""


class QuorumError(RunError):
    """Too few clients answered a round, for too long; ``round`` is an attribute. `zowarmup resume` goes on."""


class DiskError(RunError):
    """The run directory could not be written, for instance because the disk is full."""


class LedgerError(RunError):
    """A ledger, or a snapshot of it, that is damaged; ``path`` and, where it has one, ``round`` are attributes."""


class ReplayMismatch(LedgerError):  # noqa: N818
    """Weights rebuilt from the ledger are not those it says; ``round``, ``expected`` and ``got`` are attributes."""


class DenormalsError(RunError):
    """The processor flushes denormal numbers to zero, so weights would not be bit-identical."""
