"""Pages that a command writes to files: checked before the work begins, and whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from cache_management.cache.errors import CacheError, InvalidInput


def check_pages(pages: dict[str, Path | None], *, reads: Iterable[Path]) -> None:
    """Refuse pages, by option, that would overwrite what is read or one another, or have no folder.

    Raises:
        InvalidInput: Names the option and what is wrong with it.
    """
    taken = [("the file that is read", each) for each in reads]
    for option, page in pages.items():
        if page is None:
            continue
        for name, other in taken:
            if _is_same(page, other):
                raise InvalidInput(f"{option} {page} is {name} too; name another file")
        folder = page.resolve().parent
        if not folder.is_dir():
            raise InvalidInput(f"{option} {page}: there is no folder {folder}; make it first")
        if page.is_dir():
            raise InvalidInput(f"{option} {page} is a folder; name a file")
        if _is_replaced(page) and not os.access(folder, os.W_OK):
            raise InvalidInput(f"{option} {page}: nothing can be written to the folder {folder}")
        taken.append((option, page))


def write_page(page: Path, text: str, *, private: bool = False) -> None:
    """Write a page beside its place and move it there: what stood there stays until all of it is written."""
    with new_page(page, private=private) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def new_page(page: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write a page to; it comes to its place when all of it is on the disk, and not at all otherwise.

    A private one can be read by its owner alone, from the beginning.

    Raises:
        CacheError: It cannot be written.
    """
    try:
        if not _is_replaced(page):
            with page.open("wb") as file:
                yield file
            return
        place = page.resolve()  # a link stays one
        draft = place.with_name(f".{token_hex(8)}.tmp")
        try:
            # What takes the place of a file that nobody else can read must not be read by others meanwhile.
            mode = 0o600 if private or place.exists() else 0o666
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if place.exists():
                _keep_owner(place, draft)
                if not private:
                    shutil.copymode(place, draft)
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as exc:
        raise CacheError(f"{page} cannot be written: {exc.strerror or exc}") from exc


def _keep_owner(place: Path, draft: Path) -> None:
    former = place.stat()
    with suppress(PermissionError):  # only root may give a file away
        os.chown(draft, former.st_uid, former.st_gid)


def refuse_to_overwrite(option: str, page: Path, *, force: bool) -> None:
    """Refuse a page that is there already, unless it is meant to go, or that has no folder.

    Raises:
        InvalidInput: Names the option and what is wrong with it.
    """
    check_pages({option: page}, reads=[])
    if not force and page.is_file():
        raise InvalidInput(f"{option} {page} is there already; --force writes over it")


def _is_replaced(page: Path) -> bool:
    """Tell whether a page is a plain file, or will be: a pipe or a terminal is written to."""
    # Standard output may be sent to a plain file, which must stay the one that is open.
    return page.absolute().parts[1] not in {"dev", "proc"} and (page.is_file() or not page.exists())


def _is_same(one: Path, other: Path) -> bool:
    # Two files may be one by a link, a hard link, or the case of their letters.
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
