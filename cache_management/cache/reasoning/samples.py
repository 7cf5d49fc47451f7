"""The samples of a state, in order, and who has used which.

Within a namespace of consumers each sample is taken once; another namespace begins at the first, so that an experiment
repeats exactly. What nobody has generated yet is reserved by its place: two who ask at once generate different ones.
Duplicates stay: dropping them would bend votes and pass rates. Pure; times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

HOLE = -1
_RETURNED_KEPT = 63
"""In the place of a sample that is not there yet."""


class Use(msgspec.Struct, array_like=True):
    """How far a namespace is: the next place, and places that were given back or must be passed over."""

    next: int = 0
    returned: list[int] = []
    passed: list[int] = []


class Ticket(msgspec.Struct, array_like=True):
    """What one `take` has still to get, until a moment: places to fill, and places that others fill."""

    namespace: str
    missing: list[int]
    waiting: list[int]
    until: float


class Samples(msgspec.Struct, array_like=True):
    """The samples of one state. `texts` are places in a table of texts, or `HOLE`; `epoch` says when it began anew.

    `returned` are the tickets that were given back last.
    """

    epoch: int
    texts: list[int] = []
    uses: dict[str, Use] = {}
    tickets: dict[str, Ticket] = {}
    returned: list[str] = []

    def take(
        self,
        ticket: str,
        namespace: str,
        count: int,
        *,
        now: float,
        lease_seconds: float,
        but: Collection[int] = (),
    ) -> Taking:
        """Take the next places of a namespace; those that are not to be served (`but`) are passed over."""
        self.expire(now)
        use = self._use(namespace)
        flying = {place for each in self.tickets.values() for place in each.missing}
        places = [place for place in sorted(use.returned) if place not in but][:count]
        use.returned = sorted(set(use.returned).difference(places))
        while len(places) < count:
            if use.next not in use.passed and use.next not in but:
                places.append(use.next)
            use.next += 1
        use.passed = [place for place in use.passed if place >= use.next]
        present = [place for place in places if self._is_there(place)]
        missing = [place for place in places if not self._is_there(place) and place not in flying]
        waiting = [place for place in places if not self._is_there(place) and place in flying]
        if missing or waiting:
            self.tickets[ticket] = Ticket(namespace, missing, waiting, now + lease_seconds)
        return Taking(present, missing, waiting)

    def again(self, ticket: str, *, now: float, lease_seconds: float) -> Taking:
        """Look again at places that others were to fill; those that they gave up are the ticket's to fill now."""
        self.expire(now, but=ticket)
        held = self.tickets.get(ticket)
        waiting = [] if held is None else held.waiting
        flying = {place for name, each in self.tickets.items() if name != ticket for place in each.missing}
        present = [place for place in waiting if self._is_there(place)]
        missing = [place for place in waiting if not self._is_there(place) and place not in flying]
        left = [place for place in waiting if not self._is_there(place) and place in flying]
        if held is not None:
            held.missing = [*held.missing, *missing]
            held.waiting = left
            held.until = now + lease_seconds
            self._close(ticket, held)
        return Taking(present, missing, left)

    def offer(self, ticket: str, namespace: str, texts: Sequence[int]) -> list[int]:
        """Fill the places of a ticket with samples, in order; return where they stand.

        Who comes too late, or with more, adds them at the end; the namespace has used them, and is not given them.
        """
        held = self.tickets.get(ticket)
        free = [] if held is None else [place for place in held.missing if not self._is_there(place)]
        places = []
        for at, text in enumerate(texts):
            if at < len(free):
                place = free[at]
                self.texts += [HOLE] * (place + 1 - len(self.texts))
                self.texts[place] = text
            else:
                use = self._use(namespace)
                place = max(self._end(), use.next)
                self.texts += [HOLE] * (place - len(self.texts))
                self.texts.append(text)
                use.passed.append(place)
            places.append(place)
        if held is not None:
            held.missing = free[len(texts) :]
            self._close(ticket, held)
        return places

    def renew(self, ticket: str, *, until: float) -> None:
        """Let a ticket live on until a moment."""
        if ticket in self.tickets:
            self.tickets[ticket].until = until

    def give_back(self, ticket: str, namespace: str, places: Sequence[int] = ()) -> int:
        """Let the namespace have again what a ticket was still to get, and places that were taken; return how many."""
        if ticket in self.returned:  # what was given back once may be somebody else's by now
            return 0
        self.returned = [*self.returned[-_RETURNED_KEPT:], ticket]
        held = self.tickets.pop(ticket, None)
        back = {*places, *([] if held is None else [*held.missing, *held.waiting])}
        use = self._use(namespace)
        back = {place for place in back if place < use.next}  # what was taken before a reset is not
        use.returned = sorted(back | set(use.returned))
        return len(back)

    def reset(self, namespace: str) -> None:
        """Let a namespace begin at the first sample again."""
        self.uses.pop(namespace, None)
        # What they hold would be given back, and taken twice.
        self.tickets = {name: each for name, each in self.tickets.items() if each.namespace != namespace}

    def expire(self, now: float, *, but: str = "") -> None:
        """Take back what tickets hold whose time is over."""
        for name in [name for name, each in self.tickets.items() if each.until <= now and name != but]:
            self.give_back(name, self.tickets[name].namespace)

    def used(self, namespace: str) -> int:
        """Return how many places a namespace has taken."""
        use = self.uses.get(namespace)
        return 0 if use is None else use.next - len(use.returned)

    def _use(self, namespace: str) -> Use:
        """Return how far a namespace is; nobody, "", is at the beginning each time."""
        return self.uses.setdefault(namespace, Use()) if namespace else Use()

    def _close(self, ticket: str, held: Ticket) -> None:
        if not held.missing and not held.waiting:
            self.tickets.pop(ticket, None)

    def _is_there(self, place: int) -> bool:
        return place < len(self.texts) and self.texts[place] != HOLE

    def _end(self) -> int:
        """Return the first place that no sample has and nobody counts on."""
        reserved = [place + 1 for each in self.tickets.values() for place in (*each.missing, *each.waiting)]
        return max([len(self.texts), *reserved])


class Taking(msgspec.Struct, frozen=True):
    """Places that are there, that the taker is to fill, and that others are about to fill."""

    present: list[int]
    missing: list[int]
    waiting: list[int]
