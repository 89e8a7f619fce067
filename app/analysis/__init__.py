"""The analysis program: from the address of a repository to a report. It runs as a separate process, `python -m app.analysis`,
and does not depend on the rest of the application.
"""
