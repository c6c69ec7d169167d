"""Counting rows without parsing them: the number is the one that reading gives."""

import gzip
import json

import pytest

from studio.data.count import count_rows, countable
from studio.data.row_reader import read_source


def lines(count: int) -> list[str]:
    return [json.dumps({"prompt": f"q {n}", "completion": f"a {n}"}) for n in range(count)]


def agreed(path) -> int:
    """The count, after a look that reading gives as many rows."""
    assert countable(path)
    counted = count_rows(path)
    assert counted == len(list(read_source(path)))
    return counted


@pytest.fixture
def write(tmp_path):
    def write_bytes(content: bytes | str, name: str = "rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_bytes


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("closed", [True, False], ids=["newline at the end", "none"])
def test_each_line_is_a_row_whether_or_not_the_last_one_is_closed(write, end, closed):
    assert agreed(write(end.join(lines(7)) + (end if closed else ""))) == 7


@pytest.mark.parametrize("pattern", ["\n{}", "{}\n\n", "{}\n\n{}"], ids=["first", "last", "between"])
def test_a_blank_line_is_no_row(write, pattern):
    rows = pattern.count("{}")
    assert agreed(write(pattern.format(*lines(rows)))) == rows


@pytest.mark.parametrize("pattern", ["\n\n\n{}", "{}\n\n\n{}", "{}\n\n\n\n"], ids=["first", "between", "last"])
def test_several_blank_lines_in_a_row_are_no_rows(write, pattern):
    rows = pattern.count("{}")
    assert agreed(write(pattern.format(*lines(rows)))) == rows


@pytest.mark.parametrize("blank", ["\r\n\r\n", "\n   \n", "\n\t\n"], ids=["crlf", "blanks", "tab"])
def test_lines_of_nothing_but_white_space_are_no_rows(write, blank):
    one, two = lines(2)
    assert agreed(write(f"{one}{blank}{two}\n")) == 2


@pytest.mark.parametrize("block", [1, 2, 3, 7, 40, 41, 42, 43, 1000])
def test_lines_are_counted_over_the_borders_of_the_blocks_that_are_read(write, monkeypatch, block):
    monkeypatch.setattr("studio.data.count._BLOCK", block)
    assert agreed(write("\n\n".join(lines(20)) + "\n\n")) == 20


def test_json_that_is_one_object_a_line_is_counted_by_lines(write):
    assert agreed(write("\n".join(lines(5)), "rows.json")) == 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", json.dumps([{"prompt": "q", "completion": "a"}], indent=1)),
        ("rows.csv", "prompt,completion\nq,a\n"),
        ("rows.jsonl.gz", gzip.compress("\n".join(lines(3)).encode(), mtime=0)),
    ],
)
def test_what_has_to_be_parsed_or_unpacked_is_not_counted(write, name, content):
    assert not countable(write(content, name))


def test_parquet_is_counted_over_its_row_groups(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [str(n) for n in range(23)]}), path, row_group_size=5)
    assert agreed(path) == 23


def test_a_folder_is_counted_over_all_its_files_and_nothing_else(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.jsonl").write_text("\n".join(lines(3)))
    (tmp_path / "deep" / "b.jsonl").write_text("\n".join(lines(4)))
    (tmp_path / "README.md").write_text("about these rows")
    (tmp_path / ".hidden.jsonl").write_text("\n".join(lines(5)))
    assert agreed(tmp_path) == 7


def test_progress_rises_to_the_whole_of_a_folder(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines(30)))
    shares = []
    count_rows(tmp_path, shares.append)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1
