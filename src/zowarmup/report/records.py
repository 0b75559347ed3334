"""A run directory, read and checked: what every report starts from."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, Required, TypedDict, cast

import msgspec

from zowarmup.errors import OutputError

FORMAT = 1
"""Of summary.json; another one is refused."""
FILES = ("run.toml", "metrics.jsonl", "summary.json")


class Tiers(TypedDict):
    """One number a tier."""

    high: int
    low: int


class Traffic(TypedDict):
    """Payload bytes, summed over the clients of a tier."""

    uplink: Tiers
    downlink: Tiers


class Scores(TypedDict, total=False):
    """What an evaluation gives; shares of 1, None where undefined."""

    accuracy: float | None
    loss: float | None
    class_accuracy: list[float | None] | None
    low_held_accuracy: float | None
    worst_class_accuracy: float | None
    low_client_accuracy: float | None
    high_client_accuracy: float | None
    client_accuracy_p10: float | None


class Round(Scores, total=False):
    """A line of metrics.jsonl; counts are sums since the start, scores are there on evaluated rounds."""

    refusals: dict[str, str]
    round: Required[int]
    phase: Required[int | None]
    kind: str | None
    lr: float | None
    cohort: int | None
    refused: int | None
    uplink_bytes: Required[Tiers]
    downlink_bytes: Required[Tiers]
    forward_samples: Tiers
    backward_samples: Tiers
    seconds: float | None


class PhaseSummary(TypedDict):
    """One phase of summary.json; rounds are counted over the whole run."""

    kind: str
    tier: Literal["high", "low", "all"]
    first_round: int
    last_round: int
    cohort: int | None
    seconds: NotRequired[float | None]
    peak_memory_bytes: NotRequired[int | None]
    refused: NotRequired[int | None]


class Federation(TypedDict):
    """Who took part, and who holds what; class fields are None where the task is no classification."""

    tiers: list[Literal["high", "low"]]
    sizes: list[int]
    class_counts: list[list[int]] | None
    class_names: list[str] | None
    low_held_classes: list[int] | None


class Summary(TypedDict):
    """summary.json; the report also reads what is optional here."""

    format: int
    status: Literal["finished", "interrupted", "failed"]
    method: str
    recipe: str
    seed: int
    rounds: int
    pivot: int | None
    phases: list[PhaseSummary]
    final: Scores
    bytes: Traffic
    fedavg_bytes: Traffic
    federation: Federation
    parameters: NotRequired[int | None]
    net: NotRequired[str | None]
    planned_rounds: NotRequired[int]
    turns: NotRequired[dict[str, int]]
    input_shape: NotRequired[list[int]]
    classes: NotRequired[int | None]
    device: NotRequired[str | None]
    threads: NotRequired[int | None]
    refused: NotRequired[int | None]
    peak_memory_bytes: NotRequired[int | None]
    seconds: NotRequired[float | None]
    state_digest: NotRequired[str | None]
    versions: NotRequired[dict[str, str] | None]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run, as its directory tells it.

    Args:
        path: the run directory.
        summary: summary.json, checked.
        metrics: the lines of metrics.jsonl, checked; rounds ascend.
        recipe: run.toml, the resolved recipe, as text.
    """

    path: Path
    summary: Summary
    metrics: list[Round]
    recipe: str

    @property
    def planned_rounds(self) -> int:
        """Rounds that the recipe asks for."""
        return self.summary.get("planned_rounds", self.summary["rounds"])

    @property
    def recipe_path(self) -> Path:
        """Where the resolved recipe lies."""
        return self.path / "run.toml"

    @property
    def evaluated(self) -> list[Round]:
        """Rounds with an evaluation, in order."""
        return [line for line in self.metrics if "accuracy" in line]

    @property
    def last_round(self) -> int:
        """The last round that was run; less than the recipe's rounds where the run was interrupted."""
        return self.metrics[-1]["round"]

    @property
    def classification(self) -> bool:
        """Whether classes are known; otherwise scores are plain numbers."""
        return self.summary["federation"]["class_counts"] is not None

    def clients(self, tier: str) -> int:
        """Number of clients in a tier, ``"high"`` or ``"low"``."""
        return sum(each == tier for each in self.summary["federation"]["tiers"])

    def low_turns(self) -> float:
        """How often a low-resource client took part, summed over rounds.

        Where an older summary does not say: expected, where a cohort is a sample of both tiers.
        """
        if turns := self.summary.get("turns"):
            return float(turns["low"])
        low = self.clients("low")
        share = low / max(1, len(self.summary["federation"]["tiers"]))
        weight = {"high": 0.0, "low": 1.0, "all": share}
        tiers = [weight[phase["tier"]] for phase in self.summary["phases"]]
        return math.fsum(
            (line.get("cohort") or 0) * tiers[phase]
            for line in self.metrics
            if (phase := line["phase"]) is not None and phase < len(tiers)
        )


