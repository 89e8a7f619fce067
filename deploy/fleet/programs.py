"""The programs that a fleet is made of, and the account for those that refuse to run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Debian keeps nginx in sbin, which is not on everybody's PATH.
SEARCHED = os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])

PACKAGES = {"nginx": "nginx-light", "redis-server": "redis-server", "initdb": "postgresql", "git": "git"}


class Refused(Exception):
    """Why the fleet does not start; `status` is the exit status."""

    def __init__(self, reason: str, status: int = 1) -> None:
        super().__init__(reason)
        self.status = status


def find_all() -> Mapping[str, str]:
    """Where each program is, `postgres` included."""
    found = {name: shutil.which(name, path=SEARCHED) for name in PACKAGES}
    found["initdb"] = found["initdb"] or _debians_initdb()
    if missing := [name for name, path in found.items() if path is None]:
        raise Refused(
            f"These programs are missing: {', '.join(missing)}. On Debian:\n"
            f"    apt-get install --no-install-recommends {' '.join(PACKAGES[name] for name in missing)}"
        )
    programs = {name: path for name, path in found.items() if path}
    # Programs of two versions don't go together.
    return programs | {"postgres": str(Path(programs["initdb"]).resolve().with_name("postgres"))}


def _debians_initdb() -> str | None:
    """Which is kept off the PATH; of the newest version that is installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return str(versions[-1]) if versions else None


def lesser_account() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as when root starts the fleet; None for everybody else."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Refused("PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`.")
