"""Compressed files, running text, Arrow tables and folders give the same rows, one at a time."""

import gzip
import json

import pyarrow as pa
import pytest
from test_row_reader import ROWS, lines, refusal, values

from studio.data.files import files_of, lines_at, text_lines
from studio.data.row_reader import read_file, read_source
from studio.errors import StudioError


def compressed(text: str, packed: str) -> bytes:
    if packed == ".gz":
        return gzip.compress(text.encode())
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text.encode())
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_a_compressed_file_has_the_rows_of_the_plain_one(tmp_path, kind, packed):
    csv = "prompt,completion\n" + "".join(f"{r['prompt']},{r['completion']}\n" for r in ROWS)
    text = {".jsonl": lines(), ".json": json.dumps(ROWS), ".csv": csv}[kind]
    (tmp_path / f"a{kind}{packed}").write_bytes(compressed(text, packed))
    assert values(tmp_path / f"a{kind}{packed}") == ROWS


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path, packed):
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(compressed(lines([{"text": f"row {n} {hash(str(n))}"} for n in range(9000)]), packed)[:-3000])
    assert path.name in refusal(path).what


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_file_that_is_only_called_compressed_is_refused(tmp_path, packed):
    path = tmp_path / f"a.jsonl{packed}"
    path.write_text(lines())
    assert "cannot be decompressed" in refusal(path).what


def test_a_line_that_decompresses_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("studio.data.files.LONGEST_LINE", 1 << 20)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"{" + b" " * (4 << 20)))
    assert "line 1: longer than 1 MB" in refusal(path).what


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_running_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path, packed):
    paragraphs = [f"Paragraph {n}: " + "word " * 100 for n in range(40)]
    text = "\n\n".join(paragraphs)
    path = tmp_path / f"book.md{packed}"
    path.write_bytes(compressed(text, packed) if packed else text.encode())
    found = list(read_file(path))
    assert len(found) > 5
    assert "".join("".join(row.values["text"] for row in found).split()) == "".join(text.split())
    assert [row.number for row in found][:2] == [1, 9]  # the lines where the blocks begin


@pytest.mark.parametrize("format", ["file", "stream"])
def test_arrow_tables_are_read_in_both_formats(tmp_path, format):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink:
        make = pa.ipc.new_file if format == "file" else pa.ipc.new_stream
        with make(sink, table.schema) as writer:
            writer.write_table(table)
    assert values(tmp_path / "a.arrow") == ROWS


def test_a_broken_arrow_file_is_refused(tmp_path):
    (tmp_path / "a.arrow").write_bytes(b"not a table at all")
    assert "not a readable Arrow file" in refusal(tmp_path / "a.arrow").what


def test_a_folder_gives_its_files_in_order_and_leaves_hidden_and_describing_files_out(tmp_path):
    (tmp_path / "b.jsonl").write_text(lines([{"n": 2}]))
    (tmp_path / "a.jsonl").write_text(lines([{"n": 1}]))
    (tmp_path / ".hidden.jsonl").write_text("broken")
    (tmp_path / "README.md").write_text("about")
    assert [p.name for p in files_of(tmp_path)] == ["a.jsonl", "b.jsonl"]
    assert [row.values["n"] for row in read_source(tmp_path)] == [1, 2]


def test_a_broken_file_in_a_folder_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines())
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n{broken\n')
    with pytest.raises(StudioError, match=r"b.jsonl, line 2"):
        list(read_source(tmp_path))


def written(folder, kind: str, count: int):
    """A file of this kind with ``count`` rows, each with its number from 1 in the column ``n``."""
    rows = [{"n": str(number)} for number in range(1, count + 1)]
    path = folder / f"a{kind}"
    if kind == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == ".json":
        path.write_text(json.dumps(rows))
    elif kind == ".csv":
        path.write_text("n\n" + "".join(f"{row['n']}\n" for row in rows))
    else:
        text = lines(rows)
        path.write_bytes(compressed(text, kind[-3:]) if kind.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("start", [1, 2, 2500, 2999, 3000])
@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_reading_from_a_row_on_gives_the_rows_that_reading_all_gives(tmp_path, kind, start):
    path = written(tmp_path, kind, 3000)
    rows = list(read_source(path, start))
    assert rows == [row for row in read_source(path) if row.number >= start]
    assert rows[0].number == start == int(rows[0].values["n"])


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_behind_the_last_row_there_is_none(tmp_path, kind):
    assert list(read_source(written(tmp_path, kind, 3000), 4000)) == []


def test_a_jump_passes_over_lines_without_reading_them_as_json(tmp_path):
    (tmp_path / "a.jsonl").write_text("broken\n" * 5 + '{"n": 6}\n')
    (row,) = read_source(tmp_path / "a.jsonl", 6)
    assert (row.number, row.values) == (6, {"n": 6})


def test_in_a_folder_rows_are_counted_over_its_files(tmp_path):
    for name, first in (("a", 1), ("b", 4)):
        (tmp_path / f"{name}.jsonl").write_text(lines([{"n": first + i} for i in range(3)]))
    assert [row.values["n"] for row in read_source(tmp_path, 3)] == [3, 4, 5, 6]


def test_a_place_in_a_file_is_found_again_from_where_an_earlier_reading_passed(tmp_path, monkeypatch):
    monkeypatch.setattr("studio.data.files._CHUNK", 4)
    monkeypatch.setattr("studio.data.files._MARKED", 50)
    path = tmp_path / "rows.txt"
    lines = [f"line {n} {'x' * (n % 37)}" for n in range(1, 400)]
    path.write_text("\n".join(lines), encoding="utf-8")
    for number in (399, 1, 200, 399, 3, 77, 398, 76, 400, 500):
        found = next(text_lines(path, number), None)
        assert found == ((number, lines[number - 1] + "\n" * (number < 399)) if number < 400 else None)
    wanted = [2, 3, 150, 151, 399, 900]
    assert [n for n, _ in lines_at(path, wanted)] == [2, 3, 150, 151, 399]
    assert [line.strip() for _, line in lines_at(path, wanted)] == [lines[n - 1] for n in wanted[:-1]]
    path.write_text("other\n" * 500, encoding="utf-8")
    assert next(text_lines(path, 300)) == (300, "other\n")
