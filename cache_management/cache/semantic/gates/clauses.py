"""Reads the grammar of one text: what is denied, graded, owned, who does what to whom, and what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cache_management.cache.semantic.gates import lexicon
from cache_management.cache.semantic.gates.closed_classes import (
    AUXILIARIES,
    BE,
    DETERMINERS,
    DOWN,
    NEGATORS,
    NO,
    OWNERS,
    POLITE,
    PREPOSITIONS,
    PRONOUNS,
    QUESTION_WORDS,
    SAYING,
    SUBJECTS,
    UP,
    YES,
    word_set,
)
from cache_management.cache.semantic.gates.tokens import Token
from cache_management.cache.semantic.gates.words import Word, next_content


def read_subjects(texts: Sequence[str], lemmas: Sequence[str]) -> frozenset[str]:
    """Read who acts: I, you, they; "my wife" before an act is one of them."""
    found = {SUBJECTS[word] for word in texts if word in SUBJECTS}
    for at in range(1, len(texts) - 1):
        if texts[at - 1] in OWNERS and lexicon.is_person(lemmas[at]) and texts[at + 1] not in {"'s", "and"}:
            before = texts[at - 2] if at > 1 else ""
            if before in AUXILIARIES or not before:
                found.add("third")
    return frozenset(found)


def read_negated(texts: Sequence[str], content_at: Mapping[int, Word], opens: frozenset[int]) -> tuple[str, ...]:
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
            governed = next_content(at, texts, content_at, opens=opens)
            if governed is not None and governed.lemma in _HAVING:  # "not get worked by squats", "not contain gluten"
                governed = next_content(governed.at, texts, content_at, 3, opens) or governed
            if word == "without" and governed is not None and governed.lemma in out:
                continue  # said twice it is not turned twice
            # "What should I not do": where no content word follows, the next word is governed.
            out.append(governed.lemma if governed is not None else texts[at + 1])
        elif word in _CEASING and texts[at + 1 : at + 2] and texts[at + 1].endswith("ing"):
            stopped = next_content(at, texts, content_at, 1, opens)
            if stopped is not None:
                out.append(stopped.lemma)  # "stop taking it"
    return tuple(out)


def read_reply(texts: Sequence[str]) -> str:
    """Return "yes" or "no" where a text has one of them, as in "click no"; of "yes or no" neither."""
    yes, no = not YES.isdisjoint(texts), not NO.isdisjoint(texts)
    return "" if yes is no else "yes" if yes else "no"


def read_anew(texts: Sequence[str], lemmas: Sequence[str]) -> bool:
    """Tell whether a text asks for something else than was given: "tell me another joke", "give me one more"."""
    for at, word in enumerate(texts[:_OPENING]):
        before, after = texts[at - 1] if at else "", at + 1 < len(texts) and texts[at + 1]
        if (
            word == "another"
            or (word == "different" and before in {"a", "some"})
            or (word == "more" and (before == "one" or (after and after != lemmas[at + 1] and after.endswith("s"))))
            or (word == "other" and after and after != lemmas[at + 1])
        ):
            verbs = [lemma for lemma in lemmas[:at] if lemma not in _ASKING_FOR]
            orders = texts[0] not in AUXILIARIES or (not verbs and texts[0] in _MAY) or "you" in texts[1:2]
            return orders and len(verbs) <= 1 and all(lexicon.can_be(verb, lexicon.VERB) for verb in verbs)
    return False


_OPENING = 9
_MAY = word_set("can could may")
_ASKING_FOR = POLITE | PRONOUNS | AUXILIARIES | word_set("want need like give get hear to for a some two three few")


_HAVING = word_set("get do make have go contain include involve require")


_CEASING = word_set("stop stops stopped stopping quit quits quitting cease ceases ceased")


def _is_tag(texts: Sequence[str], at: int, opens: frozenset[int]) -> bool:
    """Tell whether a negator only asks for agreement: "it is safe, isn't it?"."""
    last = at + 2 == len(texts) or at + 2 in opens
    return last and at > 2 and texts[at - 1] in AUXILIARIES and texts[at + 1] in PRONOUNS


def _is_compared(word: Word) -> bool:
    if word.text == word.lemma:  # the dictionary has "faster" and "longer" as words of their own
        return word.text.endswith("er") and lexicon.adjective_in(word.text) != word.text
    return lexicon.can_be(word.lemma, lexicon.ADJECTIVE)


def read_degrees(texts: Sequence[str], content_at: Mapping[int, Word]) -> tuple[tuple[int, str], ...]:
    out = []
    for at, word in enumerate(texts):
        sign = 1 if word in UP else -1 if word in DOWN else 0
        if sign:
            graded = next_content(at, texts, content_at, 2)
            out.append((sign, graded.lemma if graded else ""))
        elif word.endswith(("er", "est")) and at in content_at and _is_compared(content_at[at]):
            out.append((1, content_at[at].lemma))
    return tuple(out)


def read_owners(
    texts: Sequence[str], content_at: Mapping[int, Word], plain: Sequence[tuple[int, Token]]
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
        owned = next_content(at, texts, content_at, 1)
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


def read_aspect(texts: Sequence[str]) -> str:
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


def _is_infinitive(at: int, texts: Sequence[str], content_at: Mapping[int, Word]) -> bool:
    """Tell "to visit Japan" from "to Japan" and "to work in"."""
    verb = content_at.get(at + 1)
    if verb is None or verb.name or verb.text != verb.lemma or not lexicon.can_be(verb.lemma, lexicon.VERB):
        return False
    return at + 2 in content_at or (at + 2 < len(texts) and texts[at + 2] in DETERMINERS | OWNERS.keys())


def read_roles(texts: Sequence[str], content_at: Mapping[int, Word]) -> tuple[tuple[str, str], ...]:
    out = []
    for at, word in enumerate(texts):
        if word in {"from", "to", "into", "than", "over", "before", "after", "against", "without", "instead", "by"}:
            if word in {"to", "from"} and texts[at + 1 : at + 2] and texts[at + 1] in {"me", "us", "you"}:
                out.append((word, texts[at + 1]))
                continue
            if texts[at + 1 : at + 2] and texts[at + 1] in QUESTION_WORDS:
                continue  # "from whom"
            led = next_content(at, texts, content_at, 3)
            if led and not (word == "to" and _is_infinitive(at, texts, content_at)):
                out.append((word, led.lemma))
    return tuple(out)


_HANDING = word_set("give tell ask show help teach")


def _tells_when(lemma: str) -> bool:
    """Tell whether a word may stand before a verb without a part in what is done: "last", "often"."""
    return lexicon.can_be(lemma, lexicon.ADVERB) and lexicon.main_part(lemma) != lexicon.NOUN


def read_agent(texts: Sequence[str], words: Sequence[Word]) -> tuple[str, str, str] | None:
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


def read_question(texts: Sequence[str]) -> str:
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


def read_scopes(texts: Sequence[str], content_at: Mapping[int, Word]) -> tuple[tuple[str, str], ...]:
    out = []
    for at, word in enumerate(texts):
        scope = "all" if word in _ALL else "one" if word in _ONE else "any" if word == "any" else ""
        if scope:
            of = next_content(at, texts, content_at, 3)
            if of is not None:
                out.append((scope, of.lemma))
    return tuple(out)
