"""Metrics by class, tier and client, worked out by hand."""

import math

import numpy as np
import pytest

from zowarmup.data import ClientData, Federation
from zowarmup.metrics import by_class

NOTHING = np.zeros(0, np.int64)


def federation(tiers, counts):
    counts = np.array(counts)
    starts = np.concatenate([[0], np.cumsum(counts.sum(1))])
    clients = tuple(
        ClientData(index=j, tier=tier, train=np.arange(starts[j], starts[j + 1], dtype=np.int64), validation=NOTHING)
        for j, tier in enumerate(tiers)
    )
    return Federation(clients=clients, classes=counts.shape[1], class_counts=counts)


def test_by_hand():
    """Class 2 is held by the low tier alone: the high tier's share of all samples is 10 / 40, of class 2 it is 0."""
    held = federation(["high", "low", "low"], [[8, 2, 0], [0, 5, 15], [10, 0, 0]])
    metrics = by_class(np.array([0.9, 0.5, 0.1]), held)
    own = [(8 * 0.9 + 2 * 0.5) / 10, (5 * 0.5 + 15 * 0.1) / 20, 0.9]
    assert held.low_held_classes() == (2,)
    assert metrics["class_accuracy"] == [0.9, 0.5, 0.1]
    assert metrics["worst_class_accuracy"] == 0.1
    assert metrics["low_held_accuracy"] == 0.1
    assert metrics["high_client_accuracy"] == pytest.approx(own[0])
    assert metrics["low_client_accuracy"] == pytest.approx((own[1] + own[2]) / 2)
    assert metrics["client_accuracy_p10"] == pytest.approx(np.percentile(own, 10))


def test_a_class_without_test_samples_counts_nowhere():
    metrics = by_class(np.array([0.5, math.nan]), federation(["high", "low", "low"], [[5, 5], [0, 9], [10, 0]]))
    assert metrics["class_accuracy"] == [0.5, None]
    assert metrics["worst_class_accuracy"] == 0.5
    assert metrics["high_client_accuracy"] == 0.5
    assert metrics["low_client_accuracy"] == 0.5  # of the one low client that holds a class that is tested
    assert metrics["low_held_accuracy"] is None or metrics["low_held_accuracy"] == 0.5


def test_one_tier_alone_has_no_classes_held_by_the_other():
    metrics = by_class(np.array([0.5, 0.7]), federation(["low", "low"], [[5, 5], [0, 9]]))
    assert metrics["high_client_accuracy"] is None
    assert metrics["low_held_accuracy"] is None
