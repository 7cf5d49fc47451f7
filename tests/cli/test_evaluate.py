"""evaluate, tune."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.semantic.evaluation import Outcome, mean_precision
from tests.cli.conftest import Cli

SAME = [(f"how do I reset the {name} of my router", f"my router, how do I reset the {name}") for name in ("pin", "key")]
DIFFERENT = [
    ("fee for 10 transfers abroad", "fee for 12 transfers abroad"),
    ("is it safe to use", "is it not safe to use"),
]
ROWS: list[dict[str, Any]] = [
    *({"text_a": a, "text_b": b, "label": 1, "category": "reworded"} for a, b in SAME * 5),
    *({"text_a": a, "text_b": b, "label": 0, "category": "changed <b>"} for a, b in DIFFERENT * 5),
]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    text = "\n".join(json.dumps(row) for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix.lower() in {".csv", ".tsv"}:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0].keys(), delimiter="," if path.suffix.lower() == ".csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    else:
        path.write_text(json.dumps(rows) if path.suffix.lower() == ".json" else text)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "p.jsonl",
        "p.jsonl.gz",
        "p.json",
        "p.csv",
        "p.tsv",
        "P.CSV",
        "P.JSON",
        "P.JSONL.GZ",
        "p.ndjson",
        "pairs",
        "p.txt",
    ],
)
def test_every_form_of_file_gives_the_same_report(cli: Cli, tmp_path: Path, name: str) -> None:
    (report,) = cli("evaluate", write(tmp_path / name), "-t", 0.75, "--json").data

    assert (report["pairs"], report["threshold"], report["kind"]) == (20, 0.75, "pairs")
    reworded, changed = (report["by_category"][name] for name in ("reworded", "changed <b>"))
    assert reworded["gated"]["right"] == reworded["cosine"]["right"] == 10
    assert (changed["cosine"]["wrong"], changed["gated"]["wrong"]) == (10, 0)
    assert report["by_gate"]["number"]["wrong"] == 5
    assert report["without_gate"]["number"]["wrong"] == 5
    assert report["gated"]["0.75"]["false_hits"]["high"] == pytest.approx(0.2775, abs=1e-3)
    assert report["mean_precision"]["gated"] > report["mean_precision"]["cosine"]
    assert report["verified"]["right"] == 0, "twenty pairs are no evidence"


def test_the_report_is_shown_in_tables(cli: Cli, tmp_path: Path) -> None:
    found = cli("evaluate", write(tmp_path / "p.jsonl"), "-t", 0.75)

    assert found.code == 0
    assert "0/10" in found.out
    assert "verified" in found.out


def test_the_page_stands_alone_and_escapes_what_the_file_says(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    rows = [*ROWS, {"text_a": "<script>alert(1)</script> a b", "text_b": "a b <script>alert(1)</script>", "label": 0}]

    assert cli("evaluate", write(tmp_path / "p.jsonl", rows), "--html", page, "--json").code == 0

    text = page.read_text()
    assert text.count("<svg") == 2
    assert "changed &lt;b&gt;" in text
    assert "<script" not in text
    assert "http" not in text
    assert "nan" not in text.lower()


def test_the_markdown_holds_the_tables_and_no_text_of_the_pairs(cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "page.md"

    assert cli("evaluate", write(tmp_path / "p.jsonl"), "-t", 0.75, "--markdown", page, "--json").code == 0

    text = page.read_text()
    assert "| changed &lt;b&gt; | 1.000 [0.722, 1.000] 10/10 | 0.000 [0.000, 0.278] 0/10 |" in text
    assert "router" not in text


def test_the_markdown_keeps_what_the_file_says_in_its_cells(cli: Cli, tmp_path: Path) -> None:
    rows = [{**row, "category": "a|b\n\\| <i>&", "source": "x\n# <i>"} for row in ROWS]

    assert cli("evaluate", write(tmp_path / "p.jsonl", rows), "--markdown", "page.md", "--json").code == 0

    text = Path("page.md").read_text()
    assert "| a&#124;b \\&#124; &lt;i&gt;&amp; |" in text
    assert "## x # &lt;i&gt;: 20 pairs" in text
    assert "<" not in text


def heights(page: str, line: str) -> list[float]:
    """Return how far below the top the points of a plot's line are."""
    points = re.findall(rf'class="{line}" points="([^"]*)"', page)[0]
    return [float(point.split(",")[1]) for point in points.split()]


def test_the_axis_of_precision_shows_all_of_both_curves(cli: Cli, tmp_path: Path) -> None:
    rows = [{**row, "label": int(at % 5 == 0)} for at, row in enumerate(ROWS[:10] * 4)]

    assert cli("evaluate", write(tmp_path / "p.jsonl", rows), "--html", "page.html", "--json").code == 0

    page = Path("page.html").read_text()
    bottom = 320 - 46
    assert max(heights(page, "other")) < bottom, "nothing lies on the axis because it is cut off"
    assert max(heights(page, "ours")) < bottom


