"""docs/scaling.md: its headings, and each block that can be judged without servers. tests/functional/test_scaling_guide.py
follows the others."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from app.core.config import SETTINGS, ConfigError, load
from app.fleet import advice
from harness import guide
from harness.guide import Block
from harness.servers import ROOT

HEADINGS = """
# Horizontal Scaling Guide
## Overview
## Architecture
## Configuration
### Environment Variables
### Redis Setup
## Deployment
### Single Instance (Development)
### Multiple Instances (Production)
#### Option 1: Docker Compose
#### Option 2: Kubernetes
### Load Balancer Configuration
#### Nginx Configuration
## Features
### 1. Stateless Application
### 2. Instance Identification
### 3. Graceful Shutdown
### 4. WebSocket Multi-Instance Support
### 5. Shared Analytics Opt-Out
## Monitoring
### Instance Identification in Logs
### Health Check Endpoints
### Instance Metadata Header
## Testing
### Unit Tests
### Integration Tests
### Manual Testing
## Troubleshooting
### Redis Connection Issues
### Session Not Shared
### WebSocket Issues
### Instance Not Shutting Down Gracefully
## Best Practices
## Performance Considerations
## Security
## Scaling Guidelines
## Support
""".strip().splitlines()

QUOTED = {"yaml": ("compose.yaml", "web.yaml", "scaling.yaml"), "nginx": ("reporadar.conf",)}
OWN_SECRETS = {
    "SESSION_ENCRYPTION_KEY": secrets.token_hex(32),
    "SESSION_SECRET": secrets.token_hex(32),
    "DATABASE_URL": "postgresql://reporadar:tiger-lily-7@localhost:5432/reporadar",
}
TEXT = guide.GUIDE.read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
BLOCKS = list(guide.blocks(TEXT))


def check_quotation(block: Block) -> None:
    """Its lines stand one after the other in a file of deploy/."""
    files = [file for name in QUOTED[block.kind] for file in (ROOT / "deploy").rglob(name)]
    if not any(is_quoted(block.text, file.read_text(encoding="utf-8")) for file in files):
        raise AssertionError(f"{block} quotes none of {[str(file.relative_to(ROOT)) for file in files]}")


def is_quoted(quotation: str, text: str) -> bool:
    wanted, lines = quotation.splitlines(), text.splitlines()
    windows = (lines[start : start + len(wanted)] for start in range(len(lines)))
    return any(textwrap.dedent("\n".join(window)).splitlines() == wanted for window in windows)


def check_settings(block: Block) -> None:
    """Each is a setting; the placeholders are refused, and nothing else is."""
    settings = dict(line.split("=", 1) for line in block.text.splitlines() if line and not line.startswith("#"))
    unknown = settings.keys() - {setting.name.upper() for setting in SETTINGS}
    if unknown:
        raise AssertionError(f"{block} has settings that do not exist: {unknown}")
    with pytest.raises(ConfigError) as refused:
        load(settings)
    assert {fault.split(":")[0] for fault in refused.value.faults} == OWN_SECRETS.keys()
    load(settings | OWN_SECRETS)


def check_python(block: Block) -> None:
    """Blocks that need no server are run here; the others are compiled."""
    compile(block.text, str(block), "exec")
    if "http://" not in block.text:
        command = [sys.executable, "-u", "-W", "error", "-c", block.text]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout}"
        guide.check_output(block, done.stdout)


def check_bash(block: Block) -> None:
    """Bash can read it, somebody follows it, and the files exist that are named by what is not run."""
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    assert block.section in guide.STAGES, f"nobody follows {block}"
    for line in block.text.splitlines():
        if guide.STAGES[block.section] == guide.NOWHERE:
            assert guide.why_not_run(line), f"{block}: nobody runs {line!r}"
        if guide.why_not_run(line):
            for file in re.findall(r"\bdeploy/\S+", line):
                assert (ROOT / file).exists() or (ROOT / file.replace(".yaml", ".example.yaml")).exists(), f"{block}: {file}"


def check_text(block: Block) -> None:
    assert block.section in ("Architecture", "Instance Identification in Logs"), f"nobody compares {block}"


CHECKS: dict[str, Callable[[Block], object]] = {
    "bash": check_bash,
    "env": check_settings,
    "nginx": check_quotation,
    "python": check_python,
    "text": check_text,
    "yaml": check_quotation,
}


def test_it_has_the_headings_in_their_order() -> None:
    assert guide.headings(TEXT) == HEADINGS


def test_there_are_blocks_of_all_kinds() -> None:
    assert {block.kind for block in BLOCKS} == CHECKS.keys()
    assert len(BLOCKS) > 30


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.kind}-{block.line}")
def test_each_block_is_right(block: Block) -> None:
    CHECKS[block.kind](block)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("yaml", "replicas: 3"),
        ("nginx", "    upstream once {\n        server reporadar-1:3000 max_fails=3 fail_timeout=30s;"),
        ("env", "USE_REDIS_SESSION=true"),
        ("env", "SESSION_SECRET=your-session-secret-here\nPORT=many"),
        ("python", "from app import instanceId"),
        ("python", "print('one')\n# prints: two"),
        ("bash", "for instance in"),
        ("bash", "kubectl apply --filename deploy/kubernetes/deployment.yaml"),
        ("bash", "make run"),
        ("text", "instance-1"),
        ("typescript", "logger.info('Processing request');"),
    ],
)
def test_a_wrong_block_is_noticed(kind: str, text: str) -> None:
    section = "Overview" if kind == "text" else "Option 2: Kubernetes"
    with pytest.raises((AssertionError, KeyError, SyntaxError, subprocess.CalledProcessError, pytest.fail.Exception)):
        CHECKS[kind](Block(section, kind, text, 1))


def test_a_block_without_an_end_is_noticed() -> None:
    with pytest.raises(AssertionError):
        list(guide.blocks("# A\n```bash\nmake run\n"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        other = path.parent / file if file else path
        assert "://" in target or (other.exists() and (not anchor or anchor in anchors(other))), target


def anchors(path: Path) -> set[str]:
    """As GitHub makes them."""
    titles = [heading.lstrip("# ").lower() for heading in guide.headings(path.read_text(encoding="utf-8"))]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def test_the_table_is_that_of_the_advice() -> None:
    rows = re.findall(r"^\| ([A-Z][^|]+) \| > (\d+)\S* \|", TEXT, re.MULTILINE)
    assert [float(threshold) for _, threshold in rows] == [
        advice.CPU_PERCENT,
        advice.MEMORY_PERCENT,
        advice.P95_MS,
        advice.REDIS_LATENCY_MS,
        advice.CONNECTIONS,
    ]
