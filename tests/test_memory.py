"""Memory: one model however many clients, one report at a time, and a peak that is measured."""

import sys

import numpy as np
import pytest
import torch

import zowarmup
from zowarmup import recipes
from zowarmup.experiment import prepare
from zowarmup.held import peak_bytes
from zowarmup.loop import local
from zowarmup.memory import Peak


def one_round(name, clients):
    """What a round holds beside what was there before, in bytes of tensors."""
    recipe = recipes.load(name, overrides={"data.clients": clients, "data.high-resource": 1.0, "data.take": 800})
    experiment = prepare(recipe, device="cpu")
    engine, phase, state = local(experiment), experiment.phases[0], experiment.initial

    def play():
        entry, blobs = phase.close(1, engine.reports(phase, phase.plan(1, state), state), state)
        return phase.apply(entry, blobs, state)

    play()
    return peak_bytes(play, torch.device("cpu"))


@pytest.mark.parametrize("name", ["digits-fedavg", "digits-zo-scratch"])
def test_memory_does_not_grow_with_the_number_of_clients(name):
    few, many = one_round(name, 4), one_round(name, 80)
    model = 4 * 2410
    # 76 more clients: one more model among them all would show, the few bytes a client costs do not.
    assert many < few + model


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak of a process")
def test_the_peak_of_a_phase_is_its_own():
    peak = Peak(torch.device("cpu"))
    before = peak.bytes()
    block = np.ones(40_000_000)
    assert peak.bytes() >= before + block.nbytes // 2
    high = peak.bytes()
    del block
    peak.reset()
    assert peak.bytes() < high


def test_a_run_reports_its_peak():
    trained = zowarmup.run("digits", overrides={"phase.0.rounds": 1, "phase.1.rounds": 1})
    assert trained.summary["peak_memory_bytes"] >= max(p["peak_memory_bytes"] for p in trained.summary["phases"]) > 0