@pytest.mark.parametrize("rows", [ROWS[:10], ROWS[10:], ROWS[9:11], [{"text_a": "a b", "text_b": "b a", "label": 0}]])
def test_a_mean_precision_that_means_nothing_is_not_told(cli: Cli, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    found = cli("evaluate", write(tmp_path / "p.jsonl", rows))
    data = cli("evaluate", tmp_path / "p.jsonl", "--json", "--html", "page.html").data[0]["mean_precision"]

    assert "mean precision over hit ratios, cosine │ - " in " ".join(found.out.split())
    assert data == {"cosine": None, "gated": None}
    assert Path("page.html").read_text().count("<svg") == 2


def test_precision_before_the_first_hit_is_that_of_the_first_hit() -> None:
    curve = [Outcome(10, 10, 10, 10), Outcome(0, 0, 10, 10)]

    assert mean_precision(curve, up_to=1.0) == 0.5


@pytest.mark.parametrize("args", [("evaluate", "--budget"), ("tune", "--precision")])
def test_no_number_is_no_share(cli: Cli, tmp_path: Path, args: tuple[str, str]) -> None:
    found = cli(args[0], write(tmp_path / "p.jsonl"), args[1], "nan")

    assert found.code == 2
    assert "nan is no number" in found.err


@pytest.mark.parametrize("option", ["--html", "--markdown"])
@pytest.mark.parametrize("name", ["p.csv", "../{folder}/p.csv", "link", "hard"])
def test_the_pairs_are_never_overwritten(cli: Cli, tmp_path: Path, option: str, name: str) -> None:
    pairs = write(tmp_path / "p.csv")
    before = pairs.read_bytes()
    (tmp_path / "link").symlink_to(pairs)
    (tmp_path / "hard").hardlink_to(pairs)

    found = cli("evaluate", pairs, option, tmp_path / name.format(folder=tmp_path.name))

    assert found.code == 2
    assert f"{option} " in found.err
    assert "the file that is read" in found.err
    assert pairs.read_bytes() == before


def test_two_pages_need_two_files(cli: Cli, tmp_path: Path) -> None:
    found = cli("evaluate", write(tmp_path / "p.csv"), "--html", "page", "--markdown", tmp_path / "page")

    assert (found.code, "is --html too" in found.err) == (2, True)
    assert not (tmp_path / "page").exists()


def test_a_page_without_a_folder_is_refused_before_anything_is_read(cli: Cli, tmp_path: Path) -> None:
    found = cli("evaluate", "no pairs", "--html", "nowhere/page.html")

    assert found.code == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in found.err


def test_a_page_replaces_what_a_link_leads_to_and_keeps_its_rights(cli: Cli, tmp_path: Path) -> None:
    page, link = tmp_path / "page.md", tmp_path / "latest.md"
    page.write_text("old")
    page.chmod(0o640)
    link.symlink_to(page)

    assert cli("evaluate", write(tmp_path / "p.csv"), "--markdown", link, "--json").code == 0

    assert link.is_symlink()
    assert page.read_text().startswith("# Answers by meaning")
    assert page.stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_page_may_go_to_a_pipe(cli: Cli, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    assert cli("evaluate", write(tmp_path / "p.csv"), "--markdown", pipe, "--json").code == 0

    assert os.read(reader, 65_536).startswith(b"# Answers by meaning")
    os.close(reader)
    assert pipe.is_fifo()
    assert cli("evaluate", tmp_path / "p.csv", "--markdown", "/dev/null", "--json").code == 0


def test_a_threshold_is_chosen_on_one_half_and_told_on_the_other(cli: Cli, tmp_path: Path) -> None:
    found = cli("tune", write(tmp_path / "p.jsonl"), "--precision", 0.9, "--json").data["pairs"]

    assert 0.5 <= found["threshold"] <= 1
    halves = (found["chosen_on"], found["reported_on"])
    assert sum(half["positives"] + half["negatives"] for half in halves) == 20
    assert "in cache_config.yaml:  similarity_threshold: 0." in cli("tune", tmp_path / "p.jsonl").out


def test_a_precision_out_of_reach_says_what_the_best_is(cli: Cli, tmp_path: Path) -> None:
    rows = [{"text_a": f"{at // 2} red", "text_b": f"red {at // 2}", "label": at % 2} for at in range(40)]

    found = cli("tune", write(tmp_path / "p.jsonl", rows), "-p", 0.99)

    assert found.code == 1
    assert "pairs: no threshold can be recommended" in found.err
    assert "the best has 0.500 (10 of 20 right, at 0.50)" in found.err


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (ROWS[:10] * 4, "no pair has label 0"),
        (ROWS[10:] * 4, "no pair has label 1"),
        (
            [ROWS[0], {"text_a": "b", "text_b": "a b", "label": 0}, *ROWS[1:10]],
            "the half to choose by has no pair with label 0",
        ),
        (
            [{"text_a": f"a{at // 2}", "text_b": f"b{at // 2}", "label": at % 2} for at in range(40)],
            "nothing is served at any threshold from 0.5 up",
        ),
    ],
)
def test_nothing_is_recommended_from_nothing(cli: Cli, tmp_path: Path, rows: list[dict[str, Any]], says: str) -> None:
    found = cli("tune", write(tmp_path / "p.jsonl", rows))
    data = cli("tune", tmp_path / "p.jsonl", "--json")

    assert found.code == data.code == 1
    assert says in found.err
    assert "similarity_threshold" not in found.out
    assert data.data["pairs"]["threshold"] is None
    assert says in data.data["pairs"]["why_not"]


