"""Lua scripts: each is a `.lua` file beside the module that runs it, and first names its KEYS and ARGV as locals."""

from pathlib import Path


def load_script(module_file: str, name: str) -> str:
    """Return the source of `<name>.lua` in the folder of a module; call it as `load_script(__file__, "leave")`."""
    return Path(module_file).with_name(f"{name}.lua").read_text(encoding="utf-8")
