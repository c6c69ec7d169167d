"""Files to rows: every kind is read lazily, and every broken one is refused with its name, its line and a way out."""

import json
import time
import tracemalloc
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studio.data.row_reader import read_file
from studio.errors import StudioError

ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(3)]


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, content: str | bytes):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def values(path) -> list[dict]:
    return [row.values for row in read_file(path)]


def refusal(path) -> StudioError:
    with pytest.raises(StudioError) as caught:
        values(path)
    assert caught.value.fix
    return caught.value


def lines(rows=ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines()),
        ("a.ndjson", lines()),
        ("A.JSONL", lines()),
        ("no-last-newline.jsonl", lines().rstrip()),
        ("blank-lines.jsonl", "\n" + lines().replace("\n", "\n\n")),
        ("windows.jsonl", lines().replace("\n", "\r\n")),
        ("bom.jsonl", b"\xef\xbb\xbf" + lines().encode()),
        ("array.json", json.dumps(ROWS)),
        ("pretty.json", json.dumps(ROWS, indent=2)),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("wrapped.json", json.dumps({"version": 1, "data": ROWS})),
        ("wrapped-pretty.json", json.dumps({"version": 1, "data": ROWS}, indent=2)),
        ("really-lines.json", lines()),
        ("a.csv", "prompt,completion\nquestion 0,answer 0\nquestion 1,answer 1\nquestion 2,answer 2\n"),
        ("semicolons.csv", "prompt;completion\nquestion 0;answer 0\nquestion 1;answer 1\nquestion 2;answer 2\n"),
        ("tabs.csv", "prompt\tcompletion\nquestion 0\tanswer 0\nquestion 1\tanswer 1\nquestion 2\tanswer 2\n"),
        ("a.tsv", "prompt\tcompletion\nquestion 0\tanswer 0\nquestion 1\tanswer 1\nquestion 2\tanswer 2\n"),
        ("bom.csv", "\ufeffprompt,completion\r\nquestion 0,answer 0\r\nquestion 1,answer 1\r\nquestion 2,answer 2\r\n"),
    ],
)
def test_the_same_rows_come_out_of_every_kind_of_file(write, name, content):
    assert values(write(name, content)) == ROWS


