"""Commands of a federation over a network: a server, a node, and how it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from zowarmup.cli import consoles
from zowarmup.cli.options import Debug, Device, Force, Json, Quiet, RecipeName, Seed, Set


def server(
    recipe: RecipeName,
    /,
    *,
    listen: Annotated[
        str, Parameter(help="HOST:PORT where nodes reach it; the status page is at the next port.")
    ] = "127.0.0.1:9092",
    tls: Annotated[
        Path | None, Parameter(help="A folder of `zowarmup certs`; where it has node keys, only those get in.")
    ] = None,
    out: Annotated[Path | None, Parameter(help="The run directory; runs/NAME-seedN where left out.")] = None,
    set_: Set = (),
    seed: Seed = None,
    nodes: Annotated[
        int | None, Parameter(help="Nodes that must be there before round 1; one for each client where left out.")
    ] = None,
    deadline: Annotated[float, Parameter(help="Seconds that a round waits for reports, where there is a quorum.")] = 60,
    quorum: Annotated[float, Parameter(help="Share of the asked without which no round closes.")] = 0.5,
    enough: Annotated[float, Parameter(help="Share of the asked with which a round closes at once.")] = 1.0,
    give_up: Annotated[float, Parameter(help="Seconds without a quorum after which the run stops.")] = 600,
    join_within: Annotated[float, Parameter(help="Seconds in which the first nodes must come.")] = 600,
    device: Device = "auto",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a recipe whose clients are nodes on a network. The same command goes on after a crash.

        zowarmup server digits --listen 0.0.0.0:9092 --tls fed

    Each device then runs `zowarmup join HOST:9092 --ca fed/ca.crt --key fed/nodes/NAME.key`.
    """
    from zowarmup import recipes
    from zowarmup.cli import results
    from zowarmup.engines.rounds import Patience
    from zowarmup.hosting import Address, Host
    from zowarmup.trained import load

    seeds = () if seed is None else (f"seed={seed}",)
    loaded = recipes.load(recipe, overrides=(*set_, *seeds))
    folder = out or Path("runs") / f"{loaded.name}-seed{loaded.seed}"
    host = Host(
        recipe=loaded,
        out=folder,
        address=Address.parse(listen),
        tls=tls,
        nodes=nodes,
        patience=Patience(
            deadline_seconds=deadline,
            quorum=quorum,
            enough=enough,
            give_up_seconds=give_up,
            join_seconds=join_within,
        ),
        device=device,
        force=force,
        say=(lambda text: None) if quiet else consoles.note,
    )
    with consoles.told_where(folder, again=True):
        host.run()
    results.show_run(load(folder).summary, folder, as_json=as_json)


def join(
    address: Annotated[str, Parameter(name="HOST:PORT", help="Where `zowarmup server` listens.")],
    /,
    *,
    data: Annotated[
        Path | None,
        Parameter(
            help="This device's own samples (.npz with x and y, or parquet), where the recipe deals none out; "
            "otherwise the folder of the recipe's parquet files."
        ),
    ] = None,
    tier: Annotated[
        Literal["auto", "high", "low"],
        Parameter(help="high: can run backprop; auto: measure it at the recipe's batch, and say so."),
    ] = "auto",
    memory_limit: Annotated[
        str | None, Parameter(help="What the node may take, for --tier auto: 400MB; what there is where left out.")
    ] = None,
    client: Annotated[int | None, Parameter(help="The client to be; any free one of the tier where left out.")] = None,
    ca: Annotated[Path | None, Parameter(help="ca.crt of the server's authority; without TLS where left out.")] = None,
    key: Annotated[Path | None, Parameter(help="This node's key, where the server asks for one.")] = None,
    home: Annotated[Path | None, Parameter(help="Where the node keeps its state; ~/.zowarmup where left out.")] = None,
    recipe: Annotated[
        str | None, Parameter(help="Take part in this recipe alone: a shipped one by name, or a TOML file.")
    ] = None,
    allow_code: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Let the recipe name Python code of this device.")
    ] = False,
    poll: Annotated[float, Parameter(help="Seconds between two looks for messages while there are none.")] = 3.0,
    patience: Annotated[float, Parameter(help="Seconds to wait for a server that was there and is gone.")] = 600,
    device: Device = "cpu",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Take part in a federation as one node, until the run is over.

    zowarmup join fl.example.org:9092 --ca fed/ca.crt --key fed/nodes/pi-1.key --memory-limit 400MB
    """
    from zowarmup.joining import Joining

    joining = Joining(
        address=address,
        data=data,
        tier=tier,
        memory_limit=memory_limit,
        client=client,
        ca=ca,
        key=key,
        home=home,
        recipe=recipe,
        allow_code=allow_code,
        poll_seconds=poll,
        patience_seconds=patience,
        device=device,
    )
    joining.run((lambda text: None) if quiet else consoles.note)


def status(
    where: Annotated[str, Parameter(name="HOST:PORT|DIR", help="A server's address, or its run directory.")],
    /,
    *,
    ca: Annotated[Path | None, Parameter(help="ca.crt of the server's authority; without TLS where left out.")] = None,
    watch: Annotated[bool, Parameter(negative=(), show_default=False, help="Stay, and look every second.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How a federation stands: round, who is awaited until when, drop-outs, bytes by client, accuracy.

    zowarmup status runs/digits-seed0

    zowarmup status fl.example.org:9092 --ca fed/ca.crt --watch
    """
    from zowarmup.cli import statuses

    statuses.show(where, ca=ca, watch=watch, as_json=as_json)
