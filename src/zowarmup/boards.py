"""A run's scalars for TensorBoard; needs the extra ``tensorboard``."""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zowarmup import rundir
from zowarmup.disk import Disk, writing
from zowarmup.errors import OutputError, UsageError

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

    from zowarmup.recorder import Callback, Progress

_FILES, _OURS = "events.out.tfevents.*", ".zowarmup"
_VERSION = "brain.Event:2"  # what readers go by to know that a session may put earlier ones out of date
_SCORES = (
    "accuracy",
    "loss",
    "low_held_accuracy",
    "worst_class_accuracy",
    "low_client_accuracy",
    "high_client_accuracy",
    "client_accuracy_p10",
    "validation_accuracy",
    "validation_loss",
)
_BYTES = ("uplink_bytes", "downlink_bytes")


def tensorboard(folder: str | Path, *, force: bool = False) -> Callback:
    """A callback of :func:`zowarmup.run` and :func:`zowarmup.resume` that writes every round's scalars for TensorBoard.

    Tags are called as in metrics.jsonl, ``accuracy`` or ``uplink_bytes/low``; the step is the round. A round is with
    the operating system when the callback returns, and no file stays open: the run may end in any way. A run that is
    resumed goes on in a file of its own, which puts out of date what the folder has of its first round and later ones.

    Args:
        folder: of this run alone; made with the first round.
        force: remove what an earlier run wrote there, with the first round.

    Returns:
        The callback; it raises a DiskError where it cannot write.

    Raises:
        UsageError: ``tensorboard`` is not installed.
        OutputError: the folder is a file, or cannot be written to.
    """
    if importlib.util.find_spec("tensorboard") is None:
        message = "writing for TensorBoard needs `tensorboard`, which is not installed"
        raise UsageError(message, hint="pip install 'zowarmup[tensorboard]'")
    folder = Path(folder)
    rundir.check(folder, force=True)  # other files may be in it
    return _Board(folder, force=force)


def check(folder: Path, *, force: bool) -> None:
    """Refuse a folder that has scalars: a folder is one run to TensorBoard.

    Args:
        folder: where a new run's scalars shall go.
        force: an earlier run's may be there, since they will be removed; another program's may not.

    Raises:
        OutputError: there are some.
    """
    for path in sorted(folder.glob(_FILES)):
        if not path.name.endswith(_OURS):
            message = f"{folder}: another program writes scalars there: {path.name}"
            raise OutputError(message, hint="choose another folder", path=folder)
        if not force:
            hint = "choose another folder, or --force to replace them"
            raise OutputError(f"{folder}: has the scalars of an earlier run", hint=hint, path=folder)


class _Board:
    """Adds a record a round to the file of this session, which the first round begins.

    Args:
        folder: where the file is made.
        force: remove the files of earlier sessions before.
    """

    def __init__(self, folder: Path, *, force: bool) -> None:
        self._folder, self._force = folder, force
        self._path: Path | None = None

    def __call__(self, progress: Progress) -> None:
        if self._path is None:
            self._path = self._begin(progress.round)
        _append(self._path, _event(progress.round, progress.metrics))

    def _begin(self, round: int) -> Path:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        disk = Disk(sync=False)
        disk.mkdir(self._folder)
        if self._force:
            for earlier in self._folder.glob(_FILES + _OURS):
                disk.unlink(earlier)
        # readers take files in the order of their names
        name = _FILES.replace("*", f"{time.time_ns()}.{socket.gethostname()}.{os.getpid()}{_OURS}")
        path = self._folder / name
        now = time.time()
        _append(path, Event(wall_time=now, file_version=_VERSION))
        _append(path, Event(wall_time=now, step=round, session_log=SessionLog(status=SessionLog.START)))
        return path


def _event(round: int, line: Mapping[str, Any]) -> Event:
    """A round's scalars."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(line)]
    return Event(wall_time=time.time(), step=round, summary=Summary(value=values))


def _scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tags and values of a round's line in metrics.jsonl; none for what is undefined."""
    for name in (*_SCORES, "lr", "seconds"):
        if line.get(name) is not None:
            yield name, line[name]
    for name in _BYTES:
        for tier, count in line[name].items():
            yield f"{name}/{tier}", count


def _append(path: Path, event: Event) -> None:
    """Add an event to a file.

    Raises:
        DiskError: it cannot be written.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    with writing(path), path.open("ab") as file:
        RecordWriter(file).write(event.SerializeToString())
