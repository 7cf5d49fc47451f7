"""An index as one file, for a fast start.

    magic    8 bytes
    sum      16 bytes, xxh3-128 of all that follows
    version  4 bytes, then 8 bytes: the length of the index of contents
    blocks   names, rows and graphs, in any order
    contents msgpack: space, position, and where the blocks of each partition lie

The sum is compared before anything else is read: usearch trusts what it is given. It shows damage,
not malice; the file is made for its owner alone.
"""

from __future__ import annotations

import fcntl
import glob
import mmap
import os
import secrets
import shutil
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from cache_management.cache.errors import BackendRefused
from cache_management.cache.vectors.matrix import Matrix
from cache_management.cache.vectors.partition import Partition

if TYPE_CHECKING:
    from cache_management.cache.vectors.graph import Graph

_MAGIC = b"cm-index"
_VERSION = 1
_SUM_BYTES = 16
_FIXED = struct.Struct("<IQ")
_HEAD_BYTES = len(_MAGIC) + _SUM_BYTES + _FIXED.size
_CHUNK_BYTES = 8 * 2**20
_COPIES = 500  # partitions copied before the event loop has its turn


class Restored(msgspec.Struct, frozen=True):
    """A snapshot was taken over: read the journal from `position` on."""

    position: str
    vectors: int


class NotRestored(msgspec.Struct, frozen=True):
    """There is no usable snapshot: read everything. `reason` is for people."""

    reason: str


class _Block(msgspec.Struct, frozen=True, array_like=True):
    offset: int
    length: int


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """Where a partition lies. Names are UTF-8 one after another, beside their lengths as u32."""

    name: bytes
    dims: int
    names: _Block
    lengths: _Block
    rows: _Block
    graph: _Block | None = None
    graph_names: _Block | None = None
    graph_lengths: _Block | None = None  # one more than the name's length; 0 for a slot that does not answer


class _Contents(msgspec.Struct, frozen=True):
    space: str
    position: str
    library: str | None  # what wrote the graphs; another version is not trusted to read them
    parts: list[_Part]


class _Unusable(Exception):
    """The file cannot be taken over; the text says why."""


async def write(
    path: Path,
    partitions: Mapping[str, Partition],
    *,
    position: str,
    space: str,
    run: Callable[..., Awaitable[Any]],
) -> None:
    """Write partitions, each as it is when its turn comes, then put the file in its place.

    Raises:
        BackendRefused: The file cannot be written.
    """
    try:
        writer = await run(_Writer, path)
        try:
            copies: list[_Copy] = []
            size_bytes = 0
            for name in list(partitions):
                held = partitions.get(name)
                if held is None:
                    continue
                copies.append(_Copy(name, held))
                size_bytes += copies[-1].rows.nbytes
                if held.graph is not None or size_bytes > _CHUNK_BYTES or len(copies) == _COPIES:
                    await run(writer.write_parts, copies)
                    copies, size_bytes = [], 0
            await run(writer.write_parts, copies)
            await run(writer.finish, path, space, position)
        finally:
            await run(writer.discard)
    except OSError as exc:
        raise BackendRefused("snapshot", f"{path} cannot be written: {exc}") from exc


