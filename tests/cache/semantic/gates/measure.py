"""What the gates refuse, lose and cost on labelled pairs and on edits of their questions.

    .venv/bin/python -m tests.cache.semantic.gates.measure [FILE] [--half 0|1] [--vectors FILE.npz]
    .venv/bin/python -m tests.cache.semantic.gates.measure --support [--half 0|1] [--errors]

FILE holds one JSON object a line with `text_a`, `text_b`, `label`, and if there are any `id`, `label_kind`, `category`;
without one the developers' pairs are read. `--half` keeps the rows with an even or odd number: the rules were written
looking at the even ones. `--vectors` keeps the embeddings for the next run. `--support` takes the pairs of
`support_pairs` in place of a file; `--errors` prints those that went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cache_management.cache.embeddings import open_embedder
from cache_management.cache.semantic import gates
from tests.cache.semantic.gates import support_pairs
from tests.cache.semantic.gates.edits import CHANGES, FRAMES, KEEPS, framed

_DATA = Path(__file__).resolve().parents[5] / "shared" / "data" / "pairs_dev.jsonl.gz"
_THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
_EDITED = 1500  # questions that are edited

Row = dict[str, Any]


def wilson(hits: int, of: int) -> str:
    """Write a share with its 95 % interval, in percent."""
    if not of:
        return "-"
    z = 1.96
    share = hits / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    spread = z / (1 + z * z / of) * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5
    return f"{hits}/{of} = {100 * share:.1f} ({100 * max(centre - spread, 0):.1f}-{100 * min(centre + spread, 1):.1f})"


def read(path: Path, half: int | None) -> list[Row]:
    packed = path.read_bytes()
    text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode()
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    for at, row in enumerate(rows):
        digits = "".join(filter(str.isdigit, str(row.get("id", at))))
        row["number"] = int(digits or at)
        kind, category = row.get("label_kind", "pair"), row.get("category", "")
        row["group"] = kind if kind == "same_intent" or category in {"", "real"} else category[:48]
    return [row for row in rows if half is None or row["number"] % 2 == half]


async def embed(texts: list[str], kept: Path | None) -> dict[str, Any]:
    if kept is not None and kept.exists():
        with np.load(kept) as saved:
            found = dict(zip(saved["texts"].tolist(), saved["vectors"], strict=True))
        if set(texts) <= found.keys():
            return found
    embedder = open_embedder("all-MiniLM-L6-v2")
    rows: list[Any] = []
    for start in range(0, len(texts), 64):
        rows.extend(np.asarray(await embedder.embed(texts[start : start + 64])))
    if kept is not None:
        np.savez(kept, texts=np.array(texts), vectors=np.array(rows))
    return dict(zip(texts, rows, strict=True))


def judge(rows: list[Row], vectors: dict[str, Any]) -> None:
    for row in rows:
        row["vetoes"] = gates.vetoes(row["text_a"], row["text_b"], age_seconds=0)
        row["unaged"] = gates.vetoes(row["text_a"], row["text_b"])
        row["score"] = float(vectors[row["text_a"]] @ vectors[row["text_b"]])


def _served(rows: Iterable[Row], threshold: float, *, gated: bool, field: str = "vetoes") -> int:
    return sum(row["score"] >= threshold and not (gated and row[field]) for row in rows)


def report(group: str, rows: list[Row]) -> None:
    positive = [row for row in rows if row["label"]]
    negative = [row for row in rows if not row["label"]]
    print(f"\n{group}: {len(positive)} positive, {len(negative)} negative")
    for title, part in (("positives lost", positive), ("negatives served", negative)):
        if part:
            lost = sum(bool(row["vetoes"]) is (part is positive) for row in part)
            print(f"  gates alone: {title} {wilson(lost, len(part))}")
    print("  at     recall: cosine -> gated (age unknown)   false hits: cosine -> gated, percent (95 %)")
    for threshold in _THRESHOLDS:
        line = f"  {threshold:.2f}"
        if positive:
            counts = (
                _served(positive, threshold, gated=False),
                _served(positive, threshold, gated=True),
                _served(positive, threshold, gated=True, field="unaged"),
            )
            line += "   {:.3f} -> {:.3f} ({:.3f})".format(*(count / len(positive) for count in counts))
        if negative:
            plain, gated = (_served(negative, threshold, gated=on) for on in (False, True))
            line += f"   {wilson(plain, len(negative))} -> {wilson(gated, len(negative))}"
        if positive and negative:
            for gated in (False, True):
                good, bad = (_served(part, threshold, gated=gated) for part in (positive, negative))
                line += f"  precision {good / (good + bad):.3f}" if good + bad else ""
        print(line)
    for title, part in (("positives", positive), ("negatives", negative)):
        near = [row for row in part if row["score"] >= 0.75]
        found = Counter(name for row in near for name in row["vetoes"])
        alone = Counter(row["vetoes"][0] for row in near if len(row["vetoes"]) == 1)
        counts = ", ".join(f"{name} {found[name]} ({alone[name]})" for name in gates.NAMES if found[name])
        print(f"  vetoes of {title} from 0.75 on (alone): {counts or 'none'}")


def report_support(half: int | None, kept: Path | None, *, errors: bool) -> None:
    """Print by kind what is served at three thresholds, and which paraphrases the gates take away."""
    found = support_pairs.rows(half)
    vectors = asyncio.run(embed(sorted({text for _, *texts, _ in found for text in texts}), kept))
    groups: dict[tuple[bool, str], list[Row]] = defaultdict(list)
    for kind, asked, stored, same in found:
        # An answer of two hours ago is too old for a question about the present, and for no other.
        refused = gates.vetoes(asked, stored, age_seconds=7200 if kind == "freshness" else 0)
        row: Row = {"vetoes": refused, "score": float(vectors[asked] @ vectors[stored]), "texts": f"{asked} | {stored}"}
        groups[same, kind].append(row)
        groups[same, "all"].append(row)
        if errors and kind != "all" and bool(refused) is same:
            print(f"  {row['score']:.2f} {kind:12} {row['texts']}  {' '.join(refused)}")
    for same, title in ((True, "must serve"), (False, "must refuse")):
        print(f"{title:25} {'let by the gates':24} cosine -> gated at .70, .75, .80")
        for (group, kind), rows in groups.items():
            if group is same:
                let = sum(not row["vetoes"] for row in rows)
                line = f"  {kind:22} {wilson(let, len(rows)):26}"
                for threshold in (0.70, 0.75, 0.80):
                    plain, gated = (_served(rows, threshold, gated=on) for on in (False, True))
                    line += f"{plain:5} -> {gated}"
                print(line)


def report_edits(rows: list[Row]) -> None:
    questions = sorted({row["text_a"] for row in rows})[:_EDITED]
    served: dict[str, list[bool]] = defaultdict(list)
    for text in questions:
        rng = random.Random(text)
        for kind, edit in CHANGES.items():
            changed = edit(text, rng)
            if changed and changed != text:
                served[f"must refuse: {kind}"].append(not gates.vetoes(text, changed, age_seconds=0))
        for kind in FRAMES:
            pair = framed(kind, text, rng)
            if pair:
                served[f"must refuse: frame, {kind}"].append(not gates.vetoes(*pair, age_seconds=0))
        for kind, edit in KEEPS.items():
            kept = edit(text, rng)
            if kept and kept != text:
                served[f"must serve: {kind}"].append(not gates.vetoes(text, kept, age_seconds=0))
    print(f"\nEdits of {len(questions)} questions: served by the gates alone, percent (95 %)")
    for kind, results in sorted(served.items()):
        print(f"  {kind:34} {wilson(sum(results), len(results))}")


def cost(rows: list[Row]) -> None:
    texts = sorted({text for row in rows for text in (row["text_a"], row["text_b"])})
    gates.remembered.cache_clear()
    start = time.perf_counter()
    read_all = [gates.facets(text) for text in texts]
    per_text = (time.perf_counter() - start) / len(texts)
    pairs = [(gates.facets(row["text_a"]), gates.facets(row["text_b"])) for row in rows]
    times = []
    for asked, stored in pairs:
        start = time.perf_counter()
        gates.compare(asked, stored, age_seconds=0)
        times.append(time.perf_counter() - start)
    print(
        f"\nCost: facets {per_text * 1e6:.0f} us a text ({len(read_all)} texts), compare"
        f" {np.mean(times) * 1e6:.0f} us a pair, p99 {np.percentile(times, 99) * 1e6:.0f} us (warm)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=_DATA)
    parser.add_argument("--half", type=int, choices=(0, 1))
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--support", action="store_true")
    parser.add_argument("--errors", action="store_true")
    options = parser.parse_args()
    if options.support:
        report_support(options.half, options.vectors, errors=options.errors)
        return
    rows = read(options.file, options.half)
    texts = sorted({text for row in rows for text in (row["text_a"], row["text_b"])})
    judge(rows, asyncio.run(embed(texts, options.vectors)))
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    for group, members in sorted(groups.items()):
        report(group, members)
    report_edits(rows)
    cost(rows)


if __name__ == "__main__":
    main()
