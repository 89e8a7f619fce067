"""The error that ends an analysis."""


class AnalysisError(Exception):
    """The analysis failed. The text is shown to users. `permanent`: a retry would fail in the same way."""

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.permanent = permanent
