"""The report over a whole dataset, beside ``datasets.map`` with ``apply_chat_template`` over the same rows, in one run.

    python benchmarks/dataset_report.py --rows 100000

Needs the built-in model in the workspace (``python app.py fetch``). The rows are made up: questions and answers of
common words, 60 to 200 words each, some of them repeated or nearly so.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea body information back parent
face others level office door health person art war history party result change morning reason research girl guy
moment air teacher force education foot boy age policy music market sense thousand nation plan college interest
death experience effect use class control care field development role effort rate heart drug show leader light voice
wife police mind price report decision son view relationship town road difference value building action season
society tax director position player record paper space ground form event official matter center couple site project
activity star table need court oil situation cost industry figure street image phone data picture practice piece
land product doctor wall patient worker news test movie north love support technology"""


def write_rows(path: Path, count: int) -> None:
    """A JSONL file of questions and answers; one row in fifty says again what an earlier one said, or nearly."""
    chance, words = random.Random(0), WORDS.split()
    earlier: list[dict] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            if earlier and chance.random() < 0.02:
                row = dict(chance.choice(earlier))
                if chance.random() < 0.5:
                    row["answer"] += " Indeed."
            else:
                question = " ".join(chance.choices(words, k=chance.randint(20, 80)))
                answer = " ".join(chance.choices(words, k=chance.randint(40, 120)))
                row = {"question": f"Case {number}: {question}?", "answer": f"{answer}."}
                if len(earlier) < 1000:
                    earlier.append(row)
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    count = parser.parse_args().rows

    from studio.models.chat import prepare_chat
    from studio.models.load import load_tokenizer
    from studio.models.store import local_folder
    from studio.recipe import Recipe
    from studio.training.check import check

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, count)
        recipe = Recipe.load(ROOT / "recipes" / "quickstart.yaml", [f"data.source={path}"])
        base = local_folder(recipe.model)
        if base is None:
            sys.exit("The built-in model is not here yet: python app.py fetch")
        tokenizer = load_tokenizer(base)
        prepare_chat(tokenizer, None)
        print(f"{count:,} rows, {path.stat().st_size / 1e6:.0f} MB")

        start = time.perf_counter()
        report = check(recipe)
        ours = time.perf_counter() - start
        print(f"report: {ours:.1f} s; " + ", ".join(f"{f.kind} {f.count:,}" for f in report.findings))
        start = time.perf_counter()
        check(recipe)
        print(f"again: {time.perf_counter() - start:.4f} s")

        import datasets

        datasets.disable_progress_bars()

        start = time.perf_counter()
        rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=folder)
        rows.map(
            lambda row: tokenizer.apply_chat_template(
                [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}],
                return_dict=True,
            )
        )
        theirs = time.perf_counter() - start
        print(f"datasets.map with apply_chat_template: {theirs:.1f} s; ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
