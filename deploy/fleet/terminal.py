"""The output of `make fleet`: each line begins with the name of the process that wrote it."""

import os
import sys
from contextlib import suppress

FLEET = "fleet"
_COLOURS = (36, 33, 32, 35, 34, 31)


class Terminal:
    def __init__(self, names: list[str]) -> None:
        self._width = max(map(len, [FLEET, *names]))
        has_colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)} if has_colours else {}

    def say(self, text: str) -> None:
        self.show(FLEET, text)

    def show(self, name: str, text: str) -> None:
        prefix = f"{name:{self._width}} |"
        if colour := self._colours.get(name):
            prefix = f"\033[{colour}m{prefix}\033[0m"
        with suppress(OSError):  # the terminal may have been closed
            sys.stdout.write(f"{prefix} {text}\n")
            sys.stdout.flush()
