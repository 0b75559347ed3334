"""`zowarmup certs`: what a federation over TLS needs, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zowarmup.certs import DAYS, Issued, describe, issue
from zowarmup.cli import consoles, tables
from zowarmup.cli.options import Debug, Json


def certs(
    folder: Annotated[Path, Parameter(name="DIR", help="The folder to write to, or to add to.")],
    /,
    *,
    hosts: Annotated[
        tuple[str, ...],
        Parameter(
            name="--host",
            negative=(),
            show_default=False,
            consume_multiple=True,
            help="DNS names and IP addresses of the server; localhost, 127.0.0.1 and ::1 where left out.",
        ),
    ] = (),
    nodes: Annotated[
        tuple[str, ...],
        Parameter(
            name="--node",
            negative=(),
            show_default=False,
            consume_multiple=True,
            help="Names of nodes; each gets a pair of keys in DIR/nodes.",
        ),
    ] = (),
    days: Annotated[
        int, Parameter(help="How long the server's certificate is valid; a new authority ten times.")
    ] = DAYS,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a certificate authority for tests, a server's certificate and nodes' keys.

    Called again it adds what is missing: nodes, or a server's certificate for other hosts or in the place of one that
    has expired. The authority, and every key that is there, are kept.

        zowarmup certs fed --host fl.example.org --node pi-1 pi-2
    """
    issued = issue(folder, hosts=hosts, nodes=nodes, days=days)
    show(issued, folder, as_json=as_json)


def show(issued: Issued, folder: Path, *, as_json: bool) -> None:
    """What was made and what was kept, with what certificates say."""
    described = {name: describe(folder / name) for name in ("ca.crt", "server.crt")}
    if as_json:
        found = {
            name: {"subject": each.subject, "hosts": each.hosts, "not_after": each.not_after}
            for name, each in described.items()
        }
        files = {"made": [*map(str, issued.made)], "kept": [*map(str, issued.kept)], "replaced": issued.replaced}
        consoles.print_json(files | {"certificates": found})
        return
    notes = {
        folder / name: f"{', '.join(each.hosts) or 'authority'}, until {each.not_after:%Y-%m-%d}"
        for name, each in described.items()
    }
    if issued.replaced is not None:
        notes[folder / "server.crt"] += f"; the one before {issued.replaced}"
    grid = tables.table("", "", "")
    grid.show_header = False
    for word, paths in (("made", issued.made), ("kept", issued.kept)):
        for path in paths:
            grid.add_row(word, str(path), notes.get(path, ""))
    tables.show(consoles.out(), grid)
