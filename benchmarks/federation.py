"""What a federation over a network costs: seconds a round, memory of a node, bytes on the wire; on loopback.

python benchmarks/federation.py [--quick] [--skip-simulation]

Nodes are processes of `zowarmup join`, the server is `zowarmup server`. Bytes are counted by the kernel at each node's
socket. Results go to benchmarks/results/federation.csv.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from zowarmup.engines.lean import Lean

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "federation.csv"
PROGRAM = str(Path(sys.executable).parent / "zowarmup")
PORT = 9292
FLEET = "flwr.supernode.fleet_http_client"
IDLE_SECONDS, REQUESTS, STEPS = 60.0, 200, 200
Row = dict[str, str | float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less idling")
    parser.add_argument("--skip-simulation", action="store_true")
    arguments = parser.parse_args()
    rows: list[Row] = [*pace(), *imports()]
    with tempfile.TemporaryDirectory() as folder:
        rows += digits(Path(folder), rounds=20 if arguments.quick else 100)
        rows += idle(Path(folder), 20.0 if arguments.quick else IDLE_SECONDS)
        rows += uplink(Path(folder), quick=arguments.quick)
        if not arguments.skip_simulation:
            rows += simulation(Path(folder), rounds=5 if arguments.quick else 20)
    rows += pace()
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["what", "measured", "unit", "limit", "how"])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"{row['what']:56} {row['measured']:>12} {row['unit']:9} limit {row['limit'] or '-':>8}  {row['how']}")


def row(what: str, measured: float, unit: str, limit: float | str, how: str) -> Row:
    return {"what": what, "measured": round(measured, 3), "unit": unit, "limit": limit, "how": how}


def pace() -> Iterator[Row]:
    """How quick this machine is just now, which changes by the hour where others share it."""
    import torch

    from zowarmup import nets

    torch.set_num_threads(1)
    net, x = nets.build("cnn", input_shape=(3, 32, 32), classes=10, args={}), torch.randn(32, 3, 32, 32)
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        net(x).square().mean().backward()
        seconds.append(time.perf_counter() - began)
    how = f"backprop of cifar10-small's net, batch 32, one thread, median of {STEPS}: the machine's pace"
    yield row("a training step, for comparison", 1e3 * statistics.median(seconds), "ms", "", how)


def imports() -> Iterator[Row]:
    """Memory of a node's process before and behind torch, and that of torch alone, which differs between machines."""
    code = "import psutil, {}; m = psutil.Process().memory_info; before = m().rss; import {}; print(before, m().rss)"
    found = []
    for first, then in (("sys", "torch"), (f"zowarmup.cli.app, flwr.app, {FLEET}", "zowarmup.engines.lean")):
        command = [sys.executable, "-c", code.format(first, then)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found += [int(word) / 1e6 for word in done.stdout.split()]
    _, torch, before, behind = found
    yield row("torch alone, resident", torch, "MB", "", "a process that has imported torch, for comparison")
    yield row("node before torch, resident", before, "MB", 100, "a process that has imported what a node needs")
    yield row("node with torch, resident, before work", behind, "MB", 300, "likewise")


def digits(folder: Path, *, rounds: int) -> Iterator[Row]:
    """Three lean nodes, the digits recipe."""
    sets = ["data.clients=3", "data.high-resource=0.34", "phase.0.rounds=10", f"phase.1.rounds={rounds}"]
    with federation(folder / "digits", "digits", sets, clients=3) as (server, _):
        server.wait(1200)
    seconds = by_phase(folder / "digits" / "run")
    status = json.loads((folder / "digits" / "run" / "status.json").read_text())
    how = "three lean nodes and the server on two cores, loopback"
    yield row("digits, zeroth-order round, median", statistics.median(seconds[1]), "s", 0.5, how)
    yield row("digits, zeroth-order round, slowest of 20", sorted(seconds[1])[-max(1, rounds // 20)], "s", "", how)
    yield row("digits, first-order round, median", statistics.median(seconds[0]), "s", "", how)
    low = [client for client in status["clients"].values() if client["tier"] == "low"]
    yield row("low node, peak resident at work", max(c["peak_memory_bytes"] for c in low) / 1e6, "MB", 300, how)
    count = low[0]["bytes"]["1 zeroth-order"]
    for way in ("payload_up", "wire_up", "payload_down", "wire_down"):
        yield row(f"low node, a zeroth-order round, {way.replace('_', ' ')}", count[way] / rounds, "bytes", "", how)
    high = next(client for client in status["clients"].values() if client["tier"] == "high")["bytes"]["0 first-order"]
    for way in ("payload_up", "wire_up"):
        yield row(f"high node, a first-order round, {way.replace('_', ' ')}", high[way] / 10, "bytes", "", how)


def idle(folder: Path, seconds: float) -> Iterator[Row]:
    """A node that waits: what it sends and receives while a server waits for others."""
    from zowarmup.engines.lean import Lean, Link
    from zowarmup.engines.node import Node, Sized
    from zowarmup.engines.workshop import Materials

    sets = ["data.clients=2", "data.high-resource=1.0"]
    with federation(folder / "idle", "digits", sets, clients=0) as (server, port):
        node = Node(folder / "idle" / "own", Materials(), lambda recipe: Sized("high", ""), client=0)
        lean = Lean(node, Link(f"127.0.0.1:{port}"), say=lambda text: None)
        threading.Thread(target=lean.run, daemon=True).start()
        while node._place is None and server.poll() is None:
            time.sleep(0.2)
        time.sleep(15)  # until it looks only every three seconds
        before = sum(lean.counted())
        time.sleep(seconds)
        bytes_a_minute = (sum(lean.counted()) - before) * 60 / seconds
        milliseconds = request(Lean(node, Link(f"127.0.0.1:{port}"), say=lambda text: None))
    how = f"median of {REQUESTS}; a zeroth-order round of three nodes takes about 35 of them"
    yield row("one request to the SuperLink, nothing else going on", milliseconds, "ms", "", how)
    yield row("idle node, both ways, a minute", bytes_a_minute / 1e3, "kB", 25, f"over {seconds:g} s; looks every 3 s")


def request(lean: Lean) -> float:
    """Milliseconds that a look for messages takes."""
    from flwr.proto.fleet_pb2 import PullMessagesRequest

    seconds = []
    with lean._session() as (client, node):
        for _ in range(REQUESTS):
            began = time.perf_counter()
            client.PullMessages(PullMessagesRequest(node=node))
            seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


def uplink(folder: Path, *, quick: bool) -> Iterator[Row]:
    """What low-resource clients send in a run of cifar10-small, by the paper's settings; 4 bytes a direction asked."""
    if "ZOWARMUP_DATA" not in os.environ:
        return
    warm, rounds = (2, 3) if quick else (5, 50)
    sets = [f"data.path={os.environ['ZOWARMUP_DATA']}/cifar10", "data.take=500", "data.clients=4"]
    sets += ["data.high-resource=0.25", f"phase.0.rounds={warm}", f"phase.1.rounds={rounds}", "phase.1.cohort=4"]
    with federation(folder / "cifar", "cifar10-small", sets, clients=4) as (server, _):
        server.wait(3000)
    status = json.loads((folder / "cifar" / "run" / "status.json").read_text())
    low = [client["bytes"] for client in status["clients"].values() if client["tier"] == "low"]
    payload = sum(count["payload_up"] for phases in low for count in phases.values())
    wire = sum(count["wire_up"] for phases in low for count in phases.values())
    asked = len(low) * rounds * 3
    how = f"cifar10-small, {len(low)} low clients, {rounds} zeroth-order rounds of 3 directions"
    yield row("cifar10-small, low tier sends, payload a direction", payload / asked, "bytes", 4.04, how)
    yield row("cifar10-small, low tier sends, wire a direction", wire / asked, "bytes", "", how)


def simulation(folder: Path, *, rounds: int) -> Iterator[Row]:
    """Ray: 200 clients of the digits recipe, 6 samples each, all in every round."""
    out = folder / "simulated"
    sets = f"data.clients=200 phase.0.rounds=2 phase.1.rounds={rounds}"
    command = [str(Path(sys.executable).parent / "flwr"), "run", str(ROOT / "apps" / "flower"), "--stream"]
    command += ["--run-config", f'set="{sets}" out="{out}"']
    command += ["--federation-config", "num-supernodes=200 client-resources-num-cpus=1 init-args-num-cpus=2"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # they look each other up
    environment = os.environ | {"PATH": path, "FLWR_HOME": str(folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0"}
    environment |= {"FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(PORT + 20), "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run(command, env=environment, check=True, timeout=1200, stdout=subprocess.DEVNULL)
    for process in psutil.process_iter(["cmdline"]):
        if f"{folder}/flwr" in " ".join(process.info["cmdline"] or ()):
            process.terminate()
    how = "flwr run, two Ray actors on two cores, all clients in every round"
    median = statistics.median(by_phase(out)[1])
    yield row("simulation of 200 clients, zeroth-order round, median", median, "s", 1.2, how)


def by_phase(run: Path) -> dict[int, list[float]]:
    """Seconds of the rounds of each phase."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[int, list[float]] = {}
    for before, line in itertools.pairwise(lines):
        found.setdefault(line["phase"], []).append(line["seconds"] - before["seconds"])
    return found


@contextmanager
def federation(
    folder: Path, recipe: str, sets: list[str], *, clients: int
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server and nodes; killed at the end, if they have not ended."""
    global PORT
    PORT, port = PORT + 2, PORT
    folder.mkdir(parents=True)
    values = [word for each in sets for word in ("--set", each)]
    command = [PROGRAM, "server", recipe, *values, "--listen", f"127.0.0.1:{port}", "--out", str(folder / "run")]
    log = (folder / "log").open("ab")
    processes = [subprocess.Popen(command, stdout=log, stderr=log)]
    for client in range(clients):
        home = ["--home", str(folder / f"node-{client}"), "--client", str(client), "--tier", "high"]
        processes.append(subprocess.Popen([PROGRAM, "join", f"127.0.0.1:{port}", *home], stdout=log, stderr=log))
    try:
        yield processes[0], port
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(60)
        log.close()


if __name__ == "__main__":
    main()
