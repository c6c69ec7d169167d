"""Datasets that are small on the disk and large in memory are refused, by a code, before they cost anything."""

from __future__ import annotations

import json
import os

import pytest

from studio.data.files import MOST_COLUMNS, files_of
from studio.data.row_reader import read_file
from studio.errors import StudioError
from studio.folders import files_below
from studio.recipe import Recipe
from studio.training import row_preview as module
from studio.training.row_preview import Wanted, answer

pytestmark = pytest.mark.usefixtures("home")


def recipe_of(model, source) -> Recipe:
    return Recipe.parse({"model": {"id": str(model)}, "data": {"source": str(source)}})


def refusal(act) -> StudioError:
    with pytest.raises(StudioError) as caught:
        act()
    return caught.value


def test_security_08_a_very_wide_csv_header_is_refused(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text(",".join(f"c{n}" for n in range(150_000)) + "\n" + "1\n")
    assert path.stat().st_size > 900_000
    assert refusal(lambda: next(read_file(path))).code == "too_many_columns"


def test_security_08_a_wide_table_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({f"c{n}": [1] for n in range(MOST_COLUMNS + 1)})
    pq.write_table(table, tmp_path / "wide.parquet")
    assert refusal(lambda: next(read_file(tmp_path / "wide.parquet"))).code == "too_many_columns"


def test_security_08_a_cell_of_gigabytes_is_refused_by_what_its_file_says(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("studio.data.row_reader.LONGEST_LINE", 1 << 20)
    pq.write_table(pa.table({"text": ["a" * (3 << 20)]}), tmp_path / "cell.parquet", compression="zstd")
    assert (tmp_path / "cell.parquet").stat().st_size < 10_000
    assert refusal(lambda: next(read_file(tmp_path / "cell.parquet"))).code == "row_too_large"


def test_security_08_a_table_of_long_rows_is_read_a_few_at_a_time(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from studio.data import row_reader as rows

    monkeypatch.setattr(rows, "_BATCH_BYTES", 1 << 20)
    texts = [chr(97 + n % 26) * 100_000 for n in range(40)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "long.parquet", use_dictionary=False)
    batches = list(rows._parquet_batches(tmp_path / "long.parquet"))
    assert max(batch.nbytes for batch in batches) <= 2 << 20
    assert [row["text"] for batch in batches for row in batch.to_pylist()] == texts


def test_security_08_a_walk_over_a_disk_ends(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("x")
    assert refusal(lambda: list(files_below(tmp_path, "data.source", most=20))).code == "folder_too_large"
    assert len(list(files_below(tmp_path, "data.source", most=30))) == 30


def test_security_08_the_whole_disk_is_no_dataset(tiny_model):
    recipe = recipe_of(tiny_model, "/")
    assert refusal(lambda: answer(("view", Wanted(recipe)), {})).code == "folder_too_large"


def test_security_08_loops_of_links_have_an_end(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    os.symlink(tmp_path, tmp_path / "again")
    os.symlink(tmp_path / "nowhere", tmp_path / "dangling.jsonl")
    os.symlink(tmp_path / "self.jsonl", tmp_path / "self.jsonl")
    assert files_of(tmp_path) == [tmp_path / "rows.jsonl"]


def test_security_08_a_row_that_is_too_long_is_not_sent_to_the_page(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_CHARACTERS", 1000)
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a?", "completion": "b"}, {"prompt": "c" * 2000, "completion": "d"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (_, first), (conversation, second) = answer(("view", Wanted(recipe_of(tiny_model, path))), {}).rows
    assert first.input_ids
    assert isinstance(second, str)
    assert conversation.messages is None and conversation.text is None


def test_security_08_the_rows_of_a_page_are_not_too_long_together(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_CHARACTERS_OF_ALL", 1000)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "c" * 400, "completion": "d"}) + "\n" for _ in range(5)))
    shown = answer(("view", Wanted(recipe_of(tiny_model, path))), {}).rows
    assert [isinstance(made, str) for _, made in shown] == [False, False, True, True, True]


def test_security_08_few_columns_are_sent_to_the_page(tiny_model, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "a", **{f"c{n}": n for n in range(3000)}}) + "\n")
    assert len(answer(("view", Wanted(recipe_of(tiny_model, path))), {}).columns) <= 500


def test_security_08_an_error_about_many_columns_is_short(tiny_model, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({f"column-{n}" * 20: n for n in range(3000)}) + "\n")
    error = refusal(lambda: answer(("view", Wanted(recipe_of(tiny_model, path))), {}))
    assert len(str(error)) < 10_000


def test_security_08_a_pass_over_a_dataset_that_takes_long_is_given_up(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SURVEY_SECONDS", 0.2)
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "a,b\n" * 400_000)
    assert refusal(lambda: answer(("survey", recipe_of(tiny_model, path)), {})).code == "survey_too_long"
