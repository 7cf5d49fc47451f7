"""What a general dictionary knows of English words: base forms, synonyms, antonyms, sisters.

Derived from WordNet 3.0 by `tools/lexicon`; the licence stands beside the data. It is read once, when the first text is
analysed. Words are lower case; one that is not in the dictionary is its own base form and has no relations.
"""

from __future__ import annotations

import sys
from array import array
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import msgspec
import zstandard

from cache_management.cache.errors import ConfigurationError
from cache_management.cache.semantic.gates.closed_classes import NEGATIVE_PREFIXES, word_set

VERSION = 1
NOUN, VERB, ADJECTIVE, ADVERB = 0, 1, 2, 3  # as in the data; the flag of each is 1 << part
_PROPER, _PERSON = 16, 32
_SISTERS = 0.65  # Wu and Palmer's similarity: twice the depth of the nearest common ancestor over the sum of depths


class _Rows:
    """Lists of integers, kept flat."""

    __slots__ = ("_ends", "_flat")

    def __init__(self, packed: list[bytes]) -> None:
        self._ends, self._flat = array("I", packed[0]), array("I", packed[1])
        if sys.byteorder == "big":
            self._ends.byteswap()
            self._flat.byteswap()

    def __getitem__(self, at: int) -> array[int]:
        return self._flat[self._ends[at - 1] if at else 0 : self._ends[at]]


