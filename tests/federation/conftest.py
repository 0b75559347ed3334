"""Federations of real processes; their logs' ends are shown where a test fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs flwr: pip install 'zowarmup[flower]'")
collect_ignore = ["odd_node.py", "processes.py", "proxy.py", "reaper.py"]
sys.path.insert(0, str(Path(__file__).parent))

from processes import Federation, Overrides  # noqa: E402

import zowarmup  # noqa: E402
from zowarmup.trained import Trained  # noqa: E402

Local = Callable[[Overrides], Trained]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    federation = getattr(item, "funcargs", {}).get("federation")
    if report.failed and isinstance(federation, Federation):
        report.sections += [(f"end of {name}", text) for name, text in federation.tails()]
    return report


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """Nothing is started yet; everything is ended behind the test."""
    with Federation(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """What the engine in one process makes of the same recipe; once for each."""
    made: dict[str, Trained] = {}

    def run(overrides: Overrides) -> Trained:
        key = repr(sorted(overrides.items()))
        if key not in made:
            out = tmp_path_factory.mktemp("local") / "run"
            made[key] = zowarmup.run("digits", overrides=overrides, out=out, device="cpu")
        return made[key]

    return run


Same = Callable[[Federation], None]


@pytest.fixture
def same_as_local(local: Local) -> Same:
    """Checks that a run has the chain of one in a single process, and that everything in its directory holds."""

    def check(federation: Federation) -> None:
        found, expected = zowarmup.load(federation.out).summary, local(federation.overrides).summary
        for key in ("status", "rounds", "chain", "state_digest"):
            assert found[key] == expected[key], key
        proof = zowarmup.verify(federation.out)
        assert proof.holds, proof

    return check
