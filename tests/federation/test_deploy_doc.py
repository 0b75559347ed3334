"""The page on deployment does what it says: its blocks are run as they stand, but for addresses.

A block is ```` ```sh SCENARIO ROLE ````. Of a scenario, `link` is started first and stays; `prepare` is run to its end;
`server` and `node` are started and end by themselves; `look` is run behind them.
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import RUN_SECONDS, START_SECONDS, Federation, Process, free_ports, tool

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
ROLES = ("prepare", "link", "server", "node", "look")


class Block(NamedTuple):
    """A fenced block."""

    language: str
    scenario: str
    role: str
    text: str


def blocks() -> list[Block]:
    found = re.findall(r"^```(\w+) ([\w-]+)(?: (\w+))?\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


SHELL = [block for block in blocks() if block.language == "sh"]
UNITS = [block for block in blocks() if block.language == "ini"]
SCENARIOS = list(dict.fromkeys(block.scenario for block in SHELL))


def test_every_block_is_one_that_is_run() -> None:
    assert len(re.findall(r"^```", PAGE, flags=re.MULTILINE)) == 2 * len(blocks())
    assert len(SHELL) + len(UNITS) == len(blocks())
    assert {block.role for block in SHELL} == set(ROLES)
    assert len(UNITS) == 2


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_commands_do_what_the_page_says(federation: Federation, scenario: str) -> None:
    folder = federation.folder
    (folder / "apps").mkdir()
    (folder / "apps" / "flower").symlink_to(ROOT / "src" / "zowarmup" / "flower-app")
    texts = {
        role: [block.text for block in SHELL if (block.scenario, block.role) == (scenario, role)] for role in ROLES
    }
    if texts["link"]:
        links = [start(federation, "link", text) for text in texts["link"]]
        federation.until_said(links[0], "startup complete", seconds=START_SECONDS)
    for text in texts["prepare"]:
        assert start(federation, "prepare", text).wait(RUN_SECONDS) == 0
    running = [start(federation, role, text) for role in ("server", "node") for text in texts[role]]
    for process in running:
        assert process.wait(RUN_SECONDS) == 0, process.name
    for text in texts["look"]:
        assert start(federation, "look", text).wait(RUN_SECONDS) == 0
    runs = sorted(folder.glob("runs/*/summary.json"))
    assert len(runs) == 1
    verify = [tool("zowarmup"), "verify", str(runs[0].parent)]
    assert subprocess.run(verify, capture_output=True, timeout=RUN_SECONDS).returncode == 0


def start(federation: Federation, role: str, text: str) -> Process:
    """Start a block, in an environment where this project is installed and nothing else is known."""
    for old, new in {
        "127.0.0.1:9092": federation.address,
        "0.0.0.0:9092": federation.address,
        "fl.example.org:9092": f"localhost:{federation.port}",
        "fl.example.org": "localhost",
        "--port 9092": f"--port {federation.port}",
        "--port 9094": f"--port {free_ports()}",
    }.items():
        text = text.replace(old, new)
    if role == "server" and "--listen" not in text:
        text = text.rstrip() + f" --listen {federation.address}\n"
    names = [process.name.rpartition("-")[0] for process in federation.processes]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(federation.folder),
        "FLWR_HOME": str(federation.folder / "flower"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(federation.port),
        "FLWR_LOCAL_CONTROL_API_PORT": str(federation.port + 1),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return federation.start(f"{role}-{names.count(role)}", ["/bin/sh", "-eu", "-c", text], env=environment)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.scenario)
def test_the_units_are_ones(unit: Block, tmp_path: Path) -> None:
    name = Path(unit.text.splitlines()[0].removeprefix("# ")).name
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(unit.text)
    assert parser["Service"]["Restart"] == "on-failure"
    assert parser["Service"]["RestartPreventExitStatus"] == "2"
    command = parser["Service"]["ExecStart"].split()
    subcommand = [tool("zowarmup"), command[1], "--help"]
    told = subprocess.run(subcommand, capture_output=True, text=True, timeout=START_SECONDS, check=True).stdout
    assert [flag for flag in command if flag.startswith("--") and flag not in told] == []
    if shutil.which("systemd-analyze") is None:
        return
    text = unit.text.replace("/opt/zowarmup/bin/zowarmup", tool("zowarmup")).replace("User=zowarmup", "User=root")
    (tmp_path / name).write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=START_SECONDS)
    told = [line for line in done.stderr.splitlines() if name in line]
    assert told == []
