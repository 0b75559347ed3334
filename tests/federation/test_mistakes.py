"""What goes wrong when a federation is set up: each mistake with its message and exit code."""

from __future__ import annotations

import socket
import threading
import time

from processes import BASE, END_SECONDS, START_SECONDS, Federation, Process


def ended(process: Process, code: int, *told: str) -> None:
    assert process.wait(START_SECONDS) == code, process.said
    assert "Traceback" not in process.said
    for text in told:
        assert text in process.said, process.said


def test_no_server(federation: Federation) -> None:
    began = time.monotonic()
    node = federation.join(0)
    hint = "hint: is `zowarmup server` running there, and is this its address?"
    ended(node, 1, f"{federation.address}: no server answers for 20 seconds: ", hint)
    assert time.monotonic() - began >= 20
    assert node.said.count("no connection to") == 1, "once is enough"


def test_another_program_at_the_address(federation: Federation) -> None:
    with socket.create_server(("127.0.0.1", federation.port)) as listener:
        listener.settimeout(START_SECONDS)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # what is not read resets the connection, and the answer with it
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        ended(federation.join(0), 1, f"{federation.address}: answers, but ")
        thread.join(END_SECONDS)


def test_a_status_page_is_no_server(federation: Federation) -> None:
    server = federation.serve()
    federation.until_said(server, "listening on", seconds=START_SECONDS)
    wrong = federation.join(0, address=f"127.0.0.1:{federation.port + 1}")
    ended(wrong, 1, f"127.0.0.1:{federation.port + 1}: answers, but not as a server of ours (HTTP 501)", "hint: ")
    assert server.alive


def test_a_client_that_somebody_is_already(federation: Federation, same_as_local) -> None:
    server = federation.serve()
    first = federation.join(0, "--quiet")
    federation.until(
        lambda: "0" in federation.status.get("clients", {}), "client 0", alive=server, seconds=START_SECONDS
    )
    second = federation.join(0, "--home", "elsewhere", name="second")
    ended(second, 1, "client 0 is another node at present", "hint: --client, or leave it out to get any free one")
    others = [federation.join(client, "--quiet") for client in (1, 2)]
    assert server.wait(START_SECONDS) == 0
    assert [node.wait(END_SECONDS) for node in (first, *others)] == [0, 0, 0]
    same_as_local(federation)


def test_a_home_that_another_node_uses(federation: Federation) -> None:
    server = federation.serve()
    federation.join(0)
    federation.until(
        lambda: "0" in federation.status.get("clients", {}), "client 0", alive=server, seconds=START_SECONDS
    )
    ended(federation.join(0, name="second"), 2, "home-0: another node uses it", "hint: --home DIR gives each node")


def test_a_node_too_small_for_inference(federation: Federation) -> None:
    server = federation.serve()
    node = federation.join(0, "--tier", "auto", "--memory-limit", "50MB")
    ended(node, 2, "50 MB", "hint: ")
    assert server.alive


def test_ports_that_are_taken(federation: Federation) -> None:
    with socket.create_server(("127.0.0.1", federation.port)):
        server = federation.serve()
        ended(
            server,
            2,
            f"{federation.address.rpartition(':')[0]}:{federation.port}: cannot listen there",
            "hint: --listen",
        )
    assert not federation.out.exists()


def test_a_directory_with_another_run(federation: Federation, same_as_local) -> None:
    federation.ended(federation.serve(), federation.join_all())
    other = federation.serve("--set", "phase.1.lr=0.5")
    ended(other, 2, "holds a run of another recipe: ", "lr", "hint: choose another --out, or --force to replace it")
    assert dict(BASE) == federation.overrides
    same_as_local(federation)
