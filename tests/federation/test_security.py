"""TLS and keys: who has what it takes gets in, everybody else is told why, and the run does not mind."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from processes import END_SECONDS, START_SECONDS, Federation, Process, tool

from zowarmup import certs

NAMES = ("a", "b", "c")


@pytest.fixture
def fed(federation: Federation) -> Path:
    """A folder of certificates with the nodes' keys."""
    certs.issue(federation.folder / "fed", nodes=NAMES)
    return federation.folder / "fed"


def key(name: str, folder: str = "fed") -> list[str]:
    return ["--ca", f"{folder}/ca.crt", "--key", f"{folder}/nodes/{name}.key"]


def refused(node: Process, *told: str) -> None:
    assert node.wait(START_SECONDS) == 1
    assert "Traceback" not in node.said
    for text in told:
        assert text in node.said, node.said


def test_only_known_keys_get_in_and_the_run_goes_on(federation: Federation, fed: Path, same_as_local) -> None:
    certs.issue(federation.folder / "other", nodes=["d"])
    shutil.copy(fed / "ca.crt", federation.folder / "other" / "right.crt")
    server = federation.serve("--tls", "fed")
    federation.until_said(server, "TLS, known keys alone", seconds=END_SECONDS)
    address = f"{federation.address}: "
    strangers = {
        "no-key": (["--ca", "fed/ca.crt"], ["does not let this node in: it asks for a key", "hint: --key"]),
        "unknown-key": (
            ["--ca", "other/right.crt", "--key", "other/nodes/d.key"],
            ["does not let this node in: it does not know its key", "hint: `zowarmup server --tls DIR` knows"],
        ),
        "other-authority": (
            key("d", "other"),
            ["the server's certificate is not accepted: ", "hint: --ca is the ca.crt of the folder"],
        ),
        "no-tls": ([], ["answers, but does not speak HTTP with this node", "hint: a server that talks TLS (--ca"]),
    }
    outside = {name: federation.join(0, *flags, "--home", name, name=name) for name, (flags, _) in strangers.items()}
    for name, (_, told) in strangers.items():
        refused(outside[name], address, *told)
    nodes = [federation.join(client, *key(name)) for client, name in enumerate(NAMES)]
    federation.ended(server, nodes)
    same_as_local(federation)


def test_a_known_node_that_was_killed_comes_back_with_its_key(federation: Federation, fed: Path) -> None:
    """The server takes it to be there for up to a minute, and lets no second one in with its key so long."""
    federation.overrides |= {"phase.1.rounds": 40}
    server = federation.serve("--tls", "fed", "--deadline", "120", "--quorum", "1")
    nodes = [federation.join(client, *key(name)) for client, name in enumerate(NAMES)]
    federation.until_round(5, server)
    nodes[1].kill()
    nodes[1] = federation.join(1, *key("b"))
    federation.ended(server, nodes)
    assert "it does not know its key, or takes it to be there already" in nodes[1].said
    assert nodes[1].said.count("takes part as client 1") == 1


def test_nodes_with_keys_come_back_to_a_server_that_was_killed(
    federation: Federation, fed: Path, same_as_local
) -> None:
    """It does not know their keys again at once."""
    federation.overrides |= {"phase.1.rounds": 40}
    server = federation.serve("--tls", "fed")
    nodes = [federation.join(client, *key(name)) for client, name in enumerate(NAMES)]
    federation.until_round(5, server)
    federation.kill_server(server)
    assert federation.last < federation.rounds
    federation.ended(federation.serve("--tls", "fed"), nodes)
    same_as_local(federation)


def test_a_certificate_for_another_host(federation: Federation) -> None:
    certs.issue(federation.folder / "fed", hosts=["fl.example.org"])
    link = federation.start("link", _superlink(federation))
    _listens(federation, link)
    refused(federation.join(0, "--ca", "fed/ca.crt"), "the server's certificate is not accepted: IP address mismatch")
    link.kill()
    server = federation.serve("--tls", "fed")
    assert server.wait(END_SECONDS) == 2
    assert "fed/server.crt: is for fl.example.org, and this server reaches itself as 127.0.0.1" in server.said
    assert "hint: `zowarmup certs fed --host fl.example.org 127.0.0.1` makes another" in server.said


def test_an_expired_certificate(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node refuses a server that shows it, and a server of ours does not even begin."""
    today = certs._now()
    monkeypatch.setattr(certs, "_now", lambda: today - timedelta(days=40))
    certs.issue(federation.folder / "fed", days=30)
    monkeypatch.undo()
    link = federation.start("link", _superlink(federation))
    _listens(federation, link)
    refused(
        federation.join(0, "--ca", "fed/ca.crt"), "the server's certificate is not accepted: certificate has expired"
    )
    link.kill()
    server = federation.serve("--tls", "fed")
    assert server.wait(END_SECONDS) == 2
    assert "fed/server.crt: has expired: valid until " in server.said
    assert "hint: `zowarmup certs fed` makes another" in server.said
    assert not federation.out.exists()


def _superlink(federation: Federation) -> list[str]:
    """Flower's own, which does not look at the date of what it shows."""
    command = [tool("flower-superlink"), "--host", "127.0.0.1", "--port", str(federation.port)]
    command += [
        "--ssl-ca-certfile",
        "fed/ca.crt",
        "--ssl-certfile",
        "fed/server.crt",
        "--ssl-keyfile",
        "fed/server.key",
    ]
    return [*command, "--isolation", "process", "--disable-runtime-dependency-installation"]


def _listens(federation: Federation, link: Process) -> None:
    federation.until_said(link, "startup complete", seconds=END_SECONDS)
