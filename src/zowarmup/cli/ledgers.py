"""Commands about the ledger: what is in it, whether it holds, and what can be made of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zowarmup.cli import consoles
from zowarmup.cli.options import Debug, Json, Replace, RunDir


def inspect(
    directory: RunDir,
    /,
    *,
    round: Annotated[
        int | None, Parameter(help="Show this round in full; a negative one counts from the end: -1 is the last.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a run is and how far it has come, or one round in full.

    zowarmup inspect runs/digits-seed0

    zowarmup inspect runs/digits-seed0 --round -1 --json
    """
    from zowarmup.cli import inspecting

    if round is None:
        inspecting.show_run(inspecting.about_run(directory), as_json=as_json)
    else:
        inspecting.show_round(inspecting.about_round(directory, round), as_json=as_json)


def verify(
    directory: RunDir,
    /,
    *,
    from_round: Annotated[
        int, Parameter(help="Rebuild states from the last snapshot up to here on; the chain is checked as a whole.")
    ] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Prove a run: check the chain, every snapshot, and every state that can be rebuilt from the ledger.

    Exit code 0 where all of it holds, 1 where something is wrong; each problem is named with its round.

        zowarmup verify runs/digits-seed0
    """
    from zowarmup.cli import live, proving

    with live.verify_view() as view:
        from zowarmup.proof import verify as prove

        proof = prove(directory, from_round=from_round, on_round=view)
    proving.show_proof(proof, directory, as_json=as_json)
    return 0 if proof.holds else 1


def diff(
    a: Annotated[Path, Parameter(name="A", help="A run directory.")],
    b: Annotated[Path, Parameter(name="B", help="Another.")],
    /,
    *,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Compare two runs bit by bit: the first round where they part, and in what.

    Exit code 0 where they are identical, 1 where they differ. Ledgers are compared as they are; `zowarmup verify` says
    whether they hold.

        zowarmup diff runs/digits-seed0 runs/resumed
    """
    from zowarmup.cli import proving
    from zowarmup.difference import diff as compare

    difference = compare(a, b)
    proving.show_difference(difference, a, b, as_json=as_json)
    return 0 if difference.identical else 1


def replay(
    directory: RunDir,
    /,
    *,
    out: Annotated[Path, Parameter(name="--out", help="The file to write, FILE.safetensors.")],
    to_round: Annotated[
        int, Parameter(help="The round whose weights are wanted; a negative one counts from the end.")
    ] = -1,
    force: Replace = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the weights and buffers after a round, rebuilt from the ledger; needs neither the data nor the net.

    What was rebuilt is held to the digest in the ledger before it is written. Names are those of a state_dict.

        zowarmup replay runs/digits-seed0 --to-round 120 --out at-120.safetensors
    """
    from zowarmup.cli import replaying

    replaying.check(out, force=force)  # before anything heavy is imported
    with consoles.status("replaying"):
        replayed = replaying.replay(directory, to_round, out)
    replaying.show(replayed, as_json=as_json)


def export(
    directory: RunDir,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The file to write; stdout where left out.")] = None,
    force: Replace = False,
    debug: Debug = False,
) -> None:
    """Write a ledger as JSON lines: one about the run, then one for each round.

    zowarmup export runs/digits-seed0 | jq .entry.coefficients

    zowarmup export runs/digits-seed0 --out digits.jsonl
    """
    from zowarmup.cli import exporting, replaying

    if out is None:
        for line in exporting.lines(directory):
            sys.stdout.write(line.decode())
    else:
        replaying.check(out, force=force)
        exporting.write(directory, out)
        consoles.print_path(out)
