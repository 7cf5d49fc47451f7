"""The row of numbers of one process, in its memory or in a file that others read; and the sum of many such files.

    process  -> its own file in a folder, mapped into memory: counting is an addition in memory, nothing is flushed,
                and what was counted is there when the process is killed
    reader   -> under the folder's lock: adds up the files of the living, folds those of the dead into `ended.json`

Who lives is told by a lock that the kernel frees with the process, not by pids, which come again, and which containers
that share a folder do not share. `ended.json` names the files that it holds: a reader that is killed between writing it
and removing them counts none twice.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import logging
import math
import mmap
import os
import stat
import threading
import time
import uuid
from array import array
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from cache_management.metrics.catalogue import CATALOGUE, LAYOUT, LENGTH, places
from cache_management.metrics.forks import in_child, unforked
from cache_management.metrics.latencies import BOUNDS

logger = logging.getLogger("cache_management")

_HEAD_BYTES = 64
_MAGIC = b"cache-cells-1\n\0\0"
_SIZE_BYTES = _HEAD_BYTES + 8 * LENGTH
_SUFFIX = ".cells"
_ENDED = "ended.json"
_BUCKETS_ARE = hashlib.sha256(repr(BOUNDS).encode()).hexdigest()[:16]
"""Names the buckets of histograms in `ended.json`: sums over other buckets mean something else."""

_LOCK_SECONDS = 0.05
"""For how long a first count may wait for the folder: an event loop stands still meanwhile."""
_AGAIN_SECONDS = 0.1, 60.0
"""After how long a process tries again to share its numbers: at first, and at most."""
_BUSY_SECONDS = 5.0
"""From which such time on a folder that somebody else holds is worth a warning."""
_FOLDED_BY_WRITERS = 20
"""How many files of the dead a process folds when it begins its own, so that they do not grow without a reader."""
_WARNED = 1_000

Row = MutableSequence[float]


class Cells:
    """The numbers of this process.

    With a `folder` they lie in a file of their own there, made with the first number. Where no file can be made, or
    not at once, they are kept in memory, and copied into one later. A forked child begins at zero.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self._row: Row | None = None
        self._file: int | None = None
        self._mapping: mmap.mmap | None = None
        self._unshared: Row | None = None
        self._try_at, self._again_seconds = 0.0, _AGAIN_SECONDS[0]
        in_child(self, Cells.begin_anew)

    @property
    def row(self) -> Row:
        """The numbers; change them under `lock`."""
        return self._begun() if self._row is None else self._row

    def clear(self) -> None:
        """Set all numbers of this process to 0; what was told to others stays in their sum."""
        self.close()

    def begin_anew(self) -> None:
        """Leave what a parent counted to it: called in a forked child."""
        self.lock = threading.Lock()
        self.close()
        self._try_at, self._again_seconds = 0.0, _AGAIN_SECONDS[0]

    def close(self) -> None:
        """Leave the file to the readers, who fold it; what is counted later goes into another one."""
        row: object = self._row
        mapping, file = self._mapping, self._file
        self._row = self._unshared = self._mapping = self._file = None
        if isinstance(row, memoryview):
            row.release()  # by hand: in a child the frame of another thread may hold it for ever
        if mapping is not None:
            with contextlib.suppress(BufferError):
                mapping.close()  # it holds the file's lock as well
        if file is not None:
            os.close(file)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()

    def _begun(self) -> Row:
        """Return where to count while there is no row yet, which is one in memory while none can be shared."""
        if self.folder is None:
            self._row = _zeros()
            return self._row
        now = time.monotonic()
        if now >= self._try_at:
            mapped = self._mapped(self.folder)
            if mapped is not None:
                if self._unshared is not None:
                    mapped[:] = self._unshared
                self._row, self._unshared = mapped, None
                return mapped
            self._try_at = now + self._again_seconds
            self._again_seconds = min(2 * self._again_seconds, _AGAIN_SECONDS[1])
        if self._unshared is None:
            self._unshared = _zeros()
        return self._unshared

    def _mapped(self, folder: Path) -> Row | None:
        """Return the numbers of a new file, None when there can be none."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Under the lock of the folder: a file that is not locked yet would be taken for one of the dead.
            with _locked(folder, wait_seconds=_LOCK_SECONDS):
                row = self._made(folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{_SUFFIX}")
                with contextlib.suppress(OSError):
                    _sum_up(folder, most=_FOLDED_BY_WRITERS)
        except BlockingIOError:
            if self._again_seconds > _BUSY_SECONDS:
                _warn_once(folder, "metrics of this process are not shared yet: somebody holds %s")
            return None
        except OSError as exc:
            _warn_once(folder, "metrics of this process are not shared: %s cannot be written (%s)", exc.strerror)
            return None
        return row

    def _made(self, path: Path) -> Row:
        with unforked():
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Really there: writing to a mapped page that the disk has no room for kills the process.
                os.posix_fallocate(file, 0, _SIZE_BYTES)
                os.pwrite(file, _MAGIC + LAYOUT, 0)
                mapping = mmap.mmap(file, _SIZE_BYTES)
            except BaseException:
                os.close(file)
                path.unlink(missing_ok=True)
                raise
            self._file, self._mapping = file, mapping
            return cast("Row", memoryview(mapping)[_HEAD_BYTES:].cast("d"))


def read_folder(folder: Path) -> list[float]:
    """Return the sum over all processes that counted into a folder, living or not.

    Files of another version of this program are left out; those of the dead among them are removed. What cannot be
    read is left out with a warning.

    Raises:
        OSError: The folder itself cannot be read or locked.
    """
    total = [0.0] * LENGTH
    if not folder.is_dir():
        return total
    with _locked(folder):
        _add(total, _sum_up(folder, total))
    return total


def _sum_up(folder: Path, living: list[float] | None = None, *, most: float = math.inf) -> list[float]:
    """Fold the files of the dead; return what they counted, and add to `living` what the living did.

    Call it under the folder's lock.
    """
    can_fold = True
    try:
        ended, names = _read_ended(folder)
    except OSError as exc:
        _warn_once(folder / _ENDED, "what ended processes counted is left out: %s cannot be read (%s)", exc.strerror)
        ended, names, can_fold = [0.0] * LENGTH, set[str](), False
    paths = sorted(folder.glob(f"*{_SUFFIX}"))
    gone: list[Path] = []
    for path in paths:
        if len(gone) >= most:
            break
        try:
            with _opened(path) as file:
                is_dead = _free(file)
                row = _read_row(file) if is_dead or living is not None else None
        except FileNotFoundError:
            continue
        except OSError as exc:
            _warn_once(path, "what was counted in %s is left out: %s", exc.strerror)
            continue
        if is_dead:
            gone.append(path)
        if row is not None and path.name not in names:
            if is_dead:
                _add(ended, row)
            elif living is not None:
                _add(living, row)
    if gone and can_fold:
        # With those that were named before and still lie there, which are not to be counted again.
        named = names.intersection(path.name for path in paths).union(path.name for path in gone)
        try:
            _write_ended(folder, ended, sorted(named))
            for path in gone:
                path.unlink(missing_ok=True)
        except OSError as exc:
            # They stay where they are, and are added up again next time.
            _warn_once(folder, "files of ended processes stay in %s: %s", exc.strerror)
    return ended


def _zeros() -> Row:
    return array("d", bytes(8 * LENGTH))


def _add(total: list[float], row: Sequence[float]) -> None:
    for place, number in enumerate(row):
        if number:
            total[place] += number


_warned: set[tuple[Path, str]] = set()


def _warn_once(path: Path, text: str, *args: object) -> None:
    """Warn of a path once for each process: it may come again with every scrape."""
    if (path, text) in _warned or len(_warned) >= _WARNED:
        return
    _warned.add((path, text))
    logger.warning(text, path, *args)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a regular file for reading; nothing else, which might hang."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield file
    finally:
        os.close(file)


def _free(file: int) -> bool:
    """Tell whether nobody holds a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read_row(file: int) -> array[float] | None:
    """Return the numbers of a file, None when they are not ours to understand."""
    found = os.pread(file, _SIZE_BYTES + 1, 0)
    if len(found) != _SIZE_BYTES or not found.startswith(_MAGIC + LAYOUT):
        return None
    row = array("d")
    row.frombytes(found[_HEAD_BYTES:])
    return row


