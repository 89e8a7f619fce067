"""PostgreSQL errors, classified by SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html"""

from enum import Enum

from sqlalchemy import Index, UniqueConstraint
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
    """Return the column that the server names, or the last one of the index that it names; None if it names neither."""
    diagnostics = getattr(error.orig, "diag", None)
    if diagnostics is None or diagnostics.column_name:
        return diagnostics and diagnostics.column_name
    table = metadata.tables.get(diagnostics.table_name or "")
    if table is None:
        return None
    indexes: list[Index | UniqueConstraint] = [*table.indexes]
    indexes += [constraint for constraint in table.constraints if isinstance(constraint, UniqueConstraint)]
    columns = [index.columns.keys() for index in indexes if index.name == diagnostics.constraint_name]
    return columns[0][-1] if columns else None
