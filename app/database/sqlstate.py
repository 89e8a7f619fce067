"""PostgreSQL errors, classified by SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html"""

import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, String, UniqueConstraint
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from app.database.schema import metadata


class ErrorClass(Enum):
    OUTAGE = "outage"  # the server does not answer, is overloaded or stopped the statement: 503
    READ_ONLY = "read-only"  # a standby, a demoted primary or a protected disk: reads succeed, writes are answered with 503
    CONFLICT = "conflict"  # another transaction was faster: retried
    DATA = "data"  # a value that the database cannot store: 422
    CONSTRAINT = "constraint"  # raised as it is, because the caller may expect it
    BUG = "bug"  # 500


# A key of five characters is an SQLSTATE, one of two characters is a class of them. The longer key wins.
_ERROR_CLASSES = {
    "08": ErrorClass.OUTAGE,  # connection
    "22": ErrorClass.DATA,
    "22012": ErrorClass.BUG,  # division by zero
    "23": ErrorClass.CONSTRAINT,
    "25006": ErrorClass.READ_ONLY,
    "25P03": ErrorClass.OUTAGE,  # idle in a transaction for too long
    "25P04": ErrorClass.OUTAGE,  # transaction timeout
    "28": ErrorClass.OUTAGE,  # the role or its password is refused
    "3D": ErrorClass.OUTAGE,  # the database was dropped or renamed
    "40001": ErrorClass.CONFLICT,  # serialization failure
    "40P01": ErrorClass.CONFLICT,  # deadlock
    "40003": ErrorClass.OUTAGE,  # unknown whether the statement was completed, so it must not be repeated
    "53": ErrorClass.OUTAGE,  # out of connections, memory or disk
    "54000": ErrorClass.DATA,  # for example a row that is too large for its index
    "55006": ErrorClass.OUTAGE,  # object in use
    "55P03": ErrorClass.OUTAGE,  # lock not available
    "57": ErrorClass.OUTAGE,  # cancelled, shutting down, starting
    "58": ErrorClass.OUTAGE,  # input or output of the server failed
}


def classify(error: DBAPIError) -> ErrorClass:
    """Return the class of the error. Errors without an SQLSTATE come from SQLite, or from the connection to PostgreSQL."""
    if error.connection_invalidated:
        return ErrorClass.OUTAGE
    state: str | None = getattr(error.orig, "pgcode", None)
    if state:
        return _ERROR_CLASSES.get(state) or _ERROR_CLASSES.get(state[:2], ErrorClass.BUG)
    return ErrorClass.OUTAGE if isinstance(error, OperationalError | InterfaceError) else ErrorClass.BUG


def column_of(error: DBAPIError) -> str | None:
    """Return the column that the server names, or else that of the index that it names, or one whose value does not fit."""
    diagnostics = getattr(error.orig, "diag", None)
    if diagnostics is None or diagnostics.column_name:
        return diagnostics and diagnostics.column_name
    return _column_of_index(diagnostics) or _column_without_room(error)


def _column_of_index(diagnostics: Any) -> str | None:
    """Return the last column of the index that the server names."""
    table = metadata.tables.get(diagnostics.table_name or "")
    if table is None:
        return None
    indexes: list[Index | UniqueConstraint] = [*table.indexes]
    indexes += [constraint for constraint in table.constraints if isinstance(constraint, UniqueConstraint)]
    columns = [index.columns.keys() for index in indexes if index.name == diagnostics.constraint_name]
    return columns[0][-1] if columns else None


def _column_without_room(error: DBAPIError) -> str | None:
    """Return the column whose value is too long or too large: the server does not name it."""
    words = set(re.findall(r"\w+", error.statement or ""))
    columns = {column.name: column for table in metadata.tables.values() if table.name in words for column in table.c}
    parameters: Mapping[str, Any] = error.params if isinstance(error.params, Mapping) else {}
    for name, value in parameters.items():
        column = columns.get(re.sub(r"_m\d+$", "", name))  # SQLAlchemy numbers the rows of a statement
        if column is not None and not _has_room(column, value):
            return column.name
    return None


def _has_room(column: Column[Any], value: Any) -> bool:
    if isinstance(column.type, String) and isinstance(value, str):
        return len(value) <= (column.type.length or math.inf)
    if isinstance(column.type, Integer) and isinstance(value, int):
        bits = 63 if isinstance(column.type, BigInteger) else 31
        return bool(-(2**bits) <= value < 2**bits)
    return True
