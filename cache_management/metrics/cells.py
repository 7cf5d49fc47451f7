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
import fcntl
import json
import logging
import mmap
import os
import threading
import uuid
import weakref
from array import array
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from cache_management.metrics.catalogue import CATALOGUE, LAYOUT, LENGTH, places

logger = logging.getLogger("cache_management")

_HEAD_BYTES = 64
_MAGIC = b"cache-cells-1\n\0\0"
_SIZE_BYTES = _HEAD_BYTES + 8 * LENGTH
_SUFFIX = ".cells"
_ENDED = "ended.json"

Row = MutableSequence[float]


class Cells:
    """The numbers of this process.

    With a `folder` they lie in a file of their own there, made with the first number; a forked child begins a file of
    its own. Where no file can be made they are kept in memory, with a warning.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self._row: Row | None = None
        self._file: int | None = None
        if folder is not None:
            _watch_forks(self)

    @property
    def row(self) -> Row:
        """The numbers; change them under `lock`."""
        if self._row is None:
            self._row = self._mapped() if self.folder is not None else None
            if self._row is None:
                self._row = array("d", bytes(8 * LENGTH))
        return self._row

    def clear(self) -> None:
        """Set all numbers to 0."""
        row = self.row
        for place in range(LENGTH):
            row[place] = 0.0

    def begin_anew(self) -> None:
        """Leave what a parent counted to it: called in a forked child."""
        self.lock = threading.Lock()
        self.close()

    def close(self) -> None:
        """Leave the file to the readers, who fold it; what is counted later goes into another one."""
        self._row = None  # the mapping holds the file's lock as well
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()

    def _mapped(self) -> Row | None:
        """Return the numbers of a new file, None when there can be none."""
        assert self.folder is not None  # noqa: S101 - for the type checker
        path = self.folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{_SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Under the lock of the folder: a file that is not locked yet would be taken for one of the dead.
            with _locked(self.folder):
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Really there: writing to a mapped page that the disk has no room for kills the process.
                    os.posix_fallocate(file, 0, _SIZE_BYTES)
                    os.pwrite(file, _MAGIC + LAYOUT, 0)
                    mapped = mmap.mmap(file, _SIZE_BYTES)
                except BaseException:
                    os.close(file)
                    path.unlink(missing_ok=True)
                    raise
        except OSError as exc:
            logger.warning(
                "metrics of this process are not shared: %s cannot be written (%s)", self.folder, exc.strerror
            )
            return None
        self._file = file
        return cast("Row", memoryview(mapped)[_HEAD_BYTES:].cast("d"))


def read_folder(folder: Path) -> list[float]:
    """Return the sum over all processes that counted into a folder, living or not.

    Files of another version of this program are left out; those of the dead among them are removed.

    Raises:
        OSError: The folder cannot be read or written.
    """
    total = [0.0] * LENGTH
    if not folder.is_dir():
        return total
    with _locked(folder):
        ended, names = _read_ended(folder)
        gone = []
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                is_dead = _free(file)
                row = _read_row(file)
            finally:
                os.close(file)
            if is_dead:
                gone.append(path)
            if row is None or path.name in names:
                continue
            _add(ended if is_dead else total, row)
        if gone:
            _write_ended(folder, ended, [path.name for path in gone])
            for path in gone:
                path.unlink(missing_ok=True)
    _add(total, ended)
    return total


def _add(total: list[float], row: Sequence[float]) -> None:
    for place, number in enumerate(row):
        if number:
            total[place] += number


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
        found = json.loads((folder / _ENDED).read_bytes())
        numbers, names = dict(found["numbers"]), set(found["files"])
    except FileNotFoundError:
        return ended, set()
    except (ValueError, TypeError, KeyError):
        logger.warning("%s cannot be read: what ended processes counted is lost", folder / _ENDED)
        return ended, set()
    for name, place in _names().items():
        number = numbers.get(name, 0.0)
        if isinstance(number, int | float):
            ended[place] = float(number)
    return ended, names


def _write_ended(folder: Path, ended: Sequence[float], files: Sequence[str]) -> None:
    numbers = {name: ended[place] for name, place in _names().items() if ended[place]}
    temporary = folder / f".{_ENDED}.tmp"
    temporary.write_text(json.dumps({"numbers": numbers, "files": list(files)}))
    temporary.replace(folder / _ENDED)


def _names() -> dict[str, int]:
    """Return a name for every number, which stays the same when others join the catalogue."""
    return {
        "|".join((metric.name, *labels, str(offset))): place + offset
        for metric in CATALOGUE
        for labels, place in places(metric.name).items()
        for offset in range(metric.cells)
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_forking: weakref.WeakSet[Cells] | None = None


def _watch_forks(cells: Cells) -> None:
    global _forking
    if _forking is None:
        _forking = weakref.WeakSet()
        os.register_at_fork(after_in_child=_begin_all_anew)
    _forking.add(cells)


def _begin_all_anew() -> None:
    for cells in list(_forking or ()):
        with contextlib.suppress(OSError):
            cells.begin_anew()
