"""Progress on stderr: a live display on a terminal, plain lines elsewhere, nothing where quiet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from zowarmup.cli import consoles
from zowarmup.recipe import Recipe
from zowarmup.report import words

if TYPE_CHECKING:
    from zowarmup import recorder
    from zowarmup.jobs import Job
    from zowarmup.workers import Step

_NARROW = 94  # columns below which a long run shows less
_MANY = 24  # runs above which a terminal tells of the failed ones alone

RunView = Callable[["recorder.Progress"], None]
CompareView = Callable[["Step"], None]


@contextlib.contextmanager
def run_view(recipe: Recipe, *, quiet: bool, done: int = 0, console: Console | None = None) -> Iterator[RunView]:
    """A callback of a run that shows where it is.

    Args:
        recipe: what is run.
        quiet: show nothing.
        done: rounds of earlier sessions.
        console: where to; stderr where None.
    """
    console = console or consoles.err()
    if quiet:
        yield lambda progress: None
    elif not console.is_terminal:
        yield _PlainRun(console, done)
    else:
        with _bars(console) as bars:
            task = bars.add_task("preparing", total=recipe.rounds, completed=done, news="", left="")
            yield _LiveRun(bars, task)


@contextlib.contextmanager
def compare_view(
    runs: int, finished: int = 0, *, quiet: bool, debug: bool = False, console: Console | None = None
) -> Iterator[CompareView]:
    """A callback of a comparison that shows which runs go on, and says a line as each ends.

    Args:
        runs: how many there are.
        finished: how many of them were finished before.
        quiet: show nothing.
        debug: show the traceback of a failure that was not foreseen.
        console: where to; stderr where None.
    """
    console = console or consoles.err()
    if quiet:
        yield lambda step: None
    elif not console.is_terminal:
        yield _CompareLines(console, runs, finished, debug)
    else:
        with _bars(console) as bars:
            yield _LiveCompare(bars, runs, finished, debug)


@contextlib.contextmanager
def verify_view(console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """A callback that shows which round of how many was looked at; nothing where there is no terminal."""
    console = console or consoles.err()
    if not console.is_terminal:
        yield lambda round, last: None
        return
    with _bars(console) as bars:
        task = bars.add_task("chain and snapshots", total=None, news="", left="")

        def view(round: int, last: int) -> None:
            bars.update(task, description="replaying", completed=round, total=last)

        yield view


class _PlainRun:
    """A line where it goes on from, and a line for each evaluation."""

    def __init__(self, console: Console, done: int) -> None:
        self._console, self._done = console, done

    def __call__(self, progress: recorder.Progress) -> None:
        line = progress.metrics
        if 0 < self._done == progress.round - 1:
            self._console.print(Text(f"goes on after round {self._done}/{progress.rounds}"), soft_wrap=True)
        if "accuracy" not in line:
            return
        place = f"round {progress.round}/{progress.rounds}"
        text = (
            f"{place}  {line['kind'] or 'initial weights'}  accuracy {_scores(line)}  {words.duration(line['seconds'])}"
        )
        self._console.print(Text(consoles.plain(text)), soft_wrap=True)


class _LiveRun:
    """One bar: phase, round, scores, bytes, time left."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task, self._news = bars, task, ""

    def __call__(self, progress: recorder.Progress) -> None:
        line = progress.metrics
        if "accuracy" in line:
            # the figures of a long run leave less room for others
            self._news = _scores(line, brief=self._bars.console.width < _NARROW and progress.rounds >= 1000)
        self._bars.update(
            self._task,
            description=line["kind"] or "ready",
            completed=progress.round,
            total=progress.rounds,
            news=self._news,
            left=_left(progress.round, progress.rounds, line["seconds"]),
        )


class _CompareLines:
    """A line for each run that ends, or for each that fails; before them, how many need not be run."""

    def __init__(self, console: Console, runs: int, finished: int, debug: bool, *, brief: bool = False) -> None:
        self._console, self._runs, self._debug, self._brief = console, runs, debug, brief
        self.ended, self.failed = finished, 0
        if finished:
            text = consoles.plain(f"{finished} of {words.plural(runs, 'run')} finished before")
            console.print(Text(text), soft_wrap=True)

    def __call__(self, step: Step) -> None:
        if step.state == "running":
            return
        self.ended += 1
        self.failed += step.state == "failed"
        if self._brief and step.state != "failed":
            return
        place = f"{self.ended:>{len(str(self._runs))}}/{self._runs}"
        if step.state == "failed":
            text = Text.assemble(f"{place}  {step.job.name}  ", ("failed", "bold red"))
        else:
            line = step.metrics or {}
            scores = f"accuracy {words.percent(line['accuracy'])}  {words.duration(line['seconds'])}"
            text = Text(consoles.plain(f"{place}  {step.job.name}  {scores}"))
        self._console.print(text, soft_wrap=True)
        if self._debug and step.traceback:
            self._console.print(Text(step.traceback), soft_wrap=True)


class _LiveCompare:
    """A bar for each run that goes on, and one for all of them with how many wait and have failed."""

    def __init__(self, bars: Progress, runs: int, finished: int, debug: bool) -> None:
        self._bars, self._runs = bars, runs
        self._lines = _CompareLines(bars.console, runs, finished, debug, brief=runs > _MANY)
        self._all = bars.add_task("all runs", total=runs, completed=finished, news="", left="")
        self._tasks: dict[Job, TaskID] = {}

    def __call__(self, step: Step) -> None:
        if step.state == "running":
            self._show(step)
        else:
            self._lines(step)
            if step.job in self._tasks:
                self._bars.remove_task(self._tasks.pop(step.job))
        ended, failed = self._lines.ended, self._lines.failed
        counts = {"waiting": self._runs - ended - len(self._tasks), "failed": failed}
        news = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        self._bars.update(self._all, completed=ended, news=news)

    def _show(self, step: Step) -> None:
        line, rounds = step.metrics or {}, step.job.recipe.rounds
        if step.job not in self._tasks:
            self._tasks[step.job] = self._bars.add_task(step.job.name, total=rounds, news="", left="")
        task, left = self._tasks[step.job], _left(step.round, rounds, line.get("seconds"))
        self._bars.update(task, completed=step.round, left=left)
        if "accuracy" in line:
            self._bars.update(task, news=words.percent(line["accuracy"]))


class _Count(ProgressColumn):
    """How many of how many, once that is known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=max(6, min(40, console.width - 74))),
        _Count(),
        TextColumn("{task.fields[news]}", markup=False, style="cyan"),
        TextColumn("{task.fields[left]}", style="dim"),
        console=console,
        transient=True,
    )


def _scores(line: Any, *, brief: bool = False) -> str:
    """Accuracy, loss (where not brief) and what low-resource clients have sent."""
    sent = words.size(line["uplink_bytes"]["low"])
    loss = "" if brief else f"  loss {words.number(line['loss'])}"
    return f"{words.percent(line['accuracy'])}{loss}  low tier sent {sent}"


def _left(done: int, total: int, seconds: float | None) -> str:
    """Time left, if rounds go on taking as long as they have."""
    if not done or seconds is None:
        return ""
    return f"{words.duration(seconds / done * (total - done))} left"
