"""The data of GitHub Linguist. `scripts/update-linguist-data` writes the JSON files, `LICENSE` and `VERSION` of this folder."""

import json
from pathlib import Path
from typing import Any


def load(name: str) -> Any:
    return json.loads((Path(__file__).parent / f"{name}.json").read_bytes())
