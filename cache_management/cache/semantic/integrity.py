"""Finds vectors that do not belong to their entries, and mends them.

orphan    its entry is gone
foreign   its entry has another prompt or another scope by now
damaged   it cannot be read
wrong     the model gives another vector for its text

A writer stores the entry first and its vector then. So a vector whose entry is gone is one that was left
behind, once a second look finds the same; and one that disagrees with an entry of the last minute may be
about to be replaced, and is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from cache_management.cache.clock import Clock, VersionClock, version_time
from cache_management.cache.errors import CorruptRecord
from cache_management.cache.events import CorruptEvent, Listener
from cache_management.cache.identity import KeySpace
from cache_management.cache.records import Indexable, Record
from cache_management.cache.semantic.embedding_cache import embed_anew
from cache_management.cache.semantic.matcher import SimilarityMatcher
from cache_management.cache.semantic.shared import SharedVectors
from cache_management.cache.semantic.stored_entries import StoredEntries, StoredEntry
from cache_management.cache.semantic.stored_vectors import StoredVector, decode_vector, space_of, space_prefix
from cache_management.cache.semantic.vector_store import VectorStore
from cache_management.cache.vectors import open_index
from cache_management.cache.vectors.base import VectorIndex

Fault = Literal["orphan", "foreign"]
SETTLED_SECONDS = 60.0
WRONG_BELOW = 0.999
"""Cosine of two runs of one model on one text: batches and engines differ by far less."""


class Checked(msgspec.Struct, frozen=True, gc=False):
    """What the check of one page found; all that is counted was mended, but `unreadable`."""

    vectors: int = 0
    compared: int = 0
    orphans: int = 0
    foreign: int = 0
    damaged: int = 0
    wrong: int = 0
    unreadable: int = 0


class Dropped(msgspec.Struct, frozen=True, gc=False):
    """What became of a page's vectors of other models: `kept` ones stand alone and are too long for this model."""

    dropped: int = 0
    kept: int = 0


class Held(msgspec.Struct, frozen=True, gc=False):
    """A vector as it is stored, and when it was."""

    vector: StoredVector
    version: int
    expires_at: float | None


def fault_of(held: Held, entry: StoredEntry | None, *, now: float) -> Fault | None:
    """Say what is wrong between a vector and the entry of its key, by what was read of both."""
    if held.vector.response is not None:
        return None  # it stands alone
    if entry is None:
        return "orphan"
    if (entry.prompt, entry.scope) == (held.vector.prompt, held.vector.scope):
        return None
    return "foreign" if version_time(entry.version) <= now - SETTLED_SECONDS else None


