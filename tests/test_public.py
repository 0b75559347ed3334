"""The public names, and that importing them costs nothing."""

import subprocess
import sys

import pytest

import zowarmup

HEAVY = ("torch", "numba", "scipy", "sklearn", "matplotlib", "pyarrow", "PIL", "datasets", "rich", "cyclopts")


def test_the_public_names_are_there():
    assert sorted(zowarmup.__all__) == sorted(zowarmup._WHERE)
    for name in zowarmup.__all__:
        assert getattr(zowarmup, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zowarmup.nothing


def loaded_after(statement):
    """Which of the heavy modules a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import zowarmup") == []


def test_a_run_on_arrays_loads_no_extra():
    run = (
        "import numpy as np, torch, zowarmup; x = np.random.rand(40, 4).astype('f4'); y = np.arange(40) % 2;"
        "zowarmup.run('digits', model=torch.nn.Linear(4, 2), data=zowarmup.from_arrays((x, y), (x, y)),"
        "overrides={'phase.0.rounds': 1, 'phase.1.rounds': 1})"
    )
    # numba imports scipy where it is installed
    assert set(loaded_after(run)) <= {"torch", "numba", "scipy"}