def test_a_parquet_file_gives_its_rows_with_nested_values(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": None}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == rows


def test_a_json_file_with_one_conversation_is_one_row(write):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    assert values(write("one.json", json.dumps(row, indent=2))) == [row]


def test_a_json_file_with_one_object_is_one_row(write):
    assert values(write("one.json", json.dumps(ROWS[0]))) == ROWS[:1]


def test_a_quoted_csv_field_keeps_its_line_breaks_delimiters_and_quotes(write):
    path = write("a.csv", 'prompt,completion\n"two\nlines, and ""quotes""",yes\n')
    assert values(path) == [{"prompt": 'two\nlines, and "quotes"', "completion": "yes"}]


def test_a_row_of_a_jsonl_file_has_the_number_of_its_line(write):
    path = write("a.jsonl", "\n" + lines().replace("\n", "\n\n"))
    assert [row.number for row in read_file(path)] == [2, 4, 6]


def test_a_row_of_a_json_array_has_its_place_in_the_array(write):
    assert [row.number for row in read_file(write("a.json", json.dumps(ROWS, indent=2)))] == [1, 2, 3]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"])
def test_an_empty_file_is_refused(write, name):
    assert refusal(write(name, "")).what == f"{name} is empty (0 bytes)."


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_file_of_blank_lines_is_refused(write, name):
    assert name in refusal(write(name, "\n  \n\n")).what


@pytest.mark.parametrize("content", ["a,b\n", "a,b\n\n\n"])
def test_a_csv_file_with_a_header_and_no_rows_is_refused(write, content):
    assert refusal(write("a.csv", content)).what == "a.csv has a header and no rows."


def test_an_empty_json_array_is_refused(write):
    assert refusal(write("a.json", "[ ]")).what == "a.json holds an empty list."


@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 20, "PNG"),
        (b"PK\x03\x04" + b"\x14" * 20, "zip"),
        (b"\x1f\x8b\x08" + b"\x01" * 20, "gzip"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"PAR1" + b"\x15" * 20, "Parquet"),
        (b"\xd8\x13\x00\x00\x07\x9c" * 9, "binary data"),
        ('{"text": "UTF-16"}\n'.encode("utf-16"), "in UTF-16"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_binary_file_with_the_name_of_a_text_file_is_refused_by_what_it_is(write, name, content, looks_like):
    error = refusal(write(name, content))
    assert name in error.what
    assert looks_like in error.what


def test_broken_json_names_the_file_the_line_and_the_column(write):
    good = [json.dumps(ROWS[0])] * 50
    good[36] = '{"prompt": "question", "completion": answer}'
    error = refusal(write("broken.jsonl", "\n".join(good)))
    assert "broken.jsonl, line 37, column 38" in error.what


def test_the_rows_before_a_broken_line_have_been_given_by_then(write):
    path = write("broken.jsonl", lines() + "{oops\n")
    reader = read_file(path)
    assert [row.values for row in islice(reader, 3)] == ROWS
    with pytest.raises(StudioError, match="line 4"):
        next(reader)


@pytest.mark.parametrize(("line", "kind"), [("[1, 2]", "list"), ('"text"', "str"), ("7", "int"), ("null", "NoneType")])
def test_a_line_that_is_not_an_object_is_refused_with_its_number(write, line, kind):
    error = refusal(write("a.jsonl", f"{lines()}{line}\n"))
    assert error.what == f"a.jsonl, line 4: a {kind} where a JSON object should be."


def test_a_line_nested_too_deep_is_refused_with_its_number(write):
    error = refusal(write("a.jsonl", lines() + '{"a": ' + "[" * 200_000 + "\n"))
    assert "a.jsonl, line 4" in error.what


def test_a_broken_json_array_names_the_line(write):
    text = json.dumps(ROWS, indent=1).splitlines()
    text[6] = text[6].replace(":", "")
    error = refusal(write("a.json", "\n".join(text)))
    assert "a.json, line 7: broken JSON" in error.what


def test_a_json_array_that_does_not_end_is_refused(write):
    error = refusal(write("a.json", json.dumps(ROWS, indent=1)[:-2]))
    assert "does not end" in error.what


def test_a_json_array_nested_too_deep_is_refused(write):
    assert "a.json" in refusal(write("a.json", '[{"a": ' + "[" * 200_000)).what


def test_text_after_a_json_array_is_refused(write):
    error = refusal(write("a.json", json.dumps(ROWS) + "\n" + json.dumps(ROWS)))
    assert "a.json, line 2" in error.what


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_text_in_another_encoding_names_the_line(write, name):
    head = lines() if name == "a.jsonl" else "a\nb\nc\n"
    error = refusal(write(name, head.encode() + 'q"é"\n'.encode("latin-1")))
    assert f"{name}, line 4" in error.what
    assert "UTF-8" in error.fix


@pytest.mark.parametrize("content", [json.dumps(ROWS)[:-1], "{"])
def test_a_json_file_in_another_encoding_is_refused(write, content):
    path = write("a.json", content.encode() + '"é"'.encode("latin-1"))
    assert refusal(path).what == "a.json is not in UTF-8."


@pytest.mark.parametrize("content", ["[1, 2, 3]", '{"a": [1], "b": [2]}', '"text"', "3", '{"a": [{}], "b": [{}]}'])
def test_json_that_is_not_a_list_of_rows_is_refused(write, content):
    assert "a.json" in refusal(write("a.json", content)).what


def test_a_ragged_csv_line_is_refused_with_its_number(write):
    error = refusal(write("a.csv", "prompt,completion\nq,a\nq,a,b\n"))
    assert error.what == "a.csv, line 3: 3 fields where the header has 2 columns."


def test_a_csv_quote_that_does_not_close_is_refused(write):
    assert "broken CSV" in refusal(write("a.csv", 'prompt,completion\n"q,a\n')).what


def test_a_duplicate_column_is_refused_by_name(write):
    error = refusal(write("a.csv", "text,label,text\na,b,c\n"))
    assert error.code == "duplicate_column"
    assert "'text'" in error.what


def test_a_truncated_parquet_file_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "a.parquet is not a readable Parquet file" in refusal(path).what


def test_text_with_the_name_of_a_parquet_file_is_refused(write):
    assert "a.parquet is not a readable Parquet file" in refusal(write("a.parquet", lines())).what


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").what == "a.parquet holds no rows."


def test_an_unknown_suffix_is_refused_with_the_known_ones(write):
    error = refusal(write("a.docx", "text"))
    assert "a.docx" in error.what
    assert ".jsonl" in error.fix


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    assert "There is no file" in refusal(tmp_path / "nothing.jsonl").what


def test_a_file_that_may_not_be_read_is_refused(write, monkeypatch):
    monkeypatch.setattr("studio.data.row_reader.os.access", lambda path, mode: False)  # root may read every file
    assert refusal(write("a.jsonl", lines())).what == "a.jsonl may not be read."


def test_one_line_of_many_megabytes_is_one_row(write):
    text = "word " * 2_000_000
    (row,) = values(write("long.jsonl", json.dumps({"text": text})))
    assert row["text"] == text


@pytest.mark.parametrize("layout", ["one line", "a line each"])
def test_the_first_rows_of_a_long_json_array_take_little_time_and_memory(write, layout):
    row = json.dumps({"prompt": "question " * 10, "completion": "answer " * 10})
    between = ", " if layout == "one line" else ",\n"
    path = write("long.json", "[" + between.join([row] * 100_000) + "]")
    assert path.stat().st_size > 16_000_000
    tracemalloc.start()
    start = time.monotonic()
    assert len(list(islice(read_file(path), 20))) == 20
    seconds, (_, peak) = time.monotonic() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 8_000_000


def test_the_first_rows_of_a_long_jsonl_file_take_little_memory(write):
    path = write("long.jsonl", (json.dumps({"text": "word " * 40}) + "\n") * 80_000)
    tracemalloc.start()
    assert len(list(islice(read_file(path), 20))) == 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_json_array_is_read_whole_across_its_chunks(write, monkeypatch):
    monkeypatch.setattr("studio.data.json_rows._CHUNK", 7)
    rows = [{"text": "ä" * n, "more": [n, {"deep": "]},["}]} for n in range(40)]
    assert values(write("a.json", json.dumps(rows, ensure_ascii=False, indent=1))) == rows


def test_an_array_that_breaks_early_is_refused_without_reading_on(write, monkeypatch):
    path = write("rows.json", "[\n" + '{"a" 1}' + ',\n{"a": 1}' * 200_000 + "]")
    read = []
    original = json.JSONDecoder.raw_decode

    def counting(self, text, position=0):
        read.append(len(text))
        return original(self, text, position)

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", counting)
    with pytest.raises(StudioError, match="line 2"):
        list(read_file(path))
    assert len(read) == 1


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("rows.json", '[{"a": ' + "9" * 5000 + "}]", "4,300 digits"),
        ("rows.json", '{"a": ' * 100_000, "nested too deeply"),
        ("rows.jsonl", '{"a": ' * 100_000, "nested too deeply"),
    ],
)
def test_what_python_cannot_hold_is_refused_plainly(write, name, text, reason):
    with pytest.raises(StudioError, match=reason):
        list(read_file(write(name, text)))