class Lexicon:
    """The dictionary in memory; `load` gives the one of this process."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.number = {lemma: at for at, lemma in enumerate(content["lemmas"].split("\n"))}
        self.irregular: dict[str, str] = content["irregular"]
        self.flags: bytes = content["flags"]
        self.senses = _Rows(content["senses"])
        self.parents = _Rows(content["parents"])
        self.parts: bytes = content["parts"]
        self.related = _Rows(content["related"])
        self.opposite = _Rows(content["opposite"])


@cache
def load() -> Lexicon:
    """Read the data file, once in a process.

    Raises:
        ConfigurationError: The installed data is of another version than this code.
    """
    packed = (files("cache_management.cache.semantic.gates") / "data" / "lexicon.zst").read_bytes()
    content = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(packed))
    if content.get("version") != VERSION:
        raise ConfigurationError(
            f"the gates' lexicon has version {content.get('version')}, this code reads {VERSION}; "
            "install the package again, or run tools/lexicon"
        )
    return Lexicon(content)


@lru_cache(maxsize=50_000)
def lemma(word: str) -> str:
    """Return the base form: "went" is "go", "policies" is "policy"."""
    lexicon = load()
    known = lexicon.number
    if word in lexicon.irregular:
        return lexicon.irregular[word]
    if word in _WHOLE:
        return word
    if len(word) < 4 or (word in known and not word.endswith(("s", "ed", "ing", "est"))):
        return word
    for ending, bases in _ENDINGS:
        if word.endswith(ending):
            stem = word[: -len(ending)]
            if len(stem) < 2:
                continue
            for base in bases:
                found = stem + base
                if found in known and _inflects(ending, found):
                    return found
            if ending in {"ing", "ed", "er", "est"} and len(stem) > 2 and stem[-1] == stem[-2] and stem[:-1] in known:
                return stem[:-1]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "os")) and word not in known:
        return word[:-1]
    return word


# They end like a form of another word, and are none: an evening is not what evens, nor a seed what was seen.
_WHOLE = word_set(
    "arrest attest earring evening feed forest guest inning latest lemming modest outing pudding seed weed"
)
_ENDINGS = (
    ("ies", ("y", "ie")),
    ("sses", ("ss",)),
    ("ches", ("ch", "che")),
    ("shes", ("sh",)),
    ("xes", ("x", "xe")),
    ("zes", ("ze", "z", "zz")),
    ("oes", ("o", "oe")),
    ("s", ("",)),
    ("es", ("", "e")),
    ("ied", ("y",)),
    ("ed", ("e", "")),
    ("ing", ("e", "")),
    ("er", ("e", "")),
    ("est", ("e", "")),
)


def _inflects(ending: str, base: str) -> bool:
    """Tell whether a base form takes an ending: "ed" and "ing" want a verb, "er" and "est" an adjective."""
    flags = load().flags[load().number[base]]
    if ending in {"ed", "ied", "ing"}:
        return bool(flags & 1 << VERB)
    if ending in {"er", "est"}:
        return bool(flags & 1 << ADJECTIVE)
    return not (base.endswith("s") and ending == "s") and bool(flags & (1 << NOUN | 1 << VERB))


@lru_cache(maxsize=50_000)
def is_known(word: str) -> bool:
    """Tell whether the dictionary has a word or its base form."""
    return word in load().number or lemma(word) in load().number


@lru_cache(maxsize=50_000)
def is_proper(word: str) -> bool:
    """Tell whether a word is first of all a name: "paris", "microsoft", "hindu"."""
    return bool(_flags(word) & _PROPER)


# The dictionary knows them as other things first.
_KIN = word_set("mum mummy mom mommy dad daddy granny grandma grandpa hubby kid")


def is_person(word: str) -> bool:
    """Tell whether a noun means first of all a person: "wife", "manager"."""
    return word in _KIN or bool(_flags(word) & _PERSON)


@lru_cache(maxsize=20_000)
def is_place(word: str) -> bool:
    """Tell whether a word is first of all the name of a region, a town, a continent, an island."""
    if not is_proper(word):
        return False
    lexicon = load()
    senses = [sense for sense in lexicon.senses[lexicon.number[word]] if lexicon.parts[sense] == NOUN]
    return bool(senses) and bool(_ancestors(senses[0]).keys() & _places())


@cache
def _places() -> frozenset[int]:
    lexicon = load()
    return frozenset(lexicon.senses[lexicon.number[word]][0] for word in ("location", "continent", "island"))


def main_part(word: str) -> int | None:
    """Return the part of speech a base form has most often, or None for an unknown word."""
    return _flags(word) >> 6 if word in load().number else None


def can_be(word: str, part: int) -> bool:
    """Tell whether a base form can be that part of speech."""
    return bool(_flags(word) & 1 << part)


def _flags(word: str) -> int:
    at = load().number.get(word)
    return 0 if at is None else load().flags[at]


@lru_cache(maxsize=100_000)
def synonyms(one: str, two: str) -> bool:
    """Tell whether two base forms can stand for each other: one sense in common, or derived from one another."""
    if one == two:
        return True
    lexicon = load()
    first, second = lexicon.number.get(one), lexicon.number.get(two)
    if first is None or second is None:
        return False
    if second in lexicon.opposite[first]:
        return False
    if second in lexicon.related[first]:
        return True
    return bool(_near_senses(first) & _near_senses(second)) or _kin(one, two, first, second)


def _kin(one: str, two: str, first: int, second: int) -> bool:
    """Tell whether both derive from the same word, and look alike: "payment" and "payer" by "pay"."""
    if is_proper(one) and is_proper(two):
        return False  # Niger, Nigeria
    alike = min(4, len(one), len(two))
    lexicon = load()
    return one[:alike] == two[:alike] and bool(set(lexicon.related[first]) & set(lexicon.related[second]))


@lru_cache(maxsize=50_000)
def _near_senses(at: int) -> frozenset[int]:
    """The first two senses of each part of speech."""
    lexicon = load()
    seen = [0, 0, 0, 0]
    found = []
    for sense in lexicon.senses[at]:
        part = lexicon.parts[sense]
        if seen[part] < 2:
            found.append(sense)
        seen[part] += 1
    return frozenset(found)


@lru_cache(maxsize=100_000)
def opposites(one: str, two: str) -> bool:
    """Tell whether two base forms are antonyms: listed, by way of a synonym, or by a negative prefix or ending."""
    if one == two:
        return False
    if _prefixed(one, two) or _prefixed(two, one):
        return True
    if one.endswith("less") != two.endswith("less") and _suffixed(one, two):
        return True
    lexicon = load()
    plain = adjective_in(one), adjective_in(two)
    if plain != (one, two) and opposites(*plain):
        return True
    first, second = lexicon.number.get(one), lexicon.number.get(two)
    if first is None or second is None:
        return False
    if second in lexicon.opposite[first]:
        return True
    if _near_senses(first) & _near_senses(second):
        return False
    return any(found != second and _direct(found) & _heads(second) for found in lexicon.opposite[first]) or any(
        found != first and _direct(found) & _heads(first) for found in lexicon.opposite[second]
    )


@lru_cache(maxsize=20_000)
def adjective_in(word: str) -> str:
    """Return the adjective that an adverb or a comparative is made of: "manual" in "manually", "long" in "longer"."""
    made: tuple[str, ...]
    if word.endswith("ly") and main_part(word) in {ADVERB, None}:
        made = (word[:-2], word[:-2] + "le", word[:-1] + "e", word[:-3] + "y", word[:-4])
    elif word.endswith("er") and main_part(word) in {ADJECTIVE, ADVERB}:
        made = (word[:-2], word[:-1])
    else:
        return word
    known = load().number
    return next((each for each in made if len(each) > 2 and each in known and can_be(each, ADJECTIVE)), word)


def _direct(at: int) -> frozenset[int]:
    """The first sense of a word as an adjective, else as a verb."""
    lexicon = load()
    for part in (ADJECTIVE, VERB):
        for sense in lexicon.senses[at]:
            if lexicon.parts[sense] == part:
                return frozenset((sense,))
    return frozenset()


@lru_cache(maxsize=20_000)
def _heads(at: int) -> frozenset[int]:
    """The first senses of a word as an adjective or verb, and the adjectives that it is a shade of."""
    lexicon = load()
    own = [sense for sense in _near_senses(at) if lexicon.parts[sense] in {ADJECTIVE, VERB}]
    return frozenset(own) | {up for sense in own if lexicon.parts[sense] == ADJECTIVE for up in lexicon.parents[sense]}


def _prefixed(longer: str, shorter: str) -> bool:
    if len(longer) <= len(shorter) or len(shorter) < 3:
        return False
    for prefix in NEGATIVE_PREFIXES:
        if longer.startswith(prefix) and longer[len(prefix) :].lstrip("-") == shorter:
            if prefix in {"in", "im", "ir", "il"}:
                return can_be(shorter, ADJECTIVE) or can_be(shorter, ADVERB)
            return prefix != "de" or can_be(shorter, VERB)
    return False


def _suffixed(one: str, two: str) -> bool:
    bare, other = (one, two) if one.endswith("less") else (two, one)
    return other in {bare[:-4] + "ful", bare[:-4] + "y", bare[:-4] + "ed"}


@lru_cache(maxsize=100_000)
def sisters(one: str, two: str) -> bool:
    """Tell whether two base forms are different kinds of one thing: "gold" and "platinum", "dog" and "lizard".

    A kind and the thing itself ("poodle", "dog") are no sisters, and synonyms neither.
    """
    if one == two or synonyms(one, two):
        return False
    lexicon = load()
    first, second = lexicon.number.get(one), lexicon.number.get(two)
    if first is None or second is None:
        return False
    best = 0.0
    for mine in _near_senses(first):
        for theirs in _near_senses(second):
            if lexicon.parts[mine] == lexicon.parts[theirs] == NOUN:
                best = max(best, _similarity(mine, theirs))
    return best >= _SISTERS


@lru_cache(maxsize=20_000)
def _ancestors(sense: int) -> dict[int, int]:
    """Each ancestor with its distance, the sense itself at 0."""
    lexicon = load()
    found = {sense: 0}
    todo = [sense]
    while todo:
        now = todo.pop(0)
        for parent in lexicon.parents[now]:
            if parent not in found:
                found[parent] = found[now] + 1
                todo.append(parent)
    return found


@lru_cache(maxsize=50_000)
def _depth(sense: int) -> int:
    return 1 + max(_ancestors(sense).values(), default=0)


def _similarity(one: int, two: int) -> float:
    """Return Wu and Palmer's similarity of two senses, or 0 when one is a kind of the other."""
    mine, theirs = _ancestors(one), _ancestors(two)
    if one in theirs or two in mine:
        return 0.0
    shared = mine.keys() & theirs.keys()
    if not shared:
        return 0.0
    nearest = max(shared, key=lambda sense: (_depth(sense), sense))
    depth = _depth(nearest)
    return 2 * depth / (2 * depth + mine[nearest] + theirs[nearest])


