from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.errors import CorruptRecord, InvalidEntry
from cache_management.cache.reasoning.book import ROOT, Book, Branch
from cache_management.cache.reasoning.book_codec import decode_book, encode_book
from cache_management.cache.reasoning.result import ReasoningResult
from cache_management.cache.reasoning.step_identity import conditions, conditions_of
from cache_management.cache.reasoning.step_store import restored, write_metadata
from cache_management.cache.reasoning.validation import check
from tests.cache.reasoning.results import chain, node, results, small_tree, tree

LIMIT = 2**24
UNDER = conditions()


def put(book: Book, key: str, result: ReasoningResult, expires_at: float | None = None) -> None:
    book.put(
        key,
        result,
        conditions_of(result),
        metadata=write_metadata(result.metadata),
        step_metadata=lambda each: write_metadata(each.metadata),
        created_at=1.0,
        expires_at=expires_at,
    )


def again(book: Book) -> Book:
    return decode_book(encode_book(book, limit_bytes=LIMIT), namespace=book.namespace, limit_bytes=LIMIT)


def read(book: Book, key: str) -> ReasoningResult | None:
    stored = book.result_of(key)
    return None if stored is None else restored(book, stored)


@given(st.lists(results(), max_size=4))
def test_any_results_come_back_equal(given_: list[ReasoningResult]) -> None:
    book = Book("a problem", "n")
    for at, result in enumerate(given_):
        put(book, str(at), result)

    decoded = again(book)

    for at, result in enumerate(given_):
        assert read(decoded, str(at)) == result
        found = read(decoded, str(at))
        assert found is not None
        assert found.model_dump_json() == result.model_dump_json()


@given(st.lists(results(), min_size=2, max_size=4), st.data())
def test_removing_some_changes_nothing_of_the_others(given_: list[ReasoningResult], data: st.DataObject) -> None:
    book = Book("a problem", "n")
    for at, result in enumerate(given_):
        put(book, str(at), result)
    gone = data.draw(st.sets(st.integers(0, len(given_) - 1)))

    for at in gone:
        book.remove(str(at))
    book.compact(now=2.0)
    decoded = again(book)

    for at, result in enumerate(given_):
        assert read(decoded, str(at)) == (None if at in gone else result)
    if len(gone) == len(given_):
        assert decoded.is_empty()
        assert decoded.texts == []


@given(st.lists(results(), min_size=1, max_size=3), st.data())
def test_pruning_a_step_leaves_what_does_not_run_through_it_and_whole_trees(
    given_: list[ReasoningResult], data: st.DataObject
) -> None:
    book = Book("a problem", "n")
    for at, result in enumerate(given_):
        put(book, str(at), result)
    branch = data.draw(st.integers(0, len(book.branches) - 1))
    if len(book.branches[branch].parents) == 1:
        return
    victim = data.draw(st.integers(1, len(book.branches[branch].parents) - 1))
    gone = set(book.branches[branch].below(victim))
    hit = {r.key for r in book.results if r.branch == branch and gone & set(r.nodes)}

    count, keys = book.prune(branch, victim)
    book.compact(now=2.0)
    decoded = again(book)

    assert count == len(gone)
    assert set(keys) <= hit
    for at, result in enumerate(given_):
        found = read(decoded, str(at))
        if str(at) not in hit:
            assert found == result
        elif found is not None:
            assert check(found).result == found
            assert {each.node_id for each in found.nodes} < {each.node_id for each in result.nodes}
        else:
            assert str(at) in keys


@given(results(), st.data())
def test_a_changed_byte_is_no_other_book(result: ReasoningResult, data: st.DataObject) -> None:
    """The frame around it has a checksum; without it, damage still leads to no crash and no endless walk."""
    book = Book("a problem", "n")
    put(book, "k", result)
    encoded = bytearray(encode_book(book, limit_bytes=LIMIT))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))

    try:
        decoded = decode_book(bytes(encoded), namespace="n", limit_bytes=LIMIT)
        stored = decoded.result_of("k")
        if stored is not None:
            restored(decoded, stored)
        for branch in range(len(decoded.branches)):
            decoded.ids(branch)
            list(decoded.branches[branch].below(ROOT))
    except CorruptRecord:
        pass


def test_equal_beginnings_are_kept_once() -> None:
    book = Book("a problem", "n")
    put(book, "1", chain("a", "b", "c"))
    put(book, "2", chain("a", "b", "d"))
    put(book, "3", chain(" a", "b\n", "c"))

    assert len(book.branches[0].parents) - 1 == 4
    assert read(book, "3") == chain(" a", "b\n", "c"), "and told as they were written"


