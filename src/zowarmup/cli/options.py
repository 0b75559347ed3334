"""Options that commands share: how they are called, and what help says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Set = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        negative=(),
        show_default=False,
        help="Put a value in the place of the recipe's: phase.1.eps=1e-3. May be repeated.",
    ),
]
Seed = Annotated[int | None, Parameter(help="In the place of the recipe's.")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda (or cuda:1) or mps.")]
Force = Annotated[bool, Parameter(negative=(), show_default=False, help="Replace what an earlier run left there.")]
Replace = Annotated[bool, Parameter(name="--force", negative=(), show_default=False, help="Replace FILE.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False, help="Print the result as JSON.")]
Quiet = Annotated[bool, Parameter(negative=(), show_default=False, help="Show no progress.")]
Debug = Annotated[bool, Parameter(negative=(), show_default=False, help="Show the traceback of an error.")]
RecipeName = Annotated[str, Parameter(name="RECIPE", help="A shipped recipe by name, or a TOML file.")]
RunDir = Annotated[Path, Parameter(name="DIR", help="A run directory.")]
