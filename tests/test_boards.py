"""A run's scalars for TensorBoard, read back with TensorBoard's own reader."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import zowarmup
from zowarmup import boards
from zowarmup.errors import DiskError, OutputError, UsageError

SHORT: dict[str, Any] = {
    "phase.0.rounds": 2,
    "phase.1.rounds": 4,
    "phase.1.schedule": "constant",
    "run.evaluate-every": 3,
}
EVALUATED = [0, 2, 3, 6]
ALWAYS = {"seconds", "uplink_bytes/high", "uplink_bytes/low", "downlink_bytes/high", "downlink_bytes/low"}

needs_tensorboard = pytest.mark.usefixtures("events")


@pytest.fixture(scope="session")
def events() -> Any:
    """TensorBoard's reader of a folder."""
    name = "tensorboard.backend.event_processing.event_accumulator"
    return pytest.importorskip(name, reason="the extra `tensorboard` is not installed")


def read(events: Any, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tags, with steps and values, as TensorBoard shows them."""
    found = events.EventAccumulator(str(folder)).Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def steps(events: Any, folder: Path) -> list[int]:
    """Steps of all records in all files, in and out of date."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    records = (record for path in sorted(folder.iterdir()) for record in RawEventFileLoader(str(path)).Load())
    return [event.step for event in map(Event.FromString, records) if event.HasField("summary")]


def stopping(round: int) -> Any:
    """A callback that is Ctrl-C after a round."""

    def stop(progress: zowarmup.Progress) -> None:
        if progress.round == round:
            raise KeyboardInterrupt

    return stop


def test_every_round_is_there_as_in_its_metrics(events, tmp_path):
    trained = zowarmup.run("digits", overrides=SHORT, callbacks=[boards.tensorboard(tmp_path / "board")])
    found = read(events, tmp_path / "board")
    for tag in ALWAYS:
        name, _, tier = tag.partition("/")
        expected = [(line["round"], line[name][tier] if tier else line[name]) for line in trained.metrics]
        assert found[tag] == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]  # single precision
    for tag in ("accuracy", "loss", "low_held_accuracy", "worst_class_accuracy", "client_accuracy_p10"):
        expected = [(line["round"], line[tag]) for line in trained.metrics if tag in line]
        assert [step for step, _ in expected] == EVALUATED
        assert found[tag] == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]
    assert [step for step, _ in found["lr"]] == [1, 2, 3, 4, 5, 6]
    assert set(found) - ALWAYS - {"lr"} <= set(boards._SCORES)


def test_validation_scores_are_there_and_undefined_ones_are_not(events, tmp_path):
    values = SHORT | {"data.validation": 0.1, "data.high-resource": 1.0}
    trained = zowarmup.run("digits", overrides=values, callbacks=[boards.tensorboard(tmp_path)])
    found = read(events, tmp_path)
    assert [step for step, _ in found["validation_accuracy"]] == EVALUATED
    assert trained.metrics[0]["low_client_accuracy"] is None
    assert "low_client_accuracy" not in found


def test_a_run_that_is_stopped_and_resumed_has_every_step_once(events, tmp_path):
    out, folder = tmp_path / "run", tmp_path / "board"
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run("digits", out=out, overrides=SHORT, callbacks=[boards.tensorboard(folder), stopping(3)])
    assert steps(events, folder) == [0, 1, 2, 3]  # with the operating system, however the run ends
    zowarmup.resume(out, callbacks=[boards.tensorboard(folder)])
    assert steps(events, folder) == [0, 1, 2, 3, 4, 5, 6]
    zowarmup.resume(out, callbacks=[boards.tensorboard(folder)])  # finished: nothing is added
    zowarmup.resume(out, rounds="+1", callbacks=[boards.tensorboard(folder)])
    assert steps(events, folder) == list(range(8))
    assert [step for step, _ in read(events, folder)["seconds"]] == list(range(8))
    assert len(list(folder.iterdir())) == 3


def test_rounds_that_are_run_again_are_shown_once(events, tmp_path):
    """Where a power cut took rounds from the ledger, and not from here."""
    folder = tmp_path / "board"
    zowarmup.run("digits", overrides=SHORT, callbacks=[boards.tensorboard(folder)])
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run("digits", out=out, overrides=SHORT, callbacks=[stopping(3)])
    zowarmup.resume(out, callbacks=[boards.tensorboard(folder)])
    assert [step for step, _ in read(events, folder)["seconds"]] == list(range(7))


