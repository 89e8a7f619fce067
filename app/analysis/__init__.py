"""From a repository's address to a report about it. Runs in a process of its own (`python -m app.analysis`), and knows nothing
of the application.
"""