def test_parquet_text_that_is_not_utf_8_is_refused_plainly(tmp_path):
    offsets, data = pa.py_buffer(b"\0\0\0\0\x02\0\0\0"), pa.py_buffer(b"\xff\xfe")
    table = pa.table({"text": pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(StudioError, match="not a readable Parquet file"):
        list(read_file(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("spaces.csv", "prompt, completion\nq, a\n", {"prompt": "q", "completion": "a"}),
        ("spaces-quoted.csv", '"prompt", "completion"\n"q", "a, b"\n', {"prompt": "q", "completion": "a, b"}),
        ("spaces-in-rows.csv", 'prompt,completion\n"q", "a, b"\n', {"prompt": "q", "completion": "a, b"}),
        ("indented.csv", "prompt,completion\nq,  a\n", {"prompt": "q", "completion": "  a"}),
        ("sep.csv", "sep=;\r\nprompt;completion\r\nq, x;a\r\n", {"prompt": "q, x", "completion": "a"}),
        ("sep-quoted.csv", '"sep=;"\nprompt;completion\nq;a\n', {"prompt": "q", "completion": "a"}),
        ("sep-bom.csv", "\ufeffsep=|\nprompt|completion\nq|a\n", {"prompt": "q", "completion": "a"}),
        ("semicolons.csv", "prompt;completion\nq, x, y, z;a\n", {"prompt": "q, x, y, z", "completion": "a"}),
        ("tabs.csv", "prompt\tcompletion\nq, x\ta\n", {"prompt": "q, x", "completion": "a"}),
        (
            "quoted-header.csv",
            '"prompt, long; or not";"completion, short"\nq;a\n',
            {"prompt, long; or not": "q", "completion, short": "a"},
        ),
        ("two-marks.csv", "\ufeff\ufeffprompt,completion\nq,a\n", {"prompt": "q", "completion": "a"}),
        ("header-of-two-lines.csv", '"prompt\nlong",completion\nq,a\n', {"prompt\nlong": "q", "completion": "a"}),
        ("returns.csv", 'prompt,completion\rq,"a\rb"\r', {"prompt": "q", "completion": "a\nb"}),
        ("returns.jsonl", '{"prompt": "q"}\r{"prompt": "r"}\r', {"prompt": "q"}),
        ("returns.json", '[\r{"prompt": "q"},\r{"prompt": "r"}]', {"prompt": "q"}),
    ],
)
def test_data_16_text_files_of_spreadsheets_and_old_programs_are_read(write, name, content, expected):
    assert values(write(name, content))[0] == expected


def test_data_16_the_lines_of_a_file_with_carriage_returns_alone_are_numbered(write):
    path = write("a.csv", "prompt,completion\rq,a\rr\r")
    assert "line 3" in refusal(path).what
    assert [row.number for row in read_file(write("a.jsonl", '{"a": 1}\r\r{"a": 2}'))] == [1, 3]


def test_data_16_a_line_after_sep_has_its_real_number(write):
    assert "line 4" in refusal(write("a.csv", "sep=;\na;b\n1;2\n3\n")).what


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_data_01_a_key_that_an_object_names_twice_is_refused_by_name(write, name):
    row = '{"prompt": "one", "prompt": "two", "completion": "a"}'
    assert "'prompt'" in refusal(write(name, row if name == "a.jsonl" else f"[{row}]")).what


def test_labels_of_a_table_that_datasets_has_written_have_their_names(tmp_path):
    import datasets

    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names, "many": datasets.List(names)})
    rows = [{"text": "a", "label": 1, "many": [0, 1]}, {"text": "b", "label": None, "many": []}]
    pq.write_table(datasets.Dataset.from_list(rows, features=features).data.table, tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == [
        {"text": "a", "label": "yes", "many": ["no", "yes"]},
        {"text": "b", "label": None, "many": []},
    ]
