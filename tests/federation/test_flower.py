"""Flower's own commands: simulation, and its stock SuperLink and SuperNodes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import tomli_w
from processes import END_SECONDS, RUN_SECONDS, START_SECONDS, Federation, Overrides, free_ports, tool

APP = str(Path(__file__).parents[2] / "apps" / "flower")


def config(federation: Federation) -> str:
    values = " ".join(f"{key}={value}" for key, value in federation.overrides.items())
    return f'set="{values}" out="{federation.out}"'


def test_simulation_has_the_chain_of_one_process(federation: Federation, same_as_local) -> None:
    federation.overrides: Overrides = {"phase.0.rounds": 3, "phase.1.rounds": 5}
    settings = "num-supernodes=20 client-resources-num-cpus=1 init-args-num-cpus=2"
    command = [tool("flwr"), "run", APP, "--stream", "--run-config", config(federation)]
    home = {
        "FLWR_HOME": str(federation.folder / "home"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(federation.port),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_ports()),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    run = federation.start("run", [*command, "--federation-config", settings], env=home)
    assert run.wait(RUN_SECONDS) == 0
    assert federation.status["state"] == "finished", federation.status.get("error")
    same_as_local(federation)


def test_stock_nodes_have_the_chain_of_one_process(federation: Federation, same_as_local) -> None:
    """A SuperNode starts a process for every message, so there are few of them."""
    federation.overrides |= {"phase.0.rounds": 2, "phase.1.rounds": 2}
    link = {"address": federation.address, "insecure": True}
    (federation.folder / "home").mkdir()
    home = {"superlink": {"default": "here", "here": link}}
    (federation.folder / "home" / "config.toml").write_text(tomli_w.dumps(home))
    path = {"PATH": f"{Path(tool('flwr')).parent}:/usr/bin:/bin", "FLWR_HOME": str(federation.folder / "home")}
    command = [tool("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(federation.port)]
    server = federation.start("link", [*command, "--disable-runtime-dependency-installation"], env=path)
    federation.until_said(server, "startup complete", seconds=START_SECONDS)
    for client in range(3):
        node = [tool("flower-supernode"), "--insecure", "--superlink", federation.address, "--port", str(free_ports())]
        given = f'tier="high" client={client} home="{federation.folder / f"home-{client}"}"'
        federation.start(f"node-{client}", [*node, "--node-config", given], env=path)
    run = [tool("flwr"), "run", APP, "here", "--stream", "--run-config", config(federation)]
    assert federation.start("run", run, env=path).wait(RUN_SECONDS) == 0
    assert federation.status["state"] == "finished", federation.status.get("error")
    same_as_local(federation)


def test_the_app_is_what_flower_builds(federation: Federation) -> None:
    built = subprocess.run(
        [tool("flwr"), "build", "--app", APP],
        cwd=federation.folder,
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
    )
    assert built.returncode == 0, built.stderr
    assert len(list(federation.folder.glob("*.fab"))) == 1