def test_other_conditions_share_no_step() -> None:
    book = Book("a problem", "n")
    put(book, "1", chain("a", "b", model="m"))
    put(book, "2", chain("a", "b", model="other"))
    put(book, "3", chain("a", "b", model="m", temperature=0.5))

    assert len(book.branches) == 3
    ids = [set(book.ids(branch)) for branch in range(3)]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert book.texts.count("a") == 1


def test_results_past_their_time_go_with_the_steps_that_nothing_else_runs_through() -> None:
    book = Book("a problem", "n")
    put(book, "short", chain("a", "b"), expires_at=10.0)
    put(book, "long", chain("a", "c"), expires_at=20.0)

    book.compact(now=10.0)

    assert (read(book, "short"), read(book, "long")) == (None, chain("a", "c"))
    assert len(book.branches[0].parents) - 1 == 2
    assert book.expires_at() == 20.0
    book.compact(now=20.0)
    assert book.is_empty()


def test_a_wrong_step_breaks_a_chain_and_cuts_a_tree() -> None:
    book = Book("a problem", "n")
    put(book, "chain", chain("a", "b"))
    forest = tree(
        node("r", thought="a", children_ids=["x", "y"], depth=0),
        node("x", "r", thought="b", depth=1),
        node("y", "r", thought="c", depth=1),
    )
    put(book, "tree", forest)
    for branch in range(2):
        a = book.child(branch, ROOT, "a")
        assert a is not None
        b = book.child(branch, a, "b")
        assert b is not None
        book.branches[branch].wrong[b] = "it is wrong"

    decoded = again(book)

    assert read(decoded, "chain") is None
    found = read(decoded, "tree")
    assert found is not None
    assert [each.node_id for each in found.nodes] == ["r", "y"]
    assert found.nodes[0].children_ids == ["y"]


@pytest.mark.parametrize("how", ["mark", "prune"])
def test_a_tree_that_loses_its_best_leaf_loses_its_answer(how: str) -> None:
    book = Book("a problem", "n")
    put(book, "t", small_tree())
    root = book.child(0, ROOT, "thought root")
    assert root is not None
    a, b = book.child(0, root, "thought a"), book.child(0, root, "thought b")
    assert a is not None
    assert b is not None

    def lose(node: int) -> None:
        if how == "prune":
            book.prune(0, node)
        else:
            book.branches[0].wrong[node] = "it is wrong"

    lose(b)
    found = read(again(book), "t")
    assert found is not None
    assert found.final_answer == "a1"
    lose(a if how == "mark" else book.child(0, root, "thought a") or 0)
    found = read(again(book), "t")
    assert found is not None
    assert found.final_answer is None


def test_a_book_that_is_too_large_is_refused() -> None:
    book = Book("a problem", "n")
    put(book, "1", chain("x" * 1000))

    with pytest.raises(InvalidEntry, match="max_entry_bytes"):
        encode_book(book, limit_bytes=500)


@pytest.mark.parametrize("value", [b"", b"\x01", b"\x01\x00", b"garbage", msgspec.msgpack.encode([9, "p", [], [], []])])
def test_what_is_no_book_is_told(value: bytes) -> None:
    with pytest.raises(CorruptRecord):
        decode_book(value, namespace="n", limit_bytes=LIMIT)


def test_a_book_that_would_grow_too_large_is_not_unpacked() -> None:
    book = Book("a problem", "n")
    put(book, "1", chain("x" * 100_000))

    with pytest.raises(CorruptRecord, match="declares"):
        decode_book(encode_book(book, limit_bytes=LIMIT), namespace="n", limit_bytes=1000)


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=20),
    st.sets(st.integers(1, 20)),
    st.sets(st.integers(0, 20)),
    st.lists(st.integers(0, 10**6), max_size=20),
)
def test_many_nodes_are_served_as_each_is(
    parents: list[int], wrong: set[int], hidden: set[int], asked: list[int]
) -> None:
    branch = Branch(UNDER)
    for at, parent in enumerate(parents):
        branch.add(parent % (at + 1), 0)
    branch.wrong, branch.hidden = dict.fromkeys(wrong & set(range(len(branch.parents))), "wrong"), hidden
    nodes = [each % len(branch.parents) for each in asked]

    assert branch.served(nodes) == [branch.is_served(node) for node in nodes]


def test_threads_that_look_at_one_book_see_the_same_names() -> None:
    book = Book("a problem", "default")
    put(book, "k", chain(*(f"step {at}" for at in range(2000))))
    expected = book.ids(0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            for _ in range(10):
                again_ = again(book)
                found = [threads.submit(again_.ids, 0) for _ in range(4)]
                assert all(each.result() == expected for each in found)
                assert again_.ids(0) == expected
    finally:
        sys.setswitchinterval(before)
