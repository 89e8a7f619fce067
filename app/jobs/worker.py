"""The former address of the worker process: `python -m app.jobs.worker` runs `app.worker`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("app.worker", run_name="__main__", alter_sys=True)
