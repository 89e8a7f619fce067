"""gunicorn ignores a setting whose name it does not know, so a slip of the pen would go unnoticed."""

from __future__ import annotations

import ast

from gunicorn.config import KNOWN_SETTINGS

from harness.servers import ROOT

OWN_NAMES = {"settings", "worker_exit_status"}  # what the file itself works with
KNOWN = {setting.name: setting for setting in KNOWN_SETTINGS}


def names_set(tree: ast.Module) -> set[str]:
    """Whatever the file defines at its top level, in conditions too, but for what it imports."""
    targets = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {node.id for node in targets} | {node.name for node in functions}


def parsed() -> ast.Module:
    return ast.parse((ROOT / "gunicorn.conf.py").read_text())


def local_names(tree: ast.Module) -> set[str]:
    return {name for function in tree.body if isinstance(function, ast.FunctionDef) for name in names_set_in(function)}


def names_set_in(function: ast.FunctionDef) -> set[str]:
    return {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def unknown_names(tree: ast.Module) -> set[str]:
    return names_set(tree) - local_names(tree) - OWN_NAMES - set(KNOWN)


def test_each_name_is_a_setting_of_gunicorn() -> None:
    assert unknown_names(parsed()) == set()


def test_each_hook_takes_the_arguments_that_gunicorn_gives() -> None:
    hooks = {node.name: len(node.args.args) for node in parsed().body if isinstance(node, ast.FunctionDef)}
    assert {"on_starting", "pre_fork", "post_fork", "post_worker_init", "child_exit", "on_exit"} <= set(hooks)
    assert hooks == {name: KNOWN[name].default.__code__.co_argcount for name in hooks}


def test_a_misspelt_name_is_seen() -> None:
    tree = ast.parse(
        "workers = 1\ngracefull_timeout = 30\nif workers:\n    worker_tmpdir = '/dev/shm'\ndef post_worker_exit(): ..."
    )
    assert unknown_names(tree) == {"gracefull_timeout", "worker_tmpdir", "post_worker_exit"}
