"""The closed list of sentences that a coordinator may read when a silo's data cannot be read or converted.

The only variables of a sentence are the dtype that the coordinator requested and the silo's own limit. The names of the
source and the column precede it if the coordinator already knows them. Everything else (messages of a database, a
driver or a Python exception, paths, cells, counts of cells) goes only to the silo's log.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Problem"]

_CAST = "ask for another dtype, or cast it in the silo's query"


class Problem(Enum):
    """A problem of a source or a column, in the words for coordinators.

    Attributes:
        sentence: follows the name of the source or the column; ``{dtype}`` and ``{limit}`` are its only variables.
        advice: how to solve it; empty if only the silo's administrator can tell.
    """

    # of a source
    UNREADABLE = "cannot be read"
    UNREACHABLE = "cannot be reached", "try again later"
    UNAUTHORISED = "refuses access to the silo"
    BUSY = "is busy", "try again later"
    MISCONFIGURED = "has wrong settings"
    CLOSED = "is closed", "run the computation again"
    INTERRUPTED = "was interrupted while it was read", "run the computation again"
    UNKNOWN_SOURCE = "does not exist at this silo"
    UNEQUAL_LENGTHS = "has columns of different lengths"
    NO_COLUMNS = "has no columns"
    NOT_ONE_ROW = (
        "does not have exactly one row for each client where the computation takes one",
        "aggregate in the silo's query, or declare columns in the computation",
    )
    OTHER_CLIENTS = "has rows of clients that it did not announce", "start the silo again"
    TOO_LARGE = "takes more than the limit of {limit} bytes", "select fewer columns or rows in the silo's query"
    # of a column
    UNUSABLE = "cannot be used"
    UNKNOWN_COLUMN = "does not exist"
    NO_VALUE = "has cells without a value", "leave their rows out, or replace them, in the silo's query"
    RAGGED = "has rows of different lengths", "pad or cut them to one length in the silo's query"
    MIXED = "holds cells of different kinds", "cast it in the silo's query"
    MISFIT = "holds a value that is not of its announced type", "correct it, or its type in the silo's settings"
    NO_COUNTERPART = "is of a type that has no counterpart", "cast it in the silo's query, or leave it out"
    NO_TYPE = "has no value to tell its type by", "say its type in the silo's settings"
    NOT_ROWS = "is not one value for each row"
    NOT_CONVERTIBLE = "does not convert to {dtype}", _CAST
    OUT_OF_RANGE = "holds a number that {dtype} cannot hold", "ask for a wider dtype, or scale it in the silo's query"
    CHANGED = "is not as it was announced", "start the silo again"
    TWICE = "stands twice in the source", "give one of them another name"
    NOT_KEYS = "cannot tell clients apart", "correct 'clients' in the silo's settings"

    def __init__(self, sentence: str, advice: str = "") -> None:
        self.sentence = sentence
        self.advice = advice
