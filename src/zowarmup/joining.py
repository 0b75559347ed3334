"""One node as a process: from what `zowarmup join` was told to a lean node, and on to the end of the run."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock

from zowarmup.errors import DataError, OutputError, UsageError


@dataclass(frozen=True)
class Joining:
    """What a node is told: see the command."""

    address: str
    data: Path | None = None
    tier: Literal["auto", "high", "low"] = "auto"
    memory_limit: str | None = None
    client: int | None = None
    ca: Path | None = None
    key: Path | None = None
    home: Path | None = None
    recipe: str | None = None
    allow_code: bool = False
    poll_seconds: float = 3.0
    patience_seconds: float = 600.0
    device: str = "cpu"

    def run(self, say: Callable[[str], None]) -> None:
        """Take part until the run has ended.

        Args:
            say: called with lines for people.

        Raises:
            UsageError: something is missing or does not fit, here or with what the server runs.
            ConnectionLost: there is no server, it does not let this node in, or it was gone for too long.
            RunError: the server has no place for this node.
        """
        from zowarmup import chain, recipes
        from zowarmup.engines.lean import Lean, Link  # brings Flower, and torch
        from zowarmup.engines.node import Node, Sized
        from zowarmup.engines.sizing import limit_of, sized
        from zowarmup.engines.workshop import Materials
        from zowarmup.recipe import Own, Recipe

        link = Link(
            address=self.address,
            root_certificates=self.ca,
            key=self.key,
            patience_seconds=self.patience_seconds,
            idle_seconds=self.poll_seconds,
        )
        limit = None if self.memory_limit is None else limit_of(self.memory_limit)
        if self.data is not None and not self.data.exists():
            raise DataError(f"{self.data}: there is no such file or folder")
        pinned = b""
        if self.recipe is not None:
            pinned = chain.identity(tomllib.loads(recipes.to_toml(recipes.load(self.recipe))))
        tier = self.tier

        def size(recipe: Recipe) -> Sized:
            if tier != "auto":
                return Sized(tier, "as told")
            say("measuring whether backprop at the recipe's batch fits")
            own = self.data if isinstance(recipe.data.partition, Own) else None
            return sized(recipe, limit, own)

        home = self._home()
        materials = Materials(data=self.data, device=self.device, allow_code=self.allow_code, pinned=pinned)
        node = Node(home, materials, size, client=self.client, told=say)
        lock = filelock.FileLock(home / "node.lock")
        try:
            with lock.acquire(timeout=0):
                Lean(node, link, say).run()
        except filelock.Timeout:
            raise OutputError(
                f"{home}: another node uses it", hint="--home DIR gives each node on a machine its own", path=home
            ) from None
        say("the run is over")

    def _home(self) -> Path:
        name = "node" if self.client is None else f"client-{self.client}"
        home = self.home or Path.home() / ".zowarmup" / name
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{home}: cannot be written to: {error.strerror}", path=home) from None
        if self.poll_seconds <= 0 or self.patience_seconds <= 0:
            raise UsageError("--poll and --patience are seconds, more than 0")
        return home
