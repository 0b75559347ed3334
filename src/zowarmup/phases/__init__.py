"""The phases of a run: each is four small functions over immutable states.

    plan(round, state)             -> a request for each sampled client          server
    work(request, client)          -> the client's report                        client: no transport, no globals
    close(round, reports, state)   -> the round's entry, and its blobs           server
    apply(entry, blobs, state)     -> the state after the round                  every replica, the server's included

Nothing here reads a clock, a file, a socket or a global generator. An engine moves requests and reports; it hands
reports to ``close`` one at a time in client order, so that memory does not grow with the cohort and sums do not depend
on who was quicker.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import replace

from zowarmup.errors import ModelError, RecipeError
from zowarmup.head import HeadLayer
from zowarmup.norms import NormLayer
from zowarmup.phases.base import Blobs, Client, Closed, Passes, Phase, Scope
from zowarmup.phases.first_order import FirstOrderPhase
from zowarmup.phases.head import HeadPhase
from zowarmup.phases.mixed import MixedPhase
from zowarmup.phases.prior import PriorPhase
from zowarmup.phases.statistics import StatisticsPhase
from zowarmup.phases.sub_network import SubNetworkPhase
from zowarmup.phases.zeroth_order import ZerothOrderPhase
from zowarmup.recipe import FirstOrder, Head, Mixed, Statistics, SubNetwork
from zowarmup.recipe import Phase as Settings
from zowarmup.subnetwork import Narrow
from zowarmup.table import Table

__all__ = ["Blobs", "Client", "Closed", "Passes", "Phase", "Scope", "build"]


def _no_head(name: str | None) -> HeadLayer:
    raise ModelError("this phase needs the model's head, and was made without a model")


def _no_norms() -> tuple[NormLayer, ...]:
    raise ModelError("this phase needs the model's BatchNorm layers, and was made without a model")


def _no_narrower(settings: SubNetwork) -> Narrow:
    raise ModelError("this phase needs a narrower net, and was made without a model")


def build(
    settings: Settings,
    scope: Scope,
    head: Callable[[str | None], HeadLayer] = _no_head,
    norms: Callable[[], tuple[NormLayer, ...]] = _no_norms,
    narrow: Callable[[SubNetwork], Narrow] = _no_narrower,
) -> Phase:
    """The phase that a recipe's table describes.

    Args:
        settings: the table.
        scope: where it stands.
        head: finds the last linear layer, by name or by itself.
        norms: finds the BatchNorm layers.
        narrow: makes what low-resource clients train in a sub-network phase.

    Raises:
        RecipeError: the tier has no clients, or fewer than the cohort, or none with ``min-samples``; ``freeze`` fits no
            parameter; or a tier is missing where both are needed.
        ModelError: there is no head, no BatchNorm, or no narrower net, where it is needed.
    """
    scope.check(settings)
    if isinstance(settings, SubNetwork):
        return _sub_network(settings, scope, head, narrow)
    if isinstance(settings, FirstOrder):
        return FirstOrderPhase(settings, scope, frozen(settings.freeze, scope.table, head))
    if isinstance(settings, Head | Statistics):
        if not any(scope.samples[client] >= settings.min_samples for client in scope.members):
            raise RecipeError(f"min-samples = {settings.min_samples}: no client of the tier holds as many")
        if isinstance(settings, Statistics):
            return StatisticsPhase(settings, scope, norms())
        if settings.form == "prior":
            return _prior(settings, scope, head(settings.module))
        return HeadPhase(settings, scope, head(settings.module))
    if isinstance(settings, Mixed):
        return _mixed(settings, scope, head)
    return ZerothOrderPhase(settings, scope, frozen(settings.freeze, scope.table, head))


def _prior(settings: Head, scope: Scope, layer: HeadLayer) -> PriorPhase:
    if layer.bias is None:
        raise ModelError(f'{layer.name}: has no bias, which form = "prior" would add to')
    if not any(client in scope.high for client in scope.members):
        raise RecipeError(
            f'phase {scope.phase}: form = "prior" compares with high-resource clients\' labels, and there are none',
            hint="data.high-resource sets who belongs to which tier",
        )
    return PriorPhase(settings, scope, layer.bias, layer.classes)


def _mixed(settings: Mixed, scope: Scope, head: Callable[[str | None], HeadLayer]) -> MixedPhase:
    high = scope.high.intersection(scope.members)
    low = frozenset(scope.members) - high
    if not high or not low:
        raise RecipeError(
            f'phase {scope.phase}: kind = "mixed" needs clients of both tiers, but {len(high)} of '
            f"{len(scope.members)} are high-resource",
            hint="data.high-resource sets who belongs to which tier",
        )
    first, zeroth = settings.first_order, settings.zeroth_order
    return MixedPhase(
        settings,
        scope,
        FirstOrderPhase(first, replace(scope, only=high), frozen(first.freeze, scope.table, head)),
        ZerothOrderPhase(zeroth, replace(scope, only=low), frozen(zeroth.freeze, scope.table, head)),
    )


def _sub_network(
    settings: SubNetwork,
    scope: Scope,
    head: Callable[[str | None], HeadLayer],
    narrow: Callable[[SubNetwork], Narrow],
) -> SubNetworkPhase:
    """The phase; the narrower net is made only where somebody trains it."""
    where = f"phase {scope.phase} (sub-network)"
    narrower = layer = None
    if settings.low_width < 1 and not scope.low.isdisjoint(scope.members):
        try:
            narrower = narrow(settings)
        except ModelError as error:
            raise ModelError(f"{where}: low-width = {settings.low_width}: {error.message}", hint=error.hint) from error
    if settings.mask:
        try:
            layer = head(None)
        except ModelError as error:
            raise ModelError(f"{where}: mask = true: {error.message}", hint="set mask = false") from error
    still = frozen(settings.freeze, scope.table, head)
    return SubNetworkPhase(settings, scope, narrower, layer, still)


def frozen(globs: Sequence[str], table: Table, head: Callable[[str | None], HeadLayer]) -> tuple[str, ...]:
    """Names of the parameters that globs stand for, in the table's order.

    Raises:
        RecipeError: a glob fits none.
    """
    found: set[str] = set()
    for glob in globs:
        names = _named(glob, table, head)
        if not names:
            raise RecipeError(f'freeze = "{glob}" fits no parameter', hint=f"there are {', '.join(table.names)}")
        found.update(names)
    if len(found) == len(table.names):
        raise RecipeError("freeze leaves no parameter to train")
    return tuple(name for name in table.names if name in found)


def _named(glob: str, table: Table, head: Callable[[str | None], HeadLayer]) -> list[str]:
    if glob not in ("head", "body"):
        return fnmatch.filter(table.names, glob)
    layer = head(None).parameters
    return [name for name in table.names if (name in layer) == (glob == "head")]
