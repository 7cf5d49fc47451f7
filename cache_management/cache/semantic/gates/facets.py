"""Everything the gates need to know of one text, read once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import msgspec

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.closed_classes import (
    AUXILIARIES,
    BE,
    CONJUNCTIONS,
    DETERMINERS,
    DOWN,
    LIGHT,
    NEGATORS,
    OWNERS,
    PREPOSITIONS,
    PRONOUNS,
    QUESTION_WORDS,
    SAYING,
    STOP,
    SUBJECTS,
    UP,
    word_set,
)
from cache_management.cache.semantic.gates.dates import Part, dates
from cache_management.cache.semantic.gates.moments import moments
from cache_management.cache.semantic.gates.numbers import Quantity, quantities
from cache_management.cache.semantic.gates.phrases import PERIODS, shortened
from cache_management.cache.semantic.gates.requests import Request, read_request
from cache_management.cache.semantic.gates.signs import Signs, signs
from cache_management.cache.semantic.gates.tokens import Kind, Token, tokens

REMEMBERED = 10_000
"""How many short texts keep their facets: a word takes a hundred bytes, so a text of the longest kind 10 kB."""
_SHORT = 400  # characters
_GRAMMAR = STOP | {"'s"}
_UNFINISHED = PREPOSITIONS | CONJUNCTIONS | DETERMINERS | QUESTION_WORDS


class Word(msgspec.Struct, frozen=True, gc=False):
    """A content word where it stands."""

    text: str
    lemma: str
    at: int  # place among all words of the text
    name: bool  # a capital inside a sentence, a proper noun of the dictionary, or not in it
    light: bool
    before: str  # the word to the left and to the right, by base form; empty at the ends
    after: str
    raw: str


class Facets(msgspec.Struct, frozen=True, gc=False):
    """One text as the gates see it. Compare two with `compare`."""

    english: bool
    lemmas: tuple[str, ...]  # every word in order, by base form
    words: tuple[Word, ...]  # the content words among them
    grammar: frozenset[str]  # the others, as they are written
    quantities: tuple[Quantity, ...]
    ids: tuple[str, ...]
    dates: tuple[Part, ...]
    negated: tuple[str, ...]  # for each negator the base form of the word it governs, or ""
    degrees: tuple[tuple[int, str], ...]  # +1 for "more", -1 for "less", and what is graded
    owners: tuple[tuple[str, str], ...]  # what is owned, and by whom: "first", "second", "third" or a name
    subjects: frozenset[str]
    aspect: str  # "habit", "becoming", "past", "future" or ""
    roles: tuple[tuple[str, str], ...]  # preposition and the content word it leads to
    agent: tuple[str, str, str] | None  # who, does, to whom: in a passive, turned round
    request: Request
    periods: frozenset[str]  # how often: "monthly"
    moments: frozenset[str]  # when, seen from now: "yesterday", "last month"
    question: str  # the one question word that opens it or closes it, or ""
    scopes: tuple[tuple[str, str], ...]  # "all", "any" or "one", and of what
    signs: Signs
    numbered: frozenset[tuple[str, str]]  # what a number stands behind, and the number: "Postgres 15"
    now: bool
    tail: frozenset[tuple[str, int]]  # words beyond the limit, with their number


def _read(text: str) -> Facets:
    found, rest = tokens(text)
    found = shortened(found)
    parts, dated = dates(found)
    undated = [_blank(token) if at in dated else token for at, token in enumerate(found)] if dated else found
    amounts, counted = quantities(undated)
    taken = dated | counted
    ids = tuple(token.text for token in found if token.kind is Kind.ID)
    shouting = _shouts(found)
    plain = [(at, token) for at, token in enumerate(found) if token.kind in {Kind.WORD, Kind.CODE} and at not in taken]
    texts = [token.text for _, token in plain]
    lemmas = [_base_form(token) for _, token in plain]
    words = _content(plain, texts, lemmas, shouting)
    content_at = {word.at: word for word in words}
    opens = frozenset(at for at, (_, token) in enumerate(plain) if token.opens)
    return Facets(
        english=_is_english(texts),
        lemmas=tuple(lemmas),
        words=tuple(words),
        grammar=frozenset(word for word in texts if word in _GRAMMAR),
        quantities=tuple(amounts),
        ids=ids,
        dates=tuple(parts),
        negated=_negated(texts, content_at, opens),
        degrees=_degrees(texts, content_at),
        owners=_owners(texts, content_at, plain),
        subjects=_subjects(texts, lemmas),
        aspect=_aspect(texts),
        roles=_roles(texts, content_at),
        agent=_agent(texts, words),
        request=read_request(texts, lemmas, [token.opens for _, token in plain], text.rstrip().endswith("?")),
        periods=frozenset(PERIODS[word] for word in texts if word in PERIODS),
        moments=moments(texts),
        question=_question(texts),
        scopes=_scopes(texts, content_at),
        signs=signs(text),
        numbered=_numbered(found),
        now=_depends_on_now(texts),
        tail=_tail(rest),
    )


remembered = lru_cache(maxsize=REMEMBERED)(_read)


def facets(text: str) -> Facets:
    """Read a text; what a short one says is remembered."""
    return remembered(text) if len(text) <= _SHORT else _read(text)


def _base_form(token: Token) -> str:
    word = token.text
    if word in _GRAMMAR:
        return "a" if word == "an" else word
    if len(word) > 2 and token.raw[-1] == "s" and token.raw[:-1].isupper():
        return word[:-1]  # "APIs"
    return lexicon.lemma(word)


def _numbered(found: Sequence[Token]) -> frozenset[tuple[str, str]]:
    return frozenset(
        (before.text, token.text)
        for before, token in pairwise(found)
        if token.kind is Kind.NUMBER and before.kind is Kind.WORD and before.text not in _GRAMMAR
    )


def _blank(token: Token) -> Token:
    return Token("", "", Kind.MARK, False) if token.kind is Kind.NUMBER else token


def _shouts(found: Sequence[Token]) -> bool:
    """Tell whether capitals say nothing here: a headline, or all of it in capitals."""
    inner = [token.raw for token in found if token.kind is Kind.WORD and not token.opens and len(token.raw) > 3]
    return len(inner) > 2 and sum(raw[0].isupper() for raw in inner) > 0.7 * len(inner)


def _is_english(texts: Sequence[str]) -> bool:
    """Tell whether the word lists can be trusted here: half the words are in them."""
    if not texts:
        return True
    known = sum(word in _GRAMMAR or (word.isascii() and lexicon.is_known(word)) for word in texts)
    return 2 * known >= len(texts)


def _content(
    plain: Sequence[tuple[int, Token]], texts: Sequence[str], lemmas: Sequence[str], shouting: bool
) -> list[Word]:
    out = []
    last = len(texts) - 1
    for at, (_, token) in enumerate(plain):
        word = token.text
        capital = token.raw[0].isupper() and not token.opens
        if word in _GRAMMAR and not (capital and len(word) == 1 and word not in {"i"} and not shouting):
            continue
        lemma = lemmas[at]
        name = (capital and not shouting) or token.kind is Kind.CODE
        if not name:
            name = lexicon.is_proper(word) or (len(word) > 1 and not lexicon.is_known(word))
        out.append(
            Word(
                word,
                lemma,
                at,
                name,
                (lemma in LIGHT or word in LIGHT) and (shouting or not capital),
                lemmas[at - 1] if at else "",
                lemmas[at + 1] if at < last else "",
                token.raw,
            )
        )
    return out


def _next_content(
    at: int, texts: Sequence[str], content_at: dict[int, Word], reach: int = 4, opens: frozenset[int] = frozenset()
) -> Word | None:
    for near in range(at + 1, min(at + 1 + reach, len(texts))):
        if near in opens:
            return None
        if near in content_at:
            return content_at[near]
    return None


def _subjects(texts: Sequence[str], lemmas: Sequence[str]) -> frozenset[str]:
    """Read who acts: I, you, they; "my wife" before an act is one of them."""
    found = {SUBJECTS[word] for word in texts if word in SUBJECTS}
    for at in range(1, len(texts) - 1):
        if texts[at - 1] in OWNERS and lexicon.is_person(lemmas[at]) and texts[at + 1] not in {"'s", "and"}:
            before = texts[at - 2] if at > 1 else ""
            if before in AUXILIARIES or not before:
                found.add("third")
    return frozenset(found)


def _negated(texts: Sequence[str], content_at: dict[int, Word], opens: frozenset[int]) -> tuple[str, ...]:
    out = []
    for at, word in enumerate(texts):
        if word in NEGATORS:
            if at + 1 == len(texts) or at + 1 in opens:
                continue  # "or not?", "why not?"
            if word == "not" and at + 1 < len(texts) and texts[at + 1] in {"only", "just"}:
                continue  # "not only" adds
            if word == "no" and at and texts[at - 1] in SAYING:
                continue
            if _is_tag(texts, at, opens):
                continue
            governed = _next_content(at, texts, content_at, opens=opens)
            if governed is not None and governed.lemma in _HAVING:  # "not get worked by squats", "not contain gluten"
                governed = _next_content(governed.at, texts, content_at, 3, opens) or governed
            if word == "without" and governed is not None and governed.lemma in out:
                continue  # said twice it is not turned twice
            # "What should I not do": where no content word follows, the next word is governed.
            out.append(governed.lemma if governed is not None else texts[at + 1])
        elif word in _CEASING and texts[at + 1 : at + 2] and texts[at + 1].endswith("ing"):
            stopped = _next_content(at, texts, content_at, 1, opens)
            if stopped is not None:
                out.append(stopped.lemma)  # "stop taking it"
    return tuple(out)


_HAVING = word_set("get do make have go contain include involve require")
_CEASING = word_set("stop stops stopped stopping quit quits quitting cease ceases ceased")


def _is_tag(texts: Sequence[str], at: int, opens: frozenset[int]) -> bool:
    """Tell whether a negator only asks for agreement: "it is safe, isn't it?"."""
    last = at + 2 == len(texts) or at + 2 in opens
    return last and at > 2 and texts[at - 1] in AUXILIARIES and texts[at + 1] in PRONOUNS


def _is_compared(word: Word) -> bool:
    return word.text != word.lemma and lexicon.can_be(word.lemma, lexicon.ADJECTIVE)


def _degrees(texts: Sequence[str], content_at: dict[int, Word]) -> tuple[tuple[int, str], ...]:
    out = []
    for at, word in enumerate(texts):
        sign = 1 if word in UP else -1 if word in DOWN else 0
        if sign:
            graded = _next_content(at, texts, content_at, 2)
            out.append((sign, graded.lemma if graded else ""))
        elif word.endswith(("er", "est")) and at in content_at and _is_compared(content_at[at]):
            out.append((1, content_at[at].lemma))
    return tuple(out)


def _owners(
    texts: Sequence[str], content_at: dict[int, Word], plain: Sequence[tuple[int, Token]]
) -> tuple[tuple[str, str], ...]:
    out: list[tuple[str, str]] = []
    for at, word in enumerate(texts):
        owner = ""
        if word in OWNERS:
            owner = OWNERS[word]
        elif word == "'s" and at and (at - 1) in content_at:
            holder = content_at[at - 1]
            if holder.name or lexicon.is_person(holder.lemma):
                owner = holder.lemma
        if not owner:
            continue
        owned = _next_content(at, texts, content_at, 1)
        if owned is None:
            continue
        if owned.at + 1 < len(texts) and texts[owned.at + 1] == "'s":
            continue  # "my wife's card" is hers
        # The head of "checking account balance" is its last noun.
        head = owned
        while head.at + 1 in content_at and lexicon.can_be(content_at[head.at + 1].lemma, lexicon.NOUN):
            head = content_at[head.at + 1]
            if head.at - owned.at >= 3:
                break
        out.extend((lemma, owner) for lemma in {owned.lemma, head.lemma})
    return tuple(sorted(out))


def _aspect(texts: Sequence[str]) -> str:
    for at, word in enumerate(texts[:-1]):
        follows = texts[at + 1]
        if word in {"use", "used"} and follows == "to" and at:
            before = texts[at - 1]
            if before in BE or before in {"get", "got", "getting", "become", "can", "be"}:
                continue
            if word == "used" or "did" in texts[:at]:
                return "habit"
        if word == "no" and follows == "longer":
            return "habit"
        if word in {"formerly", "previously"}:
            return "habit"
    for word in texts:
        if word in {"become", "becoming", "became", "becomes"}:
            return "becoming"
    if any(word in {"was", "were", "did"} for word in texts):
        return "past"
    if "will" in texts:
        return "future"
    return ""


def _is_infinitive(at: int, texts: Sequence[str], content_at: dict[int, Word]) -> bool:
    """Tell "to visit Japan" from "to Japan" and "to work in"."""
    verb = content_at.get(at + 1)
    if verb is None or verb.name or verb.text != verb.lemma or not lexicon.can_be(verb.lemma, lexicon.VERB):
        return False
    return at + 2 in content_at or (at + 2 < len(texts) and texts[at + 2] in DETERMINERS | OWNERS.keys())


def _roles(texts: Sequence[str], content_at: dict[int, Word]) -> tuple[tuple[str, str], ...]:
    out = []
    for at, word in enumerate(texts):
        if word in {"from", "to", "into", "than", "over", "before", "after", "against", "without", "instead", "by"}:
            if word in {"to", "from"} and texts[at + 1 : at + 2] and texts[at + 1] in {"me", "us", "you"}:
                out.append((word, texts[at + 1]))
                continue
            if texts[at + 1 : at + 2] and texts[at + 1] in QUESTION_WORDS:
                continue  # "from whom"
            led = _next_content(at, texts, content_at, 3)
            if led and not (word == "to" and _is_infinitive(at, texts, content_at)):
                out.append((word, led.lemma))
    return tuple(out)


_HANDING = word_set("give tell ask show help teach")


def _tells_when(lemma: str) -> bool:
    """Tell whether a word may stand before a verb without a part in what is done: "last", "often"."""
    return lexicon.can_be(lemma, lexicon.ADVERB) and lexicon.main_part(lemma) != lexicon.NOUN


def _agent(texts: Sequence[str], words: Sequence[Word]) -> tuple[str, str, str] | None:
    """Read who does what to whom, where a verb stands between two words that can be people or things."""
    solid = [
        word
        for word in words
        if (not word.light or word.lemma in _HANDING) and (word.name or not _tells_when(word.lemma))
    ]
    if len(solid) < 3:
        return None
    passive = "by" in texts and any(word in BE for word in texts)
    for at in range(1, len(solid) - 1):
        verb = solid[at]
        if verb.name or not lexicon.can_be(verb.lemma, lexicon.VERB):
            continue
        before, after = solid[at - 1], solid[at + 1]
        if (before.name or lexicon.main_part(before.lemma) == lexicon.NOUN) and (
            after.name or lexicon.main_part(after.lemma) == lexicon.NOUN
        ):
            between = texts[verb.at + 1 : after.at]
            if passive and "by" in between:
                return after.lemma, verb.lemma, before.lemma
            if passive and PREPOSITIONS.intersection(between):
                return None  # "offered at the school": nobody is said to offer
            return before.lemma, verb.lemma, after.lemma
    return None


def _question(texts: Sequence[str]) -> str:
    """Return the only question word of a text; "how many" and "what time" ask for what follows them: they are none."""
    found = [at for at, word in enumerate(texts) if word in QUESTION_WORDS]
    if len(found) != 1:
        return ""
    at = found[0]
    if texts[at] == "what" and at == 0 and texts[1:2] in (["is"], ["are"]):
        return "" if (PREPOSITIONS | PRONOUNS | OWNERS.keys()).intersection(texts) else "what is"
    if texts[at] not in {"where", "when", "who", "why", "how"}:
        return ""
    after = texts[at + 1] if at + 1 < len(texts) else ""
    if texts[at] == "how" and after not in AUXILIARIES and after not in PRONOUNS and after != "to":
        return ""
    return texts[at]


_ALL = word_set("all every entire whole each")
_ONE = word_set("one single individual")


def _scopes(texts: Sequence[str], content_at: dict[int, Word]) -> tuple[tuple[str, str], ...]:
    out = []
    for at, word in enumerate(texts):
        scope = "all" if word in _ALL else "one" if word in _ONE else "any" if word == "any" else ""
        if scope:
            of = _next_content(at, texts, content_at, 3)
            if of is not None:
                out.append((scope, of.lemma))
    return tuple(out)


_SPANS = word_set("week weekend month year quarter season morning afternoon evening night hour minute")
_FEEDS = word_set("price prices score scores rate rates status traffic feed update updates quote quotes data")
_MARKETS = word_set("stock share market exchange spot")


def _depends_on_now(texts: Sequence[str]) -> bool:
    last = len(texts) - 1
    for at, word in enumerate(texts):
        after = texts[at + 1] if at < last else ""
        before = texts[at - 1] if at else ""
        if word in {"currently", "latest", "tonight", "tomorrow", "yesterday", "upcoming", "newest"}:
            return True
        if word == "current" and after not in {"account", "accounts", "affairs"}:
            return True
        if word == "today" and after != "'s":
            return True
        if word == "today" and after == "'s" and at + 2 <= last and texts[at + 2] not in _ERAS:
            return True
        if word == "now" and (before in {"right", "just", "of", "until"} or at == last):
            return True
        if word == "moment" and before in {"the", "this"}:
            return True
        if word in _SPANS and before in {"this", "last", "next", "past"}:
            return True
        if word in {"weather", "forecast"} and (before in {"the", "s"} or after in {"in", "like", "for", "forecast"}):
            return True
        if word == "live" and after in _FEEDS:
            return True
        if word == "recent" and before == "most":
            return True
        if word in {"price", "prices"} and before in _MARKETS:
            return True
        if word == "time" and before == "what" and after in {"is", "in"}:
            return True
        if word in {"day", "date", "year", "month"} and before == "what" and texts[at + 1 : at + 3] == ["is", "it"]:
            return True
    return False


_ERAS = word_set("world age society generation era time times day youth")


def _tail(rest: str) -> frozenset[tuple[str, int]]:
    counts: dict[str, int] = {}
    for word in rest.lower().split():
        bare = word.strip(".,;:!?()\"'")
        counts[bare] = counts.get(bare, 0) + 1
    return frozenset(counts.items())