def scalar(scores: Scores | Round, key: str) -> float | None:
    """A score by its name; None where it is undefined."""
    value = scores.get(key)
    return float(value) if isinstance(value, int | float) else None


def load_run(run_dir: str | Path) -> RunRecord:
    """Read and check a run directory.

    Args:
        run_dir: a folder with run.toml, metrics.jsonl and summary.json; the run may be interrupted.

    Raises:
        OutputError: not a run directory, a file or line that is damaged (the message names it), another format.
    """
    path = Path(run_dir)
    hint = "a run directory holds run.toml, metrics.jsonl and summary.json"
    if not path.is_dir():
        problem = "it is a file" if path.exists() else "there is no such folder"
        raise OutputError(f"{path}: not a run directory: {problem}", hint=hint, path=path)
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        if missing == ["summary.json"]:
            hint = "a run writes it when it ends or is interrupted; this one was killed, or is still running"
        raise OutputError(f"{path}: not a run directory: no {', '.join(missing)}", hint=hint, path=path)
    recipe = _text(path / "run.toml")
    try:
        tomllib.loads(recipe)
    except tomllib.TOMLDecodeError as error:
        raise OutputError(f"{path / 'run.toml'}: not TOML: {error}", path=path) from None
    return RunRecord(path, _summary(path / "summary.json"), _metrics(path / "metrics.jsonl"), recipe)


def _summary(path: Path) -> Summary:
    table = _json(_text(path), str(path))
    found = table.get("format") if isinstance(table, dict) else None
    if found != FORMAT:
        raise OutputError(
            f"{path}: expected format {FORMAT}, got {found}",
            hint="the run was written by another version of zowarmup; its `versions` say which",
            format=found,
        )
    summary = cast(Summary, _checked(table, Summary, str(path)))
    _check_clients(summary["federation"], path)
    return summary


def _check_clients(federation: Federation, path: Path) -> None:
    clients = len(federation["tiers"])
    for name, column in (("sizes", federation["sizes"]), ("class_counts", federation["class_counts"])):
        if column is not None and len(column) != clients:
            raise OutputError(f"{path}: expected {clients} clients in federation.{name}, got {len(column)}")
    if len({len(row) for row in federation["class_counts"] or []}) > 1:
        raise OutputError(f"{path}: expected federation.class_counts of one length, got several")


def _metrics(path: Path) -> list[Round]:
    lines: list[Round] = []
    for index, text in enumerate(_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{path}, line {index}"
        line = cast(Round, _checked(_json(text, where), Round, where))
        if lines and line["round"] <= lines[-1]["round"]:
            raise OutputError(f"{where}: expected a round after {lines[-1]['round']}, got {line['round']}", line=index)
        lines.append(line)
    if not lines:
        raise OutputError(f"{path}: no rounds in it", path=path)
    return lines


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)  # the standard library's, as it reads NaN
    except ValueError as error:
        raise OutputError(f"{where}: damaged: {error}", hint="each line is one JSON object, written whole") from None


def _checked(table: Any, kind: Any, where: str) -> Any:
    """``table`` itself once it fits ``kind``; keys unknown to ``kind`` are kept."""
    try:
        msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise OutputError(f"{where}: damaged: {error}", hint="the file was changed, or written in part") from None
    return table


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path}: cannot be read: {error}", path=path) from None