@lru_cache(maxsize=50_000)
def narrower(one: str, two: str) -> bool:
    """Tell whether one base form is a kind of the other: "car" and "vehicle"."""
    lexicon = load()
    first, second = lexicon.number.get(one), lexicon.number.get(two)
    if first is None or second is None:
        return False
    return any(
        mine in _ancestors(theirs) or theirs in _ancestors(mine)
        for mine in _near_senses(first)
        for theirs in _near_senses(second)
    )


@lru_cache(maxsize=50_000)
def shades(one: str, two: str) -> bool:
    """Tell whether one adjective is a shade of the other in their first senses: "amazing" and "surprising"."""
    lexicon = load()
    first, second = lexicon.number.get(one), lexicon.number.get(two)
    if first is None or second is None or second in lexicon.opposite[first]:
        return False
    mine, theirs = _first_adjective(first), _first_adjective(second)
    if mine is None or theirs is None:
        return False
    return mine in lexicon.parents[theirs] or theirs in lexicon.parents[mine]


def _first_adjective(at: int) -> int | None:
    lexicon = load()
    return next((sense for sense in lexicon.senses[at] if lexicon.parts[sense] == ADJECTIVE), None)


@lru_cache(maxsize=50_000)
def near(one: str, two: str) -> bool:
    """Tell whether two base forms could mean the same in some place: wider than `synonyms`, never used to match off.

    A rarer sense in common, one a kind of the other, shades of one adjective, verbs of one kind.
    """
    if synonyms(one, two) or narrower(one, two):
        return True
    short, long = sorted((one, two), key=len)
    if len(short) >= 4 and long.startswith(short):
        return True  # "tech" and "technical"
    lexicon = load()
    first, second = lexicon.number.get(one), lexicon.number.get(two)
    if first is None or second is None:
        return False
    mine, theirs = set(lexicon.senses[first]), set(lexicon.senses[second])
    if mine & theirs:
        return True
    up = {parent for sense in mine if lexicon.parts[sense] != NOUN for parent in lexicon.parents[sense]}
    over = {parent for sense in theirs if lexicon.parts[sense] != NOUN for parent in lexicon.parents[sense]}
    if second in lexicon.opposite[first]:
        return False
    # Red and blue are both shades of "coloured": what hangs under one adjective may still exclude one another.
    verbs = any(lexicon.parts[sense] == VERB for sense in up & over)
    return bool(verbs or up & theirs or over & mine)
