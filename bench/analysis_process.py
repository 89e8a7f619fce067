"""Starts an analysis as in production, without a worker."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from harness.servers import ROOT, base_environment

MAX_BYTES = 2 * 1024**3


@contextmanager
def analysis_process(repository: Path, as_of: datetime) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Yield the process and its output: lines of JSON, of which the last one is the outcome. Closing its input cancels it."""
    request = {
        "url": str(repository),
        "as_of": as_of.isoformat(),
        "roots": [str(repository.parent)],
        "allowed_networks": [],
        "max_bytes": MAX_BYTES,
    }
    command, pipe = [sys.executable, "-m", "app.analysis"], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=base_environment(), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        yield process, process.stdout
