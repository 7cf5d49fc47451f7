"""Stream files: written a part at a time, resumed at a byte, read a block at a time. `.jsonl` or `.jsonl.zst`.

Compressed, each block is a zstd frame of its own: frames behind each other are a legal `.zst`, a half-written
one can be cut off, and a reader takes no more memory than a frame declares, which it looks at first.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import zstandard

from cache_management.cache.errors import CacheError, InvalidInput
from cache_management.cache.transfer.lines import (
    PART_BYTES,
    End,
    Header,
    Part,
    ReadPlace,
    closes_block,
    longest_line,
    open_header,
    open_part,
    seal_end,
    seal_header,
    seal_part,
)

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LEVEL = 3
_WINDOW_LOG = 21
_LARGEST_WINDOW = 2**23
_HEADER_BYTES = 2**20
_LONGEST_FRAME_HEADER = 18
_STALE_SECONDS = 24 * 3600
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_HELP = "take another copy of the file, or export again"
_REPACKED = "was it packed by another program? Unpack it (`zstd -d`) and import the .jsonl"


class TargetFull(CacheError):
    """There is no room for an export; what was written before is kept."""


class TargetLost(CacheError):
    """An export cannot go on: the unfinished file is not there any more, or the target cannot be written."""


class FileMark(msgspec.Struct, frozen=True):
    """What tells a file from the same one changed."""

    device: int
    inode: int
    size: int
    modified_ns: int


class WritePlace(msgspec.Struct, frozen=True):
    """How much of a file is written for good: bytes, parts, entries, and the last seal."""

    offset: int = 0
    parts: int = 0
    entries: int = 0
    seal: str = ""


def mark_of(file: Path) -> FileMark:
    """Return the mark of a file that can be read.

    Raises:
        InvalidInput: It is not there, or is no regular file.
    """
    try:
        found = file.stat()
    except FileNotFoundError:
        raise InvalidInput(f"{file}: there is no such file") from None
    except OSError as exc:
        raise InvalidInput(f"{file}: cannot be read: {exc.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InvalidInput(f"{file}: is no regular file")
    return FileMark(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class StreamWriter:
    """Writes a stream to a hidden file beside its target, and gives it the target's name when it is whole.

    Args:
        owner: The id in the header, which names the hidden file: whoever resumes the work has the same.
    """

    def __init__(self, target: Path, *, owner: str) -> None:
        self.target = target
        self._owner = owner
        self.unfinished = target.with_name(f".{target.name}.{owner}.part")
        self._compressor = None
        if target.suffix == ".zst":
            parameters = zstandard.ZstdCompressionParameters.from_level(
                _LEVEL, window_log=_WINDOW_LOG, write_checksum=True, write_content_size=True
            )
            self._compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self._file = -1

    def begin(self, header: Header) -> WritePlace:
        """Begin the file, readable for nobody else.

        Raises:
            TargetLost, TargetFull: It cannot be written.
        """
        self._open_new()
        block, seal = seal_header(header)
        return WritePlace(offset=self._append(block, 0), seal=seal)

    def resume(self, place: WritePlace) -> None:
        """Go on behind a place; what stands behind it is cut off.

        Raises:
            TargetLost: It does not reach so far.
        """
        if self._file >= 0 and os.lseek(self._file, 0, os.SEEK_CUR) == place.offset:
            return
        self.close()
        try:
            self._file = os.open(self.unfinished, os.O_RDWR)
        except OSError as exc:
            raise TargetLost(f"{self.unfinished}: the unfinished file cannot be opened: {exc.strerror}") from None
        size = os.fstat(self._file).st_size
        if size < place.offset:
            self.close()
            raise TargetLost(f"{self.unfinished}: the unfinished file has {size} of {place.offset} bytes: begin again")
        os.ftruncate(self._file, place.offset)
        os.lseek(self._file, place.offset, os.SEEK_SET)

    def append(self, lines: Sequence[bytes], place: WritePlace) -> WritePlace:
        """Add a part of encoded entries behind a place.

        Raises:
            TargetFull: The part is not written.
        """
        block, seal = seal_part(lines, place.parts + 1, place.seal)
        offset = self._append(block, place.offset)
        return WritePlace(offset, place.parts + 1, place.entries + len(lines), seal)

    def sync(self) -> None:
        """Return when all that was added is on the disk.

        Raises:
            TargetFull: It is not.
        """
        try:
            os.fsync(self._file)
        except OSError as exc:
            raise self._translated(exc) from None

    def finish(self, place: WritePlace, *, unreadable: int, replace: bool) -> int:
        """Add the end, and give the file its name; return its size in bytes. May be repeated.

        Raises:
            InvalidInput: There is such a file meanwhile, and it is not to be replaced.
            TargetFull, TargetLost: It has not got its name.
        """
        if self._is_finished():
            return self.target.stat().st_size
        self.resume(place)
        block = seal_end(parts=place.parts, entries=place.entries, unreadable=unreadable, seal=place.seal)
        size = self._append(block, place.offset)
        self._give_name(replace=replace)
        return size

    def write_whole(self, data: bytes, *, replace: bool) -> None:
        """Write something else than a stream in the same way: hidden at first, then under its name.

        Raises:
            As `finish`.
        """
        self._open_new()
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as exc:
            raise self._translated(exc) from None
        self._give_name(replace=replace)

    def discard(self) -> None:
        """Remove the unfinished file."""
        self.close()
        self.unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; what was added stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open_new(self) -> None:
        self.close()
        self._drop_stale()
        try:
            self._file = os.open(self.unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise self._translated(exc) from None

    def _give_name(self, *, replace: bool) -> None:
        self.sync()
        check_target(self.target, replace=replace)
        try:
            self.unfinished.replace(self.target)
            _sync_folder(self.target.parent)
        except OSError as exc:
            raise TargetLost(f"{self.target}: cannot be written: {exc.strerror}") from None
        self.close()

    def _is_finished(self) -> bool:
        """Tell whether the target is what this writer wrote: a death between its new name and the note of that."""
        if self.unfinished.exists() or not self.target.is_file():
            return False
        try:
            reader = StreamReader(self.target, entry_limit_bytes=0)
        except InvalidInput:
            return False
        try:
            return reader.start()[0].id == self._owner
        except InvalidInput:
            return False
        finally:
            reader.close()

    def _append(self, block: bytes, offset: int) -> int:
        data = block if self._compressor is None else self._compressor.compress(block)
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as exc:
            # Nobody shall find half a part; should this fail too, whoever resumes cuts it off.
            try:
                os.ftruncate(self._file, offset)
            finally:
                self.close()
            raise self._translated(exc) from None
        return offset + len(data)

    def _translated(self, error: OSError) -> CacheError:
        if error.errno in _NO_ROOM:
            return TargetFull(f"{self.target}: there is no room for it ({error.strerror}): make room in its folder")
        return TargetLost(f"{self.target}: cannot be written: {error.strerror}")

    def _drop_stale(self) -> None:
        """Remove what others left unfinished long ago beside the same target."""
        for file in self.target.parent.glob(f".{_escape(self.target.name)}.*.part"):
            try:
                if file.stat().st_mtime < time.time() - _STALE_SECONDS:
                    file.unlink()
            except OSError:
                continue  # somebody else's, or gone


def check_target(target: Path, *, replace: bool) -> None:
    """Raise InvalidInput when a target cannot be written, or is there and is not to be replaced."""
    if target.is_dir():
        raise InvalidInput(f"{target}: is a folder; name a file")
    if not target.parent.is_dir():
        raise InvalidInput(f"{target}: there is no folder {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InvalidInput(f"{target}: nothing can be written to {target.parent}")
    if not replace and os.path.lexists(target):
        raise InvalidInput(f"{target}: is there already; give --force to replace it, or another name")


class StreamReader:
    """Reads the blocks of a stream file, each only when its seal holds.

    Args:
        entry_limit_bytes: The `max_entry_bytes` of the cache that shall take the entries.
    """

    unit = "line"

    def __init__(self, file: Path, *, entry_limit_bytes: int) -> None:
        self.path = file
        self.mark = mark_of(file)
        self._longest = longest_line(entry_limit_bytes)
        self._largest = PART_BYTES + self._longest
        try:
            self._file = file.open("rb")
        except OSError as exc:
            raise InvalidInput(f"{file}: cannot be read: {exc.strerror}") from None
        self._packed = self._file.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC
        self._shown = str(file)

    def start(self) -> tuple[Header, ReadPlace]:
        """Return the header, and the place behind it.

        Raises:
            InvalidInput: It is no stream that this program reads.
        """
        if self.mark.size == 0:
            raise InvalidInput(f"{self._shown}: the file is empty")
        block, behind = self._block(ReadPlace(), most=_HEADER_BYTES)
        header, seal = open_header(block, where=self._shown)
        return header, ReadPlace(offset=behind, line=2, seal=seal)

    def read(self, place: ReadPlace) -> Part | End:
        """Return the part at a place, or the end.

        Raises:
            InvalidInput: It is not what was written, or holds what is no entry; names the line.
        """
        block, behind = self._block(place, most=self._largest)
        found = open_part(block, place, where=self._shown)
        found = msgspec.structs.replace(found, place=msgspec.structs.replace(found.place, offset=behind))
        if isinstance(found, End) and behind != self.mark.size:
            raise InvalidInput(f"{self._shown}: something stands behind its end; {_HELP}")
        return found

    def is_unchanged(self) -> bool:
        """Tell whether the file at the path is still the one that was opened, as it was."""
        try:
            return mark_of(self.path) == self.mark
        except InvalidInput:
            return False

    def close(self) -> None:
        self._file.close()

    def _block(self, place: ReadPlace, *, most: int) -> tuple[bytes, int]:
        """Return the block that begins at a place, and the offset behind it."""
        try:
            self._file.seek(place.offset)
            return self._frame(place, most) if self._packed else self._lines(place, most)
        except OSError as exc:
            raise InvalidInput(f"{self._shown}: cannot be read: {exc.strerror}") from None

    def _lines(self, place: ReadPlace, most: int) -> tuple[bytes, int]:
        lines: list[bytes] = []
        size = 0
        while True:
            line = self._file.readline(min(self._longest, most) + 1)
            where = f"{self._shown}, line {place.line + len(lines)}"
            size += len(line)
            if size > most or len(line) > self._longest:
                # Looked at first: what is no export at all may have no line breaks either.
                if place.offset == 0:
                    open_header(line, where=self._shown)
                raise InvalidInput(
                    f"{where}: more than {most:,} bytes without the end of a part: not what was written; {_HELP}"
                )
            if not line.endswith(b"\n"):
                if place.offset == 0:
                    open_header(line, where=self._shown)
                raise InvalidInput(f"{where}: the file is cut off; {_HELP}")
            lines.append(line)
            if place.offset == 0 or closes_block(line):
                return b"".join(lines), place.offset + size

    def _frame(self, place: ReadPlace, most: int) -> tuple[bytes, int]:
        where = f"{self._shown}, byte {place.offset}"
        frame = self._packed_frame(place.offset, most, where)
        try:
            size = zstandard.frame_content_size(frame)
            if not 0 <= size <= most:
                raise InvalidInput(
                    f"{where}: a part of it declares {size if size >= 0 else 'an unknown number of'} bytes, at most"
                    f" {most} are read; {_REPACKED}"
                )
            unpack = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
            return unpack.decompress(frame, max_output_size=size), place.offset + len(frame)
        except zstandard.ZstdError:
            raise InvalidInput(f"{where}: what is packed there is damaged; {_HELP}") from None

    def _packed_frame(self, offset: int, most: int, where: str) -> bytes:
        """Return the bytes of one frame: its length is known by going from block to block."""
        cut_off = InvalidInput(f"{where}: the file is cut off; {_HELP}")
        head = self._file.read(_LONGEST_FRAME_HEADER)
        if not head:
            raise cut_off
        if not head.startswith(ZSTD_MAGIC):
            raise InvalidInput(f"{where}: no packed part stands there; {_HELP}")
        try:
            length = zstandard.frame_header_size(head)
            has_checksum = zstandard.get_frame_parameters(head).has_checksum
        except zstandard.ZstdError:
            raise InvalidInput(f"{where}: what is packed there is damaged; {_HELP}") from None
        last = False
        while not last:
            self._file.seek(offset + length)
            block_head = self._file.read(3)
            if len(block_head) < 3:
                raise cut_off
            number = int.from_bytes(block_head, "little")
            last = bool(number & 1)
            # One byte that is repeated; else as many bytes as it says.
            length += 3 + (1 if (number >> 1) & 3 == 1 else number >> 3)
            if length > most:
                raise InvalidInput(f"{where}: a part of it has more than {most:,} bytes; {_REPACKED}")
        length += 4 * has_checksum
        self._file.seek(offset)
        frame = self._file.read(length)
        if len(frame) < length:
            raise cut_off
        return frame


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _escape(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