def test_a_record_that_was_cut_short_does_not_hide_later_ones(events, tmp_path):
    out, folder = tmp_path / "run", tmp_path / "board"
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run("digits", out=out, overrides=SHORT, callbacks=[boards.tensorboard(folder), stopping(3)])
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    zowarmup.resume(out, callbacks=[boards.tensorboard(folder)])
    assert [step for step, _ in read(events, folder)["seconds"]] == [0, 1, 2, 4, 5, 6]


def test_force_removes_what_an_earlier_run_wrote_and_nothing_else(events, tmp_path):
    zowarmup.run("digits", overrides=SHORT | {"phase.1.rounds": 9}, callbacks=[boards.tensorboard(tmp_path)])
    (tmp_path / "notes.txt").write_text("mine")
    callback = boards.tensorboard(tmp_path, force=True)
    assert len(steps(events, tmp_path)) == 12  # until the first round
    zowarmup.run("digits", overrides=SHORT, callbacks=[callback])
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "notes.txt").unlink()
    assert steps(events, tmp_path) == list(range(7))


@needs_tensorboard
def test_nothing_is_written_before_the_first_round(tmp_path):
    callback = boards.tensorboard(tmp_path / "board")
    with pytest.raises(UsageError):
        zowarmup.run("digits", device="abacus", callbacks=[callback])
    assert list(tmp_path.iterdir()) == []


@needs_tensorboard
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="file: is a file, expected a directory"):
        boards.tensorboard(tmp_path / "file")


@needs_tensorboard
def test_a_disk_that_fills_up_fails_the_run(tmp_path, monkeypatch):
    out = tmp_path / "run"
    callback, opened = boards.tensorboard(tmp_path / "board"), Path.open

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        if "tfevents" in self.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(self, *arguments, **options)

    def fill(progress: zowarmup.Progress) -> None:
        if progress.round == 2:
            monkeypatch.setattr(Path, "open", full)

    with pytest.raises(DiskError, match=r"tfevents.*: cannot be written: No space left on device"):
        zowarmup.run("digits", out=out, overrides=SHORT, callbacks=[fill, callback])
    summary = zowarmup.load(out).summary
    assert (summary["status"], summary["rounds"]) == ("failed", 2)


def test_the_library_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError) as caught:
        boards.tensorboard(tmp_path / "board")
    assert str(caught.value) == (
        "writing for TensorBoard needs `tensorboard`, which is not installed\nhint: pip install 'zowarmup[tensorboard]'"
    )


# On the command line

ARGUMENTS = [argument for name, value in SHORT.items() for argument in ("--set", f"{name}={value}")]
RUN = ["run", "digits", *ARGUMENTS, "--quiet", "--tensorboard", "board"]


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty current folder: exit code and stderr."""
    from zowarmup.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        return code, capsys.readouterr().err

    return call


def test_run_and_resume_write_for_tensorboard(events, cli, tmp_path):
    assert cli(*RUN, "--out", "a") == (0, "")
    assert cli("resume", "a", "--rounds", "+2", "--quiet", "--tensorboard", "board") == (0, "")
    assert steps(events, tmp_path / "board") == list(range(9))


def test_a_new_run_wants_a_folder_without_scalars(events, cli, tmp_path):
    cli(*RUN, "--out", "a")
    hint = "hint: choose another folder, or --force to replace them\n"
    assert cli(*RUN, "--out", "b") == (2, f"zowarmup: board: has the scalars of an earlier run\n{hint}")
    assert not (tmp_path / "b").exists()
    assert cli(*RUN, "--out", "b", "--force") == (0, "")
    assert steps(events, tmp_path / "board") == list(range(7))


@needs_tensorboard
def test_another_programs_scalars_are_left_alone(cli, tmp_path):
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "events.out.tfevents.1.host").write_bytes(b"theirs")
    message = "zowarmup: board: another program writes scalars there: events.out.tfevents.1.host\n"
    assert cli(*RUN, "--out", "b", "--force") == (2, f"{message}hint: choose another folder\n")
    assert (tmp_path / "board" / "events.out.tfevents.1.host").read_bytes() == b"theirs"


def test_a_missing_library_stops_before_anything_is_written(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code, err = cli(*RUN, "--out", "a")
    assert (code, err.splitlines()[1]) == (2, "hint: pip install 'zowarmup[tensorboard]'")
    assert list(tmp_path.iterdir()) == []
