"""Processes that count into one folder: forked, killed, recycled, and readers that are killed."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache_management.metrics import cells as module
from cache_management.metrics import forks
from cache_management.metrics.catalogue import LENGTH, places
from cache_management.metrics.cells import Cells, read_folder
from cache_management.metrics.collector import MetricsCollector

HITS = places("cache_hits_total")[("exact",)]

# A server that forks: each child serves so many requests, then another takes its place; some are killed.
PREFORK = """
import os, signal, sys
from cache_management import MetricsCollector

metrics = MetricsCollector(sys.argv[1])
metrics.record_cache_hit("counted by the parent, before it forks")
for number in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        for _ in range(100):
            metrics.record_cache_hit("k")
            metrics.record_get_latency(1.0)
        if number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    os.waitpid(child, 0)
    if number == 5:
        print(metrics.export_prometheus(), flush=True)
print(metrics.get_cache_metrics().hits, flush=True)
"""


def count(cells: Cells, number: float = 1.0) -> None:
    with cells.lock:
        cells.row[HITS] += number


def in_child(work: Callable[[], bool]) -> bool:
    """Tell what `work` returns in a forked child."""
    child = os.fork()
    if child == 0:
        os._exit(0 if work() else 1)
    return os.waitpid(child, 0)[1] == 0


def leave_dead(folder: Path, count_of: int = 1) -> None:
    """Leave so many files of the dead, with 1 in each."""
    every = [Cells(folder) for _ in range(count_of)]
    for cells in every:
        count(cells)
    for cells in every:
        cells.close()


def test_children_that_are_recycled_and_killed_leave_what_they_counted(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", PREFORK, str(tmp_path), "20"], capture_output=True, text=True, check=True
    )

    row = read_folder(tmp_path)
    *text, own = found.stdout.splitlines()
    assert row[HITS] == 1 + 20 * 100
    assert 'cache_hits_total{kind="exact"} 601.0' in text  # in the middle, asked by the parent
    assert 'cache_get_seconds_count{result="unknown"} 600.0' in text
    assert own == "1"
    assert [path.name for path in tmp_path.glob("*.cells")] == []  # nothing is left of the dead but their sum
    assert read_folder(tmp_path) == row


def test_the_living_are_added_to_the_dead(tmp_path: Path) -> None:
    one, other = Cells(tmp_path), Cells(tmp_path)
    count(one)
    count(other, 2)

    one.close()
    first = read_folder(tmp_path)[HITS]
    count(other, 4)

    assert (first, read_folder(tmp_path)[HITS]) == (3, 7)
    assert len(list(tmp_path.glob("*.cells"))) == 1


def test_a_process_that_counted_nothing_leaves_no_file(tmp_path: Path) -> None:
    Cells(tmp_path / "folder")

    assert read_folder(tmp_path / "folder") == [0.0] * LENGTH
    assert not (tmp_path / "folder").exists()


def test_a_reader_that_is_killed_before_it_removed_a_file_counts_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = Cells(tmp_path)
    count(dead, 5)
    dead.close()
    (left,) = [(path, path.read_bytes()) for path in tmp_path.glob("*.cells")]

    assert read_folder(tmp_path)[HITS] == 5
    left[0].write_bytes(left[1])  # as if it had been killed in between

    assert read_folder(tmp_path)[HITS] == 5
    assert not left[0].exists()


def test_what_is_damaged_or_of_another_version_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1-other.cells").write_bytes(b"of another version")
    (tmp_path / "ended.json").write_text("{")
    cells = Cells(tmp_path)
    count(cells)

    with caplog.at_level(logging.WARNING):
        assert read_folder(tmp_path)[HITS] == 1

    assert "ended.json cannot be read" in caplog.text
    assert not (tmp_path / "1-other.cells").exists()


def test_sums_of_the_dead_outlive_a_larger_catalogue(tmp_path: Path) -> None:
    numbers = {"cache_hits_total|exact|0": 7, "cache_of_a_later_version_total|0": 1, "cache_misses_total|other|0": "x"}
    (tmp_path / "ended.json").write_text(json.dumps({"numbers": numbers, "files": []}))

    assert read_folder(tmp_path)[HITS] == 7


def test_where_nothing_can_be_written_a_process_counts_for_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cells = Cells(tmp_path / "file" / "folder")

    with caplog.at_level(logging.WARNING):
        count(cells)

    assert cells.row[HITS] == 1
    assert "metrics of this process are not shared" in caplog.text


def test_a_full_disk_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    cells = Cells(tmp_path)

    count(cells)

    assert cells.row[HITS] == 1
    assert list(tmp_path.glob("*.cells")) == []


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        metrics = MetricsCollector(tmp_path)
        metrics.record_cache_hit("k")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    assert read_folder(tmp_path)[HITS] == 1


def test_a_child_that_is_forked_under_the_lock_of_the_folder_does_not_keep_it(tmp_path: Path) -> None:
    stay, leave = os.pipe()
    with module._locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(leave)
            os.read(stay, 1)
            os._exit(0)

    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    os.close(leave)
    os.close(stay)
    os.waitpid(child, 0)


def test_a_parent_that_is_killed_leaves_no_lock_with_its_child(tmp_path: Path) -> None:
    with module._locked(tmp_path):
        (lock,) = [each for each in forks._watched if isinstance(each, module._Lock)]
        assert in_child(lambda: lock.file < 0)
        assert lock.file >= 0


def test_a_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    cells, metrics = Cells(), MetricsCollector()
    metrics.record_cache_set("k", size=5)

    with cells.lock, metrics._cells.lock:
        assert in_child(lambda: cells.lock.acquire(timeout=1) and metrics._cells.lock.acquire(timeout=1))
    assert in_child(lambda: metrics.get_cache_metrics() == MetricsCollector().get_cache_metrics())
    assert metrics.get_cache_metrics().size_bytes == 5


def test_a_folder_that_somebody_holds_keeps_nobody_waiting_and_loses_no_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells = Cells(tmp_path)

    with module._locked(tmp_path):
        began = time.monotonic()
        count(cells)
        count(cells)
        took = time.monotonic() - began
    cells._try_at = 0.0
    count(cells)

    assert took < 1
    assert (cells.row[HITS], read_folder(tmp_path)[HITS]) == (3, 3)
    assert caplog.text == ""


def test_what_is_no_file_of_ours_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count(Cells(tmp_path))
    os.mkfifo(tmp_path / "fifo.cells")
    (tmp_path / "folder.cells").mkdir()
    (tmp_path / "link.cells").symlink_to(tmp_path / "lock")

    for _ in range(2):
        assert read_folder(tmp_path)[HITS] == 1

    assert caplog.text.count("is left out") == 3


def test_a_full_disk_hides_no_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    leave_dead(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        assert read_folder(tmp_path)[HITS] == 1

    assert read_folder(tmp_path)[HITS] == 1


def test_files_do_not_grow_without_a_reader(tmp_path: Path) -> None:
    leave_dead(tmp_path, 25)

    for _ in range(3):
        leave_dead(tmp_path)

    assert len(list(tmp_path.glob("*.cells"))) <= 2
    assert read_folder(tmp_path)[HITS] == 28


def test_a_file_that_could_not_be_removed_is_not_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_dead(tmp_path, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        assert read_folder(tmp_path)[HITS] == 3
        for _ in range(2):
            module._sum_up(tmp_path, most=1)  # a part of them, as a writer does

    assert read_folder(tmp_path)[HITS] == 3


def test_sums_of_other_buckets_and_numbers_that_are_none_are_dropped(tmp_path: Path) -> None:
    latency = "cache_set_seconds|5"
    for buckets, expected in ((module._BUCKETS_ARE, 3.0), ("others", 0.0), (None, 0.0)):
        text = f'{{"numbers": {{"cache_hits_total|exact|0": 1e999, "{latency}": 3}}, "files": [], "buckets": '
        (tmp_path / "ended.json").write_text(f"{text}{json.dumps(buckets)}}}")
        row = read_folder(tmp_path)
        assert (row[HITS], row[places("cache_set_seconds")[()] + 5]) == (0.0, expected)


def test_reset_leaves_the_totals_of_all_as_they_are(tmp_path: Path) -> None:
    metrics = MetricsCollector(tmp_path)
    metrics.record_cache_hit("k")

    metrics.reset()

    assert metrics.get_cache_metrics().hits == 0
    assert read_folder(tmp_path)[HITS] == 1
