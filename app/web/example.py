"""The example on the landing page: the report of a well-known public repository, as RepoRadar made it.

After a change of the formulas, `flask --app wsgi analyse https://github.com/curl/curl --format json` makes a new one.
"""

import functools
import json
from pathlib import Path
from typing import Any

from app.web import reports

NAME, URL = "curl", "https://github.com/curl/curl"
FILE = Path(__file__).with_name("example_report.json")


@functools.cache
def example_context() -> dict[str, Any]:
    """Return what the overview of the report needs. The result is shared, so it must not be changed."""
    report = json.loads(FILE.read_text(encoding="utf-8"))
    scores = {name: score["score"] for name, score in report["scores"].items()}
    return {
        "report": report,
        "entry": {"name": NAME, "url": URL, "scores": scores},
        "bands": reports.bands(report),
        "author_shares": reports.author_shares(report),
    }
