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

from zowarmup.phases.base import Blobs, Client, Closed, Passes, Phase, Scope
from zowarmup.phases.first_order import FirstOrderPhase
from zowarmup.phases.zeroth_order import ZerothOrderPhase
from zowarmup.recipe import FirstOrder
from zowarmup.recipe import Phase as Settings

__all__ = ["Blobs", "Client", "Closed", "Passes", "Phase", "Scope", "build"]


def build(settings: Settings, scope: Scope) -> Phase:
    """The phase that a recipe's table describes.

    Raises:
        RecipeError: the tier has no clients, or fewer than the cohort.
    """
    scope.check(settings)
    if isinstance(settings, FirstOrder):
        return FirstOrderPhase(settings, scope)
    return ZerothOrderPhase(settings, scope)
