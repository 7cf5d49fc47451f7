"""set-reasoning, get-reasoning and reasoning list, diff, prune, stats."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
import yaml

from cache_management import ReasoningCache, ReasoningResult
from cache_management.settings import load_settings
from tests.cache.reasoning.results import chain, small_tree
from tests.cli.conftest import Cli

TREE = small_tree()
NODES = json.dumps(TREE.model_dump(mode="json")["steps"])


def test_the_example_of_the_manual(cli: Cli) -> None:
    stored = cli("set-reasoning", "cot", "Solve 2+2", '[{"step":1,"text":"Add numbers"}]', "-a", "4")
    shown = cli("get-reasoning", "Solve 2+2")

    assert (stored.code, stored.out) == (0, "Stored 1 step in namespace default.\n")
    assert shown.out.splitlines() == ["Problem: Solve 2+2", "1. Add numbers (confidence: -)", "Answer: 4"]


def test_a_tree_is_drawn_and_printed_whole(cli: Cli) -> None:
    stored = cli("set-reasoning", "tot", "a problem", NODES, "-a", "a1", "--json")
    drawn = cli("get-reasoning", "a problem", "-f", "tree")
    as_json = cli("get-reasoning", "a problem", "-f", "json")
    as_yaml = cli("get-reasoning", "a problem", "--format", "yaml")

    assert (stored.data["steps"], [each["rule"] for each in stored.data["warnings"]]) == (5, ["unexpanded"])
    assert "was not expanded" in stored.err
    assert "    ├── * thought a (score: 0.40)" in drawn.out.splitlines()
    assert "        └── b1 (not expanded)" in drawn.out.splitlines()
    assert ReasoningResult.model_validate(as_json.data) == TREE
    assert ReasoningResult.model_validate(yaml.safe_load(as_yaml.out)) == TREE
    assert "… 4 more" in cli("get-reasoning", "a problem", "--max-depth", 0).out
    assert "… 1 more" in cli("get-reasoning", "a problem", "--min-score", 0.8).out


def test_what_an_app_stored_is_found_by_problem_and_by_key(cli: Cli) -> None:
    async def store() -> None:
        async with ReasoningCache(load_settings().settings) as cache:
            await cache.set("key 1", chain("a", "b", model="m"))
            await cache.set("key 2", chain("a", "c", model="n"))

    asyncio.run(store())

    newest = cli("get-reasoning", "a problem")
    assert "2. c" in newest.out
    assert "newest of 2 results" in newest.err
    assert "2. b" in cli("get-reasoning", "a problem", "--model", "m").out
    assert "2. b" in cli("get-reasoning", "key 1").out
    assert len(cli("get-reasoning", "a problem", "--all", "--json").data) == 2
    assert cli("reasoning", "list").out.splitlines() == ["key 1", "key 2"]
    assert cli("reasoning", "list", "-p", "*1", "--json").data == ["key 1"]


def test_steps_come_from_a_file_or_a_pipe(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "steps.json"
    file.write_text('["look", "leap"]')
    monkeypatch.setattr("sys.stdin", io.StringIO('["listen"]'))

    assert cli("set-reasoning", "cot", "from a file", f"@{file}", "--key", "k", "-m", "m", "--tag", "t").code == 0
    assert cli("set-reasoning", "cot", "from a pipe", "-").code == 0
    assert "2. leap" in cli("get-reasoning", "k").out
    assert "1. listen" in cli("get-reasoning", "from a pipe").out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("cot", "p", "nonsense"), "STEPS_JSON is no JSON"),
        (("cot", "p", '{"a": 1}'), "steps must be a list"),
        (("cot", "p", "@nowhere.json"), "nowhere.json cannot be read"),
        (("cot", " ", '["a"]'), "problem: it is empty"),
        (
            ("cot", "p", '[{"step": 1, "text": "a"}, {"step": 1, "text": "b"}]'),
            "steps[1].step_number: 1 is that of steps[0]",
        ),
        (("tot", "p", '[{"id": "a", "parent": "b", "text": "x"}]'), "there is no node 'b'"),
        (("tot", "p", '[{"id": "a", "text": "x", "score": 2}]'), "2 is not from 0 to 1"),
        (("cot", "p", "null"), "steps must be a list"),
        (("cot", "p", '[{"step": 1, "step": 2, "text": "a"}]'), "'step' stands twice"),
        (("cot", "p", '[{"step": true, "text": "a"}]'), "steps[0].step_number: Input should be a valid integer"),
        (("cot", "p", '[{"step": 1, "text": "a", "x": NaN}]'), "NaN is no number of JSON"),
        (("cot", "p", '[{"step": 100000000000000000000000000, "text": "a"}]'), "beyond 64 bits"),
        (("cot", "p", '["a"]', "-k", ""), "a key must not be empty"),
        (("dag", "p", "[]"), "'dag' is not one of 'cot', 'tot'"),
        (("cot", "p", '["a"]', "--ttl", "-7"), "ttl_seconds"),
    ],
)
def test_what_cannot_be_stored_is_told_and_nothing_is(cli: Cli, arguments: tuple[str, ...], why: str) -> None:
    refused = cli("set-reasoning", *arguments)

    assert (refused.code, why in refused.err) == (2, True), refused.err
    assert "Traceback" not in refused.err
    assert cli("reasoning", "list").out == ""


def test_nothing_found_is_exit_code_1(cli: Cli) -> None:
    found = cli("get-reasoning", "nobody solved this")

    assert (found.code, found.out) == (1, "")
    assert "There is no reasoning" in found.err


def test_two_solutions_are_compared(cli: Cli) -> None:
    for key, steps, answer in (("one", ["a", "b"], "4"), ("other", ["a", "c"], "4"), ("third", ["a", "b"], "4")):
        cli("set-reasoning", "cot", f"problem {key}", json.dumps(steps), "-k", key, "-a", answer)

    differ = cli("reasoning", "diff", "one", "other")
    assert (differ.code, differ.out.splitlines()[:3]) == (1, ["  a", "- b", "+ c"])
    assert "1 the same (1 of them from the beginning)" in differ.out
    assert cli("reasoning", "diff", "problem one", "third", "--json").code == 0
    assert cli("reasoning", "diff", "one", "nobody").code == 2
    assert "no two results" in cli("reasoning", "diff", "one", "one").err


def test_a_branch_is_pruned_when_it_is_said_which(cli: Cli) -> None:
    cli("set-reasoning", "tot", "a problem", NODES)

    would = cli("reasoning", "prune", "a problem", "thought root", "thought a", "--dry-run")
    assert (would.code, would.out) == (0, "3 steps would go.\n")
    gone = cli("reasoning", "prune", "a problem", "thought root", "thought a", "--json")
    assert gone.data == {"steps": 3, "results": [], "dry_run": False}
    assert "thought a" not in cli("get-reasoning", "a problem").out
    assert cli("reasoning", "prune", "a problem", "nothing").code == 1
    assert cli("reasoning", "mark", "a problem", "thought root", "thought b", "--reason", "no").code == 0
    assert "thought b" not in cli("get-reasoning", "a problem").out
    assert cli("reasoning", "mark", "a problem", "thought root", "thought b", "--right").code == 0
    assert "thought b" in cli("get-reasoning", "a problem").out
    assert "reasoning.prune" in cli("audit", "tail").out


@pytest.mark.parametrize("name", ["all.jsonl.zst", "all.json", "all.yaml"])
def test_reasoning_is_exported_and_brought_in_again(cli: Cli, name: str) -> None:
    for at in range(3):
        cli("set-reasoning", "cot", f"problem {at}", json.dumps(["a", f"b{at}"]), "-k", f"k{at}")
    cli("set-cache", "q", "r")

    exported = cli("export", name, "--reasoning", "--json")
    cli("invalidate", "--all", "--yes")
    imported = cli("import-cache", name, "--yes", "--json")

    assert (exported.code, exported.data["summary"]["exported"]) == (0, 3)
    assert (imported.code, imported.data["summary"]["added"]) == (0, 3)
    assert cli("reasoning", "list").out.splitlines() == ["k0", "k1", "k2"]
    assert "2. b1" in cli("get-reasoning", "k1").out
    assert cli("get-cache", "q").code == 1, "answers are exported by themselves"
    assert cli("import-cache", name, "--replace", "--yes").code == 2


def test_stats_say_how_much_is_shared(cli: Cli) -> None:
    for at in range(3):
        cli("set-reasoning", "cot", "a problem", json.dumps(["a", "b", f"c{at}"]), "-k", f"k{at}")

    stats = cli("reasoning", "stats", "--json").data

    assert {name: stats[name] for name in ("results", "problems", "submitted", "steps")} == {
        "results": 3,
        "problems": 1,
        "submitted": 9,
        "steps": 5,
    }
    assert stats["size_bytes"] < stats["json_bytes"]
    assert "a problem" in cli("reasoning", "stats").out


def test_a_warm_file_holds_reasoning_beside_answers(cli: Cli) -> None:
    rows = [
        {"prompt": "q", "response": "r", "model": "m"},
        {"problem": "2 + 2", "steps": [{"step": 1, "text": "add"}], "final_answer": "4"},
        {"problem": "a tree", "nodes": [{"id": 0, "text": "root"}, {"id": 1, "parent": 0, "text": "leaf"}], "key": "t"},
        {"problem": "broken", "nodes": [{"id": 1, "parent": 0, "text": "leaf"}]},
    ]
    Path("warm.jsonl").write_text("\n".join(map(json.dumps, rows)))

    first = cli("warm", "warm.jsonl", "--local", "--no-embed", "--json")
    again = cli("warm", "warm.jsonl", "--local", "--no-embed", "--json")

    assert (first.code, first.data["stored"], first.data["failed"]) == (3, 3, 1), first
    assert "there is no node '0'" in json.dumps(first.data)
    assert (again.data["stored"], again.data["skipped"]) == (0, 3)
    assert cli("get-reasoning", "2 + 2", "--json").data["final_answer"] == "4"
    assert "leaf" in cli("get-reasoning", "t").out
    assert cli("get-cache", "q").out == "r\n"
