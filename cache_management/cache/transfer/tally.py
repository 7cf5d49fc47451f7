"""What an import did, in numbers."""

from __future__ import annotations

import msgspec


class Tally(msgspec.Struct, frozen=True):
    """Counts of an import, each entry of the file once.

    `entries` were read in the file. Of these `added` and `updated` were written, `present` were there as they are, of
    `newer` the store has a later write, `expired` are over, `duplicates` stand in a part once more. `removed`
    entries of the store were not in the file, `kept` neither, but written since the replacing began. `unreadable_there`
    could not be exported where the file comes from.
    """

    entries: int = 0
    added: int = 0
    updated: int = 0
    present: int = 0
    newer: int = 0
    expired: int = 0
    duplicates: int = 0
    removed: int = 0
    kept: int = 0
    unreadable_there: int = 0

    def plus(self, **more: int) -> Tally:
        """Return it with some counts larger."""
        return msgspec.structs.replace(self, **{name: getattr(self, name) + each for name, each in more.items()})

    def add(self, other: Tally) -> Tally:
        """Return the sum of two."""
        return self.plus(**msgspec.structs.asdict(other))

    @property
    def written(self) -> int:
        """Return how many entries of the file were written."""
        return self.added + self.updated

    @property
    def settled(self) -> int:
        """Return of how many entries of the file it is known what became of them."""
        return self.written + self.present + self.newer + self.expired + self.duplicates
