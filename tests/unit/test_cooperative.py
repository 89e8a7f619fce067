from __future__ import annotations

import sys

from harness.processes import run
from harness.servers import ROOT, base_environment


def test_the_cooperative_tests_pass_in_a_patched_process() -> None:
    command = [sys.executable, "-m", "gevent.monkey", "--module", "pytest", "-p", "no:cacheprovider", "tests/cooperative"]
    output = run(command, environment=base_environment(), directory=ROOT, timeout=600)
    assert " passed" in output