def read(path: Path, *, space: str) -> tuple[dict[str, Partition], Restored] | NotRestored:
    """Read a snapshot, or say why not. For a thread."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < _HEAD_BYTES:
                return NotRestored("the file is cut short")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
                return _read(data, space)
    except FileNotFoundError:
        return NotRestored("there is no file")
    except (_Unusable, OSError) as exc:
        return NotRestored(str(exc))


def _read(data: memoryview, space: str) -> tuple[dict[str, Partition], Restored]:
    if data[: len(_MAGIC)] != _MAGIC:
        raise _Unusable("the file is no snapshot of an index")
    body = len(_MAGIC) + _SUM_BYTES
    found = xxhash.xxh3_128()
    for at in range(body, len(data), _CHUNK_BYTES):
        found.update(data[at : at + _CHUNK_BYTES])
    if found.digest() != data[len(_MAGIC) : body]:
        raise _Unusable("the checksum is wrong: the file is damaged or cut short")
    version, contents_bytes = _FIXED.unpack_from(data, body)
    if version != _VERSION:
        raise _Unusable(f"the file has format {version}, this program reads {_VERSION}")
    try:
        contents = msgspec.msgpack.decode(data[len(data) - contents_bytes :], type=_Contents)
        if contents.space != space:
            raise _Unusable(f"the vectors are of the space {contents.space!r}, not {space!r}")
        graph_type = _graph_type(contents)
        partitions = {
            part.name.decode(errors="surrogatepass"): _read_part(data, part, graph_type) for part in contents.parts
        }
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as exc:
        raise _Unusable(f"the file contradicts itself: {exc}") from exc
    return partitions, Restored(contents.position, sum(map(len, partitions.values())))


def _graph_type(contents: _Contents) -> type[Graph] | None:
    if contents.library is None:
        return None
    try:
        from cache_management.cache.vectors.graph import LIBRARY, Graph
    except ImportError as exc:
        raise _Unusable(f"the file holds graphs. {exc}") from exc
    if contents.library != LIBRARY:
        raise _Unusable(f"the graphs were written by {contents.library}, here is {LIBRARY}")
    return Graph


def _read_part(data: memoryview, part: _Part, graph_type: type[Graph] | None) -> Partition:
    names = [name for name in _read_names(data, part.names, part.lengths) if name is not None]
    rows = np.frombuffer(_block(data, part.rows), dtype="<f4").reshape(len(names), part.dims)
    matrix = Matrix.of(names, rows.astype(np.float32))  # a copy: the file is closed after this
    if part.graph is None or part.graph_names is None or part.graph_lengths is None or graph_type is None:
        return Partition(matrix)
    graph_names = _read_names(data, part.graph_names, part.graph_lengths)
    with _block(data, part.graph) as block:
        return Partition(matrix, graph_type.restore(graph_names, block, dims=part.dims))


def _block(data: memoryview, block: _Block) -> memoryview:
    end = block.offset + block.length
    if not _HEAD_BYTES <= block.offset <= end <= len(data):
        raise ValueError(f"a block of {block.length} bytes lies at {block.offset}")
    return data[block.offset : end]


def _read_names(data: memoryview, names: _Block, lengths: _Block) -> list[str | None]:
    text = bytes(_block(data, names))
    found: list[str | None] = []
    at = 0
    for length in np.frombuffer(_block(data, lengths), dtype="<u4").tolist():
        if length == 0:
            found.append(None)
        else:
            found.append(text[at : at + length - 1].decode(errors="surrogatepass"))
            at += length - 1
    return found


class _Copy:
    """A partition at one moment: rows and names copied, the graph by reference, for it only grows."""

    def __init__(self, name: str, held: Partition) -> None:
        self.name = name
        self.dims = held.dims
        self.ids = list(held.matrix.ids)
        self.rows = held.matrix.rows()
        self.graph = held.graph
        self.graph_ids = list(held.graph.ids) if held.graph is not None else []
        # Slots set aside for a slice on its way: its rows are in the matrix still.
        while self.graph_ids and self.graph_ids[-1] is None:
            self.graph_ids.pop()


class _Writer:
    """Writes blocks one after another into a file beside the place where it will stand."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        self._path = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        self._graph_path = self._path.with_suffix(".graph")
        self._file: BinaryIO = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # tells others that somebody lives who writes it
        self._file.write(bytes(_HEAD_BYTES))
        self._parts: list[_Part] = []
        self._library: str | None = None

    def write_parts(self, copies: Sequence[_Copy]) -> None:
        for copy in copies:
            names, lengths = self._write_names(copy.ids)
            part = _Part(
                copy.name.encode(errors="surrogatepass"),
                copy.dims,
                names,
                lengths,
                self._write(copy.rows.astype("<f4", copy=False)),
            )
            if copy.graph is not None:
                part = self._write_graph(part, copy.graph, copy.graph_ids)
            self._parts.append(part)

    def finish(self, path: Path, space: str, position: str) -> None:
        contents = msgspec.msgpack.encode(_Contents(space, position, self._library, self._parts))
        self._file.write(contents)
        self._file.seek(len(_MAGIC) + _SUM_BYTES)
        self._file.write(_FIXED.pack(_VERSION, len(contents)))
        found = xxhash.xxh3_128()
        self._file.seek(len(_MAGIC) + _SUM_BYTES)
        while chunk := self._file.read(_CHUNK_BYTES):
            found.update(chunk)
        self._file.seek(0)
        self._file.write(_MAGIC + found.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Close, and remove what did not get to its place."""
        with suppress(OSError):  # closing writes what is buffered, and the disk may be full
            self._file.close()
        for path in (self._path, self._graph_path):
            path.unlink(missing_ok=True)

    def _write(self, data: NDArray[Any] | bytes) -> _Block:
        offset = self._file.tell()
        # An array is written from where it lies; an empty one cannot be looked at as bytes.
        raw = data if isinstance(data, bytes) else data.data.cast("B") if data.size else b""
        return _Block(offset, self._file.write(raw))

    def _write_names(self, names: Sequence[str | None]) -> tuple[_Block, _Block]:
        encoded = [None if name is None else name.encode(errors="surrogatepass") for name in names]
        lengths = np.array([0 if name is None else len(name) + 1 for name in encoded], dtype="<u4")
        return self._write(b"".join(name for name in encoded if name is not None)), self._write(lengths.tobytes())

    def _write_graph(self, part: _Part, graph: Graph, ids: Sequence[str | None]) -> _Part:
        from cache_management.cache.vectors.graph import LIBRARY

        self._library = LIBRARY
        graph.dump(self._graph_path)
        offset = self._file.tell()
        with self._graph_path.open("rb") as source:
            shutil.copyfileobj(source, self._file, _CHUNK_BYTES)
        block = _Block(offset, self._file.tell() - offset)
        self._graph_path.unlink()
        names, lengths = self._write_names(ids)
        return msgspec.structs.replace(part, graph=block, graph_names=names, graph_lengths=lengths)


def _remove_abandoned(path: Path) -> None:
    """Remove what a killed process left half written: a gigabyte each, if the index is large."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.with_suffix(".graph").unlink(missing_ok=True)
            left.unlink(missing_ok=True)
