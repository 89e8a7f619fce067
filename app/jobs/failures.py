"""Exceptions that end the work of a job early."""


class JobStopped(Exception):
    """The process is stopping, or the lease of the job is lost."""


class LeaseLost(Exception):
    """Another worker has taken over the job, or it was cancelled. Rolls back the transaction that saves the outcome."""


class JobFailed(Exception):
    """The job failed. The text is shown to its owner. `permanent`: a retry would fail in the same way."""

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.permanent = permanent
