"""What several workers count is one sum, whoever of them died meanwhile; and so are their vital signs."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric

from keyledger.verification.verdict import CODES
from services.verifier.handlers.counts import BUCKETS, Counts, shared_memory
from services.verifier.handlers.vitals import Vitals

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = shared_memory(3)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(autouse=True)
def no_callbacks_left() -> Iterator[None]:
    before = list(gc.callbacks)
    yield
    gc.callbacks[:] = before


def test_each_counts_in_its_own_row_and_tells_the_sum(memory: int) -> None:
    workers = [Counts.shared(memory, row) for row in range(3)]
    for times, worker in enumerate(workers, 1):
        for _ in range(times):
            worker.count("VALID", 6e-6)
        worker.count("REVOKED", 1.0)
        worker.drop(10)
    for worker in workers:
        codes = dict(worker.codes())
        assert list(codes) == list(CODES)
        assert (codes.pop("VALID"), codes.pop("REVOKED"), set(codes.values())) == (6, 3, {0})
        buckets, seconds = worker.durations()
        assert buckets == [(5e-6, 0), *((bound, 6) for bound in BUCKETS[1:]), (math.inf, 9)]
        assert seconds == pytest.approx(3.000036)
        assert worker.dropped() == 30


def test_whoever_takes_the_place_of_one_that_died_goes_on_in_its_row(memory: int) -> None:
    first, other = Counts.shared(memory, 0), Counts.shared(memory, 2)
    first.count("VALID", 0.0)
    first.drop(1)
    del first
    again = Counts.shared(memory, 0)
    again.count("VALID", 0.0)
    assert dict(other.codes())["VALID"] == 2
    assert other.dropped() == 1


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("seconds", [0.0, BUCKETS[3], BUCKETS[-1] * 2])
def test_every_code_and_every_length_has_a_place_of_its_own(code: str, seconds: float) -> None:
    counts = Counts.private()
    counts.count(code, seconds)
    assert {name: count for name, count in counts.codes() if count} == {code: 1}
    assert next(count for bound, count in counts.durations()[0] if bound >= seconds) == 1
    assert all(count == 0 for bound, count in counts.durations()[0] if bound < seconds)


def test_garbage_that_was_collected_is_counted(memory: int) -> None:
    counts, other = Counts.shared(memory, 1), Counts.shared(memory, 2)
    before = {generation: rest for generation, *rest in other.garbage()}
    made: list[object] = []
    made.append(made)
    del made
    gc.collect(1)
    after = {generation: rest for generation, *rest in other.garbage()}
    # both heard of it
    assert after[1][0] - before[1][0] == 2
    assert after[1][1] > before[1][1]
    assert list(counts.garbage()) == list(other.garbage())


def process(proc: Path, pid: int, *, cpu: int, dead: int = 0, own: int, shared: int, files: int) -> None:
    """What a process shows of itself."""
    folder = proc / str(pid)
    (folder / "task" / str(pid)).mkdir(parents=True)
    (folder / "fd").mkdir()
    for number in range(files):
        (folder / "fd" / str(number)).touch()
    fields = ["S", "1", *["0"] * 9, str(cpu), "1", str(dead), "2", *["0"] * 4, "500", "4096", "0"]
    (folder / "stat").write_text(f"{pid} (a ) name) {' '.join(fields)}\n")
    (folder / "statm").write_text(f"1 {own + shared} {shared} 0 0 0 0\n")


def values(metrics: Iterator[Metric]) -> dict[str, float]:
    return {sample.name: sample.value for metric in metrics for sample in metric.samples if not sample.labels}


def test_the_vital_signs_are_those_of_all_processes_together(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu 1 2 3\nbtime 1000\nprocesses 7\n")
    process(tmp_path, 10, cpu=100, dead=1000, own=1, shared=5, files=1)
    process(tmp_path, 11, cpu=200, own=20, shared=30, files=2)
    process(tmp_path, 12, cpu=400, own=40, shared=25, files=4)
    # the last one ended just now
    (tmp_path / "10/task/10/children").write_text("11 12 13")
    seen = values(Vitals(10, Counts.private(), tmp_path).collect())
    assert seen == {
        "process_virtual_memory_bytes": 3 * 4096,
        # what they share counts once
        "process_resident_memory_bytes": (1 + 20 + 40 + 30) * PAGE,
        "process_start_time_seconds": 1000 + 500 / TICKS,
        "process_open_fds": 7,
        "process_cpu_seconds_total": (101 + 201 + 401 + 1002) / TICKS,
    }


def test_without_a_proc_there_is_the_garbage(tmp_path: Path) -> None:
    metrics = list(Vitals(10, Counts.private(), tmp_path).collect())
    assert [metric.name for metric in metrics] == [
        "python_gc_collections",
        "python_gc_objects_collected",
        "python_gc_objects_uncollectable",
    ]
    assert all(len(metric.samples) == 3 for metric in metrics)


def test_a_live_process_shows_itself() -> None:
    seen = values(Vitals(os.getpid(), Counts.private()).collect())
    assert seen["process_cpu_seconds_total"] > 0
    assert seen["process_resident_memory_bytes"] > 1 << 20
    assert seen["process_open_fds"] > 2