def test_a_recommendation_says_on_how_few_pairs_it_rests(cli: Cli, tmp_path: Path) -> None:
    few = cli("tune", write(tmp_path / "p.jsonl", [*ROWS, *ROWS[:10]]))

    assert few.code == 0
    assert "10 with label 1, 5 with label 0" in few.out
    assert "Warning: pairs: pairs with label 0: 10; fewer than 20 say little" in few.err
    assert "label 1:" not in few.err
    assert "Warning" not in cli("tune", write(tmp_path / "p.jsonl", ROWS * 2)).err


def test_a_kind_that_fails_is_named_and_hides_no_other(cli: Cli, tmp_path: Path) -> None:
    rows = [{**row, "source": "ours"} for row in ROWS * 2] + [{**row, "source": "theirs"} for row in ROWS[:10]]

    found = cli("tune", write(tmp_path / "p.jsonl", rows))

    assert found.code == 3
    assert "in cache_config.yaml:  similarity_threshold: 0." in found.out
    assert "Error: theirs: no threshold can be recommended: no pair has label 0" in found.err
    assert "Warning: theirs" not in found.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pairs"),
        ('{"text_a": "a", "text_b": "b", "label": 1}\n{"text_a": "a", "text_b": "b"}', "line 2: label is missing"),
        ('{"text_a": "a", "label": 1}', "line 1: text_b is missing"),
        ('{"text_a": 7, "text_b": "b", "label": 1}', "line 1: text_a must be text, not int"),
        ('{"text_a": "a", "text_b": "b", "label": "perhaps"}', "line 1: label 'perhaps'"),
        ("[1, 2", "line 1 is no JSON"),
        ("7", "line 1: a pair is an object"),
        *(
            (json.dumps({"text_a": "a", "text_b": "b", "label": 1, name: "x\ud800"}), f"line 1: {name} is not valid")
            for name in ("text_a", "text_b", "label_kind", "source", "category", "trap")
        ),
        ('{"text_a": "' + "a" * 100_001 + '", "text_b": "b", "label": 1}', "100,001 characters"),
    ],
)
def test_a_wrong_row_is_named(cli: Cli, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(text)

    found = cli("evaluate", file)

    assert found.code == 2
    assert message in found.err


@pytest.mark.parametrize("command", ["evaluate", "tune"])
def test_a_text_with_a_comma_must_be_quoted(cli: Cli, tmp_path: Path, command: str) -> None:
    file = tmp_path / "p.csv"
    file.write_text("text_a,text_b,label\na,b,0\nHi, how are you?,How are you?,1\n")

    found = cli(command, file)

    assert found.code == 2
    assert "line 3 has 4 fields, the header 3" in found.err
    assert "quote it" in found.err


def test_a_list_needs_no_ending_and_other_texts_do(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(json.dumps(ROWS))
    (tmp_path / "table").write_text("text_a,text_b,label\na,b,0\n")

    other = cli("evaluate", tmp_path / "table")

    assert cli("evaluate", tmp_path / "list", "--json").data[0]["pairs"] == 20
    assert other.code == 2
    assert "name it .csv, .tsv, .json, .jsonl or .ndjson" in other.err


def test_a_page_names_a_file_whose_name_is_no_unicode(cli: Cli, tmp_path: Path) -> None:
    strange = write(tmp_path / "p.csv").rename(tmp_path / "p\udcff.csv")

    assert cli("evaluate", strange, "--html", "page.html", "--markdown", "page.md", "--json").code == 0

    assert "p?.csv" in Path("page.md").read_text()


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\x1f\x8b\x08broken", "no whole gzip"), (b"\xff\xfe", "not UTF-8 at byte 0"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_named(cli: Cli, tmp_path: Path, data: bytes | None, message: str) -> None:
    file = tmp_path / "p.jsonl"
    if data is not None:
        file.write_bytes(data)

    found = cli("evaluate", file)

    assert found.code == 2
    assert message in found.err


def test_empty_and_strange_texts_are_counted_and_harm_nothing(cli: Cli, tmp_path: Path) -> None:
    rows = [
        {"text_a": text, "text_b": "a", "label": 0}
        for text in ("", " ", "a" * 9000, "\u202eright to left", "🦊", "\x00")
    ]

    (report,) = cli("evaluate", write(tmp_path / "p.jsonl", rows), "--json").data

    assert (report["pairs"], report["unreadable"]) == (6, 2)
