"""The commands in the documents: bash can read them, `flask` and `make` accept them, and the settings and files in them exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import textwrap
from pathlib import Path

import click
import pytest
import yaml
from flask import Flask

from app.core.config import SETTINGS
from harness.servers import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
FLASK = re.compile(r"flask --app wsgi((?: [^\n`|;#&()]*)?)")
SUBSTITUTION = re.compile(r"\$\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
MODULE = re.compile(r"python3? -m ((?:app|bench|deploy|scripts)[\w.]*)")
TARGET = re.compile(r"(?:^|[;|(`] ?|&& |[A-Z_]+=\S+ )make ([a-z-]+)", re.MULTILINE)
ASSIGNMENT = re.compile(r"(?:^|[ ;(])([A-Z][A-Z0-9_]+)=", re.MULTILINE)
FILE = re.compile(r"(?:^|[\s=\"'(])((?:app|bench|deploy|docs|harness|scripts|tests)/[\w./-]*\w)", re.MULTILINE)
UNIT = re.compile(r"^ *systemctl (?!--user)(.*)$", re.MULTILINE)
SERVICE = re.compile(r"compose\.yaml (?:exec(?: -T)?|logs --follow) ([\w-]+)")

# Variables that commands use and that are no settings of RepoRadar, and files that the reader makes.
OTHER_VARIABLES = {
    *("ARGS", "FLEET_PORT", "INSTANCES", "TEST_PROCESSES"),  # of the Makefile
    *("COMPOSE_FILE", "SERVER_NAME"),  # of Docker Compose
    *("REPORADAR_URL", "REPORADAR_EMAIL", "REPORADAR_PASSWORD", "REPORADAR_TOKEN", "TOKEN"),  # of docs/examples, docs/api.md
    *("PATH", "PYTHONPATH", "REDISCLI_AUTH", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),  # of other programs
}
MADE_BY_THE_READER = {"deploy/docker/secrets", "deploy/kubernetes/secret.yaml"}


def shell_blocks(text: str) -> list[str]:
    """Return the blocks of a document that a shell runs, with continued lines joined."""
    blocks = [textwrap.dedent(body) for _, language, body in FENCE.findall(text) if language in ("sh", "bash")]
    return [block.replace("\\\n", " ") for block in blocks]


def flask_commands(text: str) -> list[list[str]]:
    """Return the arguments of each `flask --app wsgi` in blocks and in the text."""
    sources = [*shell_blocks(text), *INLINE.findall(FENCE.sub("", text))]
    found = [FLASK.findall(SUBSTITUTION.sub("", source)) for source in sources]
    commands = [
        shlex.split(arguments.replace('"', "") if arguments.count('"') % 2 else arguments) for part in found for arguments in part
    ]
    return [command for command in commands if command and command[0] != "COMMAND"]


def refusal(group: click.Group, arguments: list[str]) -> str | None:
    """Return why click refuses the arguments, or None. Nothing is run."""
    context = click.Context(group)
    try:
        name, command, rest = group.resolve_command(context, arguments)
        if isinstance(command, click.Group):
            return refusal(command, rest) if rest else None
        if command is not None and "…" not in rest and rest:
            command.make_context(name, list(rest), parent=context)
    except click.exceptions.Exit:  # --help
        return None
    except click.UsageError as error:
        return f"{' '.join(arguments)}: {error.format_message()}"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_flask_commands_are_accepted(document: Path, app: Flask) -> None:
    refusals = [refusal(app.cli, command) for command in flask_commands(document.read_text())]
    assert [text for text in refusals if text] == []


def test_a_wrong_flask_command_is_found(app: Flask) -> None:
    block = "```sh\n(flask --app wsgi doctor \\\n  --speed 3)\nflask --app wsgi notify ann\n```\n"
    text = f"`flask --app wsgi users demote ann`\n\n{block}"
    refusals = [refusal(app.cli, command) or "" for command in flask_commands(text)]
    assert len(refusals) == 3
    for part, text in zip(("--speed", "Missing argument", "demote"), refusals, strict=True):
        assert part in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_shell_blocks_are_valid(document: Path) -> None:
    for block in shell_blocks(document.read_text()):
        done = subprocess.run(["bash", "-n", "-c", block], capture_output=True, text=True, check=False)
        assert done.stderr == "", block


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_names_in_shell_blocks_exist(document: Path) -> None:
    text = "\n".join(shell_blocks(document.read_text()))
    assert unknown_names(text) == []


def unknown_names(text: str) -> list[str]:
    """Return the modules, targets of make, variables, files, systemd units and services of Compose that do not exist."""
    makefile = (ROOT / "Makefile").read_text()
    services = yaml.safe_load((ROOT / "deploy" / "docker" / "compose.yaml").read_text())["services"]
    settings = {setting.name.upper() for setting in SETTINGS} | OTHER_VARIABLES
    return [
        *(module for module in MODULE.findall(text) if importlib.util.find_spec(module) is None),
        *(
            f"make {target}"
            for target in TARGET.findall(text)
            if not re.search(rf"(?m)^([\w -]+ )?{target}( [\w -]+)?:", makefile)
        ),
        *(name for name in ASSIGNMENT.findall(text) if name not in settings and name.removesuffix("_FILE") not in settings),
        *(path for path in FILE.findall(text) if path not in MADE_BY_THE_READER and not any(ROOT.glob(path))),
        *(unit for line in UNIT.findall(text) for unit in line.split() if is_missing_unit(unit.strip("'"))),
        *(service for service in SERVICE.findall(text) if service not in services),
    ]


def is_missing_unit(argument: str) -> bool:
    unit = re.sub(r"@.*", "@", argument)
    return unit.startswith("reporadar") and not (ROOT / "deploy" / "systemd" / f"{unit}.service").exists()


def test_unknown_names_are_found() -> None:
    text = (
        "python -m app.servant\nmake walk\nLOG_LEVLE=DEBUG make run\ndeploy/nginx/rendr x\n"
        "systemctl restart reporadar@3001 reporadar-job\n"
        "docker compose --file deploy/docker/compose.yaml exec web flask\nREDIS_URL_FILE=/run/x python -m app.worker\n"
    )
    assert unknown_names(text) == ["app.servant", "make walk", "LOG_LEVLE", "deploy/nginx/rendr", "reporadar-job", "web"]
