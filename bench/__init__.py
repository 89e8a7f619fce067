"""Benchmarks. They start the servers that they need and compare RepoRadar with other stacks."""
