"""compare.json: which runs a comparison is made of, how their settings were chosen, and what failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from zowarmup.disk import Disk
from zowarmup.errors import OutputError
from zowarmup.grid import label
from zowarmup.report import Cell, Trial

NAME = "compare.json"
FORMAT = 2


@dataclass(frozen=True)
class Comparison:
    """What came of the runs.

    Args:
        out: the comparison's directory.
        name: the suite's; ``""`` where recipes were given.
        baseline: the method that others are compared with.
        cells: in the order of splits, then methods; also those of which no run has finished.
        failed: what went wrong, by the job's name (``"digits, seed 3"``).
        trials: runs made to choose settings.
        rows: the table: see :func:`zowarmup.report.table`, split by split; empty where no run finished.
    """

    out: Path
    name: str = ""
    baseline: str = ""
    cells: tuple[Cell, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    rows: tuple[dict[str, Any], ...] = ()

    @property
    def page(self) -> Path:
        """Where the page is."""
        return self.out / "compare.html"

    @property
    def finished(self) -> tuple[Cell, ...]:
        """The cells of which a run has finished."""
        return tuple(cell for cell in self.cells if cell.runs)

    @property
    def runs(self) -> dict[str, tuple[Path, ...]]:
        """Label -> directories of finished runs, by cell; ``"method split"`` where there are splits."""
        return {label(cell.method, cell.split): cell.runs for cell in self.finished}


def write(comparison: Comparison) -> None:
    """Write compare.json.

    Raises:
        DiskError: it cannot be written.
    """
    out = comparison.out
    content = _Manifest(
        format=FORMAT,
        name=comparison.name,
        baseline=comparison.baseline,
        cells=[
            _Cell(method=cell.method, split=cell.split, runs=_relative(cell.runs, out), choice=dict(cell.choice))
            for cell in comparison.cells
        ],
        failed=dict(comparison.failed),
        trials=[
            _Trial(
                method=trial.method,
                split=trial.split,
                values=dict(trial.values),
                seed=trial.seed,
                validation_accuracy=trial.score,
                folder="" if trial.folder is None else trial.folder.relative_to(out).as_posix(),
            )
            for trial in comparison.trials
        ],
    )
    Disk().write(out / NAME, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def read(out: Path) -> Comparison:
    """The comparison in a directory, without its table.

    Raises:
        OutputError: not a comparison's directory, a damaged one, or one of another format.
    """
    path = out / NAME
    try:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=_Format).format
        if found != FORMAT:
            hint = "the same `zowarmup compare` again writes it anew, and keeps the runs"
            raise OutputError(f"{path}: expected format {FORMAT}, got {found}", hint=hint, path=out)
        manifest = msgspec.json.decode(content, type=_Manifest)
    except OSError:
        raise OutputError(f"{out}: not a comparison: it has no {NAME}", path=out) from None
    except msgspec.DecodeError as error:
        raise OutputError(f"{path}: is damaged: {error}", path=out) from None
    return Comparison(
        out=out,
        name=manifest.name,
        baseline=manifest.baseline,
        cells=tuple(
            Cell(cell.method, cell.split, tuple(out / folder for folder in cell.runs), cell.choice)
            for cell in manifest.cells
        ),
        failed=manifest.failed,
        trials=tuple(
            Trial(each.method, each.split, each.values, each.seed, each.validation_accuracy, out / each.folder)
            for each in manifest.trials
        ),
    )


class _Cell(msgspec.Struct, frozen=True, kw_only=True):
    method: str
    split: str
    runs: list[str]
    choice: dict[str, Any]


class _Trial(msgspec.Struct, frozen=True, kw_only=True):
    method: str
    split: str
    values: dict[str, Any]
    seed: int
    validation_accuracy: float | None
    folder: str


class _Format(msgspec.Struct, frozen=True):
    format: int


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    name: str
    baseline: str
    cells: list[_Cell]
    failed: dict[str, str]
    trials: list[_Trial]


def _relative(folders: tuple[Path, ...], out: Path) -> list[str]:
    return [folder.relative_to(out).as_posix() for folder in folders]
