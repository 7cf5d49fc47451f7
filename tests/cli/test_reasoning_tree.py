from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cache_management.cache.reasoning.result import CoTStep, ReasoningResult
from cache_management.cli.reasoning_tree import ASCII, BOXES, draw, signs_for
from tests.cache.reasoning.results import node, results, small_tree, tree


def drawn(result: ReasoningResult, **options: object) -> list[str]:
    return [line.text for line in draw(result, **options)]  # type: ignore[arg-type]


def test_a_tree_shows_scores_the_best_way_and_what_was_not_expanded() -> None:
    assert drawn(small_tree()) == [
        "└── * thought root (score: 0.00)",
        "    ├── * thought a (score: 0.40)",
        "    │   ├── * thought a1 (score: 0.90)",
        "    │   └── thought a2 (score: -)",
        "    └── thought b (score: 0.70)",
        "        └── b1 (not expanded)",
    ]
    assert [line.is_best for line in draw(small_tree())] == [True, True, True, False, False, False]


def test_a_chain_is_a_numbered_list() -> None:
    steps = [
        CoTStep(step_number=1, thought="look", confidence=0.9, rationale="to see"),
        CoTStep(step_number=2, thought="leap"),
    ]
    chain = ReasoningResult(reasoning_type="cot", problem="p", steps=steps)

    assert drawn(chain) == ["1. look (confidence: 0.90)", "     to see", "2. leap (confidence: -)"]


def test_several_roots_are_a_forest() -> None:
    assert drawn(tree(node("a"), node("b")), signs=ASCII) == ["|-- thought a (score: -)", "`-- thought b (score: -)"]


def test_what_is_left_out_is_counted() -> None:
    assert drawn(small_tree(), max_depth=1) == [
        "└── * thought root (score: 0.00)",
        "    ├── * thought a (score: 0.40)",
        "    │   └── … 2 more",
        "    └── thought b (score: 0.70)",
    ]
    assert drawn(small_tree(), min_score=0.8) == [
        "└── * thought root (score: 0.00)",
        "    ├── * thought a (score: 0.40)",
        "    │   ├── * thought a1 (score: 0.90)",
        "    │   └── thought a2 (score: -)",
        "    └── … 1 more",
    ]


def test_long_thoughts_are_wrapped_under_their_own_branch() -> None:
    lines = drawn(tree(node("r", thought="word " * 20), node("a", "r", thought="漢字" * 30)), width=40)

    assert all(cell_len(line) <= 40 for line in lines)
    assert lines[0].startswith("└── word")
    assert lines[1].startswith("    word")
    assert any(line.startswith("        漢字") for line in lines)


def test_control_characters_are_escaped() -> None:
    (line,) = drawn(tree(node("r", thought="a\x1b[31m\u202eb\nc\td")))

    assert line == "└── a\\x1b[31m\\u202eb c d (score: -)"


@given(results(), st.integers(1, 200), st.none() | st.integers(0, 3), st.none() | st.floats(0, 1))
def test_any_result_is_drawn(
    result: ReasoningResult, width: int, max_depth: int | None, min_score: float | None
) -> None:
    for line in drawn(result, width=width, max_depth=max_depth, min_score=min_score):
        assert line.isprintable()


def test_what_a_terminal_cannot_encode_is_drawn_in_ascii() -> None:
    assert signs_for("utf-8") is BOXES
    assert signs_for("ascii") is signs_for("latin-1") is signs_for(None) is signs_for("nonsense") is ASCII


def test_large_and_deep_trees_are_drawn_in_a_moment() -> None:
    count = 10_000
    deep = tree(node("0"), *(node(str(at), str(at - 1), 0.5) for at in range(1, count)))
    wide = tree(
        node("0"),
        *(node(str(at), str(at % 100), 0.5) for at in range(100, count)),
        *(node(str(at), "0") for at in range(1, 100)),
    )

    began = time.perf_counter()
    assert "… 9984 more" in drawn(deep)[-1]
    assert len(drawn(wide)) == count
    assert time.perf_counter() - began < 60  # not quadratic: that would take hours