class VectorCare:
    """Checks and removes the vectors of one namespace, of all models, a page at a time. Every call may be repeated."""

    def __init__(self, matcher: SimilarityMatcher, entries: StoredEntries, *, clock: Clock, listener: Listener) -> None:
        self._matcher = matcher
        self._entries = entries
        self._clock = clock
        self._listener = listener
        self._backend = matcher.backend
        self._embedder = matcher.embedder
        self._keys = KeySpace("vec", matcher.namespace)
        self._other_widths: dict[int, VectorIndex] = {}
        self.store = VectorStore(
            matcher.backend,
            namespace=matcher.namespace,
            embedder=matcher.embedder,
            versions=VersionClock(clock),
            listener=listener,
        )

    async def names(self, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        """Return a page of the ids of all vectors of the namespace."""
        return await self._backend.scan_page(self._keys.prefix, bookmark, limit)

    def space_of(self, vector_id: str) -> str | None:
        """Return the space of a vector."""
        return space_of(self._keys, vector_id)

    def is_of_another_model(self, vector_id: str) -> bool:
        """Tell whether a vector belongs to another space than that of the matcher's model."""
        return self.space_of(vector_id) not in (None, self._embedder.space)

    async def load(self, names: Sequence[str]) -> dict[str, Held]:
        """Return vectors by id; those that are gone or damaged are left out."""
        return self._decode(await self._backend.get_many(names) if names else {})[0]

    async def check(self, names: Sequence[str], *, compare: int, told_before: int) -> Checked:
        """Check vectors and mend what is wrong; up to `compare` of them are embedded once more to compare.

        Readers hear again of those that are as young as `told_before`, a version: a check that died may have mended
        them and told nobody.

        Raises:
            EmbedderUnavailable, BackendUnavailable: Part of it may be done.
        """
        held, unread, damaged = await self._load(names)
        suspects = await self._faults(held)
        # The second look: what was written or removed meanwhile is no fault.
        again, _, _ = await self._load(list(suspects))
        faults = {name: fault for name, fault in (await self._faults(again)).items() if fault == suspects[name]}
        healthy = {name: each for name, each in held.items() if name not in suspects}
        await self._matcher.tell_again(
            {
                name: each.vector
                for name, each in healthy.items()
                if each.version >= told_before and not self.is_of_another_model(name)
            }
        )
        wrong, compared = await self._compare(healthy, compare)
        await self._remove({name: again[name] for name in faults})
        await self._index_anew([again[name] for name, fault in faults.items() if fault == "foreign"])
        lost = await self.store.remove(damaged)
        unreadable = 0
        if unread and held:
            lost += await self.store.remove(unread)  # what has only just expired is not counted
        else:
            # Nothing of a page can be read: a missing key for encrypted values is likelier than that all is broken.
            unreadable = len(unread)
        return Checked(
            vectors=len(held) + len(unread) + len(damaged),
            compared=compared,
            orphans=sum(fault == "orphan" for fault in faults.values()),
            foreign=sum(fault == "foreign" for fault in faults.values()),
            damaged=lost,
            wrong=wrong,
            unreadable=unreadable,
        )

    async def drop_others(self, names: Sequence[str]) -> Dropped:
        """Remove those vectors that are of other models. One that stands alone is embedded anew first.

        Raises:
            EmbedderUnavailable, BackendUnavailable: Part of it may be done.
        """
        others = [name for name in names if self.is_of_another_model(name)]
        held, unread, damaged = await self._load(others)
        kept = [name for name, each in held.items() if not await self._carry_over(each)]
        gone = {name: each for name, each in held.items() if name not in kept}
        removed = await self._remove(gone) + await self.store.remove([*damaged, *unread])
        return Dropped(removed, len(kept))

    async def _load(self, names: Sequence[str]) -> tuple[dict[str, Held], list[str], list[str]]:
        """Return vectors by id, then the ids of those that the store does not give, and of those that are none."""
        records: dict[str, Record] = await self._backend.get_many(names) if names else {}
        missing = [name for name in names if name not in records]
        if missing:
            records |= await self._backend.get_many(missing)
        held, damaged = self._decode(records)
        return held, [name for name in missing if name not in records], damaged

    def _decode(self, records: Mapping[str, Record]) -> tuple[dict[str, Held], list[str]]:
        held = {}
        damaged = []
        for name, record in records.items():
            dims = None if self.is_of_another_model(name) else self._embedder.dims
            try:
                held[name] = Held(decode_vector(record.value, dims=dims), record.version, record.expires_at)
            except CorruptRecord as exc:
                self._listener(CorruptEvent(self._backend.name, name, str(exc)))
                damaged.append(name)
        return held, damaged

    async def _faults(self, held: Mapping[str, Held]) -> dict[str, Fault]:
        # Behind the vectors: an entry that is not there now was there before its vector was.
        owners = {name: self._entries.name_of(each.vector.key) for name, each in held.items()}
        entries = await self._entries.load(set(owners.values()))
        now = self._clock()
        found = {name: fault_of(each, entries.get(owners[name]), now=now) for name, each in held.items()}
        return {name: fault for name, fault in found.items() if fault is not None}

    async def _compare(self, healthy: Mapping[str, Held], most: int) -> tuple[int, int]:
        """Embed up to `most` texts of this model anew; return how many vectors were wrong, and how many compared."""
        sample = [
            each
            for name, each in healthy.items()
            if not self.is_of_another_model(name)
            and each.vector.response is None
            and self._embedder.fits(each.vector.prompt)
        ][:most]
        if not sample:
            return 0, 0
        rows = await embed_anew(self._embedder, [each.vector.prompt for each in sample])
        stored = np.stack([each.vector.as_array() for each in sample])
        cosines = np.einsum("ij,ij->i", rows, stored)
        wrong = [each for each, cosine in zip(sample, cosines, strict=True) if not cosine >= WRONG_BELOW]
        await self._index_anew(wrong)
        return len(wrong), len(sample)

    async def _index_anew(self, held: Sequence[Held]) -> None:
        """Embed the entries of some vectors anew, as they are now."""
        entries = await self._entries.load({self._entries.name_of(each.vector.key) for each in held})
        findable = [entry.indexable() for entry in entries.values() if entry.findable]
        if findable:
            await self._matcher.index_entries(findable, anew=True)

    async def _carry_over(self, held: Held) -> bool:
        """Give a vector that stands alone one of this model; return False where its text is too long for that."""
        vector = held.vector
        if vector.response is None:
            return True
        there = await self.store.load([self.store.id_of(vector.key)])
        if there:
            # Perhaps by a page that is repeated; then nobody may have heard of it.
            await self._matcher.tell_again({name: found for name, (found, _) in there.items()})
            return True
        if not self._embedder.fits(vector.prompt):
            return False
        row = await self._embedder.embed([vector.prompt])
        entry = Indexable(vector.key, vector.prompt, held.expires_at, vector.scope)
        # An answer keeps its age: what depends on the day is as old as it was.
        stored = await self.store.put([entry], row, response=vector.response, version=held.version)
        if self._matcher.index.is_shared:
            shared = SharedVectors(self._matcher.index, prefix=self.store.prefix)
            await shared.put(stored, dict.fromkeys(stored, vector.scope))
        return True

    async def _remove(self, gone: Mapping[str, Held]) -> int:
        removed = await self.store.remove(list(gone))
        if self._matcher.index.is_shared:
            for name, each in gone.items():
                space = self.space_of(name)
                index = self._index_of_width(len(each.vector.as_array()))
                if space is not None and index is not None:
                    shared = SharedVectors(index, prefix=space_prefix(self._keys, space))
                    await shared.remove([name], {name: each.vector.scope})
        return removed

    def _index_of_width(self, dims: int) -> VectorIndex | None:
        """Return the shared index for vectors of a width; another model's may have another."""
        if dims == self._embedder.dims:
            return self._matcher.index
        url = self._matcher.config.index_url
        if dims not in self._other_widths and url is not None:
            self._other_widths[dims] = open_index(url.get_secret_value(), dims=dims)
        return self._other_widths.get(dims)

    async def aclose(self) -> None:
        """Close what was opened for other models."""
        while self._other_widths:
            await self._other_widths.popitem()[1].aclose()
