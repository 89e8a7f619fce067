"""Finds the programs that a fleet needs, and the account for PostgreSQL, which refuses to run as root."""

import os
import pwd
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Debian installs nginx in sbin, which is not on every user's PATH.
SEARCH_PATH = os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])

PACKAGES = {"nginx": "nginx-light", "redis-server": "redis-server", "initdb": "postgresql", "git": "git"}


class FleetError(Exception):
    """The reason why the fleet cannot run, and the exit status."""

    def __init__(self, reason: str, status: int = 1) -> None:
        super().__init__(reason)
        self.status = status


def find_all() -> Mapping[str, str]:
    """Return the path of each program, including `postgres`. Raise FleetError if one is missing."""
    found = {name: shutil.which(name, path=SEARCH_PATH) for name in PACKAGES}
    found["initdb"] = found["initdb"] or _debian_initdb()
    if missing := [name for name, path in found.items() if path is None]:
        raise FleetError(
            f"These programs are missing: {', '.join(missing)}. On Debian, install them with:\n"
            f"    apt-get install --no-install-recommends {' '.join(PACKAGES[name] for name in missing)}"
        )
    programs = {name: path for name, path in found.items() if path}
    # initdb and postgres must have the same version.
    return programs | {"postgres": str(Path(programs["initdb"]).resolve().with_name("postgres"))}


def _debian_initdb() -> str | None:
    """Return the newest installed version. Debian keeps these programs off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return str(versions[-1]) if versions else None


def unprivileged_account() -> pwd.struct_passwd | None:
    """Return the account for PostgreSQL if this process runs as root, otherwise None."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise FleetError("PostgreSQL does not run as root. Create a user `postgres`, or start the fleet as another user.")
