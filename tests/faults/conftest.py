"""What every fault test shares: a seed that repeats its run, and figures that are shown when all is over."""

from __future__ import annotations

import os
import random
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SEED = "KEYLEDGER_FAULT_SEED"
_SHOWN = "figures"


class Figures:
    """What one test measured; `seed` is what its dice began with."""

    def __init__(self, test: str, seed: int) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self._test = test
        self._shown: list[str] = []

    def __call__(self, **figures: object) -> None:
        """Show these, in this order."""
        for name, value in figures.items():
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            self._shown.append(f"{name.replace('_', ' ')} {text}")

    @property
    def line(self) -> str:
        return f"{self._test}, seed {self.seed}: {', '.join(self._shown) or 'nothing measured'}"


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """The test's dice and figures. KEYLEDGER_FAULT_SEED repeats an earlier run's dice."""
    found = Figures(request.node.name, int(os.environ.get(SEED) or secrets.randbits(32)))
    yield found
    # with the report, since the process that shows it may be another
    request.node.user_properties.append((_SHOWN, found.line))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is removed afterwards; its path is short, and others may pass through it."""
    with tempfile.TemporaryDirectory(prefix="keyledger-faults-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show every test's seed and figures, passed or not."""
    lines = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, text in report.user_properties
        if name == _SHOWN
    ]
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.line(line)
