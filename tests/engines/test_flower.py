"""Flower's part, in one process: the apps as plain callables over a grid of calls."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

import zowarmup
from zowarmup.engines import flower
from zowarmup.engines.exchange import Received
from zowarmup.errors import UsageError
from zowarmup.serving import serve_config

from .fleet import short
from .grid import InProcess

SHORT = {"phase.0.rounds": 2, "phase.1.rounds": 3}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated nodes keep their state below a folder of the test's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    flower._node.cache_clear()
    flower._SHOPS.clear()


def simulated(clients: int) -> InProcess:
    configs = {100 + client: {"partition-id": client, "num-partitions": clients} for client in range(clients)}
    return InProcess(flower.client_app(), configs)


def test_twenty_simulated_nodes_give_the_local_engines_chain(tmp_path: Path) -> None:
    grid = simulated(20)
    context = grid.context(100)
    context.run_config = {
        "recipe": "digits",
        "set": " ".join(f"{key}={value}" for key, value in SHORT.items()),
        "out": str(tmp_path / "run"),
        "device": "cpu",
    }
    flower.server_app(serve_config)(grid, context)
    expected = zowarmup.run("digits", overrides=SHORT, device="cpu").summary
    got = zowarmup.load(tmp_path / "run").summary
    assert (got["state_digest"], got["chain"]) == (expected["state_digest"], expected["chain"])


def test_a_message_comes_back_as_it_was_answered() -> None:
    grid = simulated(1)
    transport = flower.GridTransport(grid)
    assert transport.nodes() == {100}
    (name,) = transport.send([(100, b"no envelope")], seconds=5.0)
    (received,) = transport.receive()
    assert isinstance(received, Received)
    assert (received.message, received.node, received.error) == (name, 100, "")
    assert received.content is not None and b"is none that a server" in received.content
    assert list(transport.receive()) == []


def test_what_is_no_message_of_ours_is_empty() -> None:
    assert flower.unpack(flower.pack(b"abc")) == b"abc"
    assert flower.unpack(flower.RecordDict()) == b""
    assert flower.unpack(flower.RecordDict({"z": flower.ConfigRecord({"z": 3})})) == b""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tier": "middle"}, "tier is 'middle', expected 'high' or 'low'"),
        ({}, "tier is None, expected 'high' or 'low'"),
        ({"tier": "low", "colour": 1}, "unknown colour; known are allow-code, client, data, device, home, path, tier"),
    ],
)
def test_a_stock_node_says_what_its_configuration_lacks(config: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        flower.stock_node(1, config)


def test_a_stock_node_has_what_its_configuration_says(tmp_path: Path) -> None:
    node = flower.stock_node(1, {"tier": "low", "client": 3, "home": str(tmp_path), "path": "data", "allow-code": True})
    assert (node.client, node.home, node.size(short()).tier) == (3, tmp_path, "low")
    assert (node.materials.path, node.materials.allow_code) == (Path("data"), True)


def test_content_that_is_not_there_yet_is_looked_for_again_soon() -> None:
    flower.hurry()
    assert flower.pull_objects.__kwdefaults__["initial_backoff"] == pytest.approx(0.03)
    assert flower.pull_objects.__kwdefaults__["backoff_cap"] == pytest.approx(1.0)
