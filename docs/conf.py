"""Settings of Sphinx: `make docs` builds the documentation as a site. The pages are the Markdown files of the repository."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.core.version import VERSION

project = "RepoRadar"
author = "RepoRadar contributors"
version = release = VERSION

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "deploy/kubernetes/README.md",
    "deploy/nginx/README.md",
    "deploy/systemd/README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
]
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # examples of output in a block of another language

html_theme = "furo"
html_title = f"RepoRadar {VERSION}"
html_favicon = "../app/web/static/logo.svg"
html_logo = "../app/web/static/logo.svg"
html_copy_source = False
