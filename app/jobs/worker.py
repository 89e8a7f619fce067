"""Keeps `python -m app.jobs.worker` working as a command for `app.worker`: existing service files use it."""

import runpy

if __name__ == "__main__":
    runpy.run_module("app.worker", run_name="__main__", alter_sys=True)