def _read_ended(folder: Path) -> tuple[list[float], set[str]]:
    """Return what the dead counted, and the names of their files that may still lie there."""
    ended = [0.0] * LENGTH
    try:
        with _opened(folder / _ENDED) as file, open(file, "rb", closefd=False) as text:
            found = json.load(text)
        numbers, names, buckets = dict(found["numbers"]), set(found["files"]), found.get("buckets")
    except FileNotFoundError:
        return ended, set()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _warn_once(folder / _ENDED, "%s cannot be read: what ended processes counted is lost")
        return ended, set()
    for name, (place, is_histogram) in _names().items():
        if is_histogram and buckets != _BUCKETS_ARE:
            continue
        ended[place] = _number(numbers.get(name, 0.0))
    return ended, names


def _number(found: object) -> float:
    """Return a number that was read; 0.0 for one that cannot have been counted."""
    try:
        number = float(found) if isinstance(found, int | float) else 0.0
    except OverflowError:
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0


def _write_ended(folder: Path, ended: Sequence[float], files: Sequence[str]) -> None:
    numbers = {name: ended[place] for name, (place, _) in _names().items() if ended[place]}
    temporary = folder / f".{_ENDED}.tmp"
    temporary.write_text(json.dumps({"numbers": numbers, "buckets": _BUCKETS_ARE, "files": list(files)}))
    temporary.replace(folder / _ENDED)


@functools.cache
def _names() -> dict[str, tuple[int, bool]]:
    """Return a name for every number, which stays the same when others join the catalogue.

    With its place, and whether it belongs to a histogram.
    """
    return {
        "|".join((metric.name, *labels, str(offset))): (place + offset, metric.type == "histogram")
        for metric in CATALOGUE
        for labels, place in places(metric.name).items()
        for offset in range(metric.cells)
    }


class _Lock:
    """A lock on a folder that a forked child closes: else the child would hold it as long as it lives."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        with unforked():
            self.file = os.open(folder / "lock", flags, 0o600)
            in_child(self, _Lock.close)

    def close(self) -> None:
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)


@contextmanager
def _locked(folder: Path, *, wait_seconds: float = math.inf) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        BlockingIOError: Somebody else holds it for longer than is waited.
    """
    lock = _Lock(folder)
    try:
        _take(lock.file, wait_seconds)
        try:
            yield
        finally:
            if lock.file >= 0:
                fcntl.flock(lock.file, fcntl.LOCK_UN)  # not by closing: a process forked meanwhile has it open, too
    finally:
        lock.close()


def _take(file: int, wait_seconds: float) -> None:
    if wait_seconds == math.inf:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    until = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.002)
        else:
            return
