"""Sources and mixtures: which rows are read, how they are numbered, and on which side of the split they stand."""

import gzip
import json
from collections import Counter

import pytest

from studio.data import load_conversations, load_evaluation, read_conversations, split_conversations
from studio.data.conversations import conversations_at, survey
from studio.data.load import left_out
from studio.data.sources import parts, rows_at
from studio.errors import StudioError
from studio.recipe import DataSpec, Recipe

pytestmark = pytest.mark.usefixtures("home")


def pairs(numbers, what: str = "answer") -> list[dict]:
    return [{"prompt": f"question {n}", "completion": f"{what} {n}"} for n in numbers]


def as_lines(rows: list) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def write(tmp_path):
    """A function that writes rows as JSON Lines (or text as it is) and gives the path."""

    def write_file(name: str, content: list | str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else as_lines(content)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return str(path)

    return write_file


def spec(source: str, *mix: dict, **more) -> DataSpec:
    return DataSpec.model_validate({"source": source, "mix": list(mix), **more})


def read(data: DataSpec, **more) -> list:
    return list(read_conversations(data, **more).conversations)


def numbers(data: DataSpec, **more) -> list[int]:
    return [conversation.row for conversation in read(data, **more)]


def answers(rows) -> list[str]:
    return [row["messages"][-1]["content"] for row in rows]


def refusal(function, *given) -> StudioError:
    with pytest.raises(StudioError) as caught:
        function(*given)
    return caught.value


# mixtures


def test_a_weight_of_a_half_takes_about_half_of_the_rows(write):
    data = spec(write("a.jsonl", pairs([0])), {"source": write("b.jsonl", pairs(range(1000), "mixed")), "weight": 0.5})
    mixed = [answer for answer in answers(load_conversations(data)) if "mixed" in answer]
    assert 430 <= len(mixed) <= 570
    assert len(set(mixed)) == len(mixed)


def test_a_part_of_a_weight_takes_the_same_rows_wherever_they_stand(write):
    rows = pairs(range(300), "mixed")
    first = write("a.jsonl", pairs([0]))
    forwards = spec(first, {"source": write("b.jsonl", rows), "weight": 0.3})
    backwards = spec(first, {"source": write("c.jsonl", [*pairs(range(900, 950)), *rows[::-1]]), "weight": 0.3})
    taken = [{a for a in answers(load_conversations(data)) if "mixed" in a} for data in (forwards, backwards)]
    assert taken[0] == taken[1]
    assert 0 < len(taken[0]) < 300


def test_a_smaller_weight_takes_a_part_of_what_a_larger_one_takes(write):
    first, more = write("a.jsonl", pairs([0])), write("b.jsonl", pairs(range(300), "mixed"))
    taken = [set(answers(load_conversations(spec(first, {"source": more, "weight": w})))) for w in (0.2, 0.6, 1)]
    assert taken[0] < taken[1] < taken[2]


def test_a_weight_of_two_takes_each_row_twice(write):
    data = spec(write("a.jsonl", pairs(range(3))), {"source": write("b.jsonl", pairs(range(4), "mixed")), "weight": 2})
    counted = Counter(answers(load_conversations(data)))
    assert counted == {**{f"answer {n}": 1 for n in range(3)}, **{f"mixed {n}": 2 for n in range(4)}}


def test_a_weight_of_two_and_a_half_takes_each_row_two_or_three_times(write):
    more = write("b.jsonl", pairs(range(200), "mixed"))
    counted = Counter(answers(load_conversations(spec(write("a.jsonl", pairs([0])), {"source": more, "weight": 2.5}))))
    times = Counter(count for answer, count in counted.items() if "mixed" in answer)
    assert set(times) == {2, 3}
    assert 60 <= times[3] <= 140


def test_a_survey_counts_a_row_as_often_as_it_is_used(write):
    data = spec(write("a.jsonl", pairs(range(3))), {"source": write("b.jsonl", pairs(range(4))), "weight": 3})
    assert survey(data).rows == len(load_conversations(data)) == 15


def test_the_rows_of_a_mixture_are_numbered_through(write):
    data = spec(
        write("a.jsonl", pairs(range(3))),
        {"source": write("b.jsonl", pairs(range(2)))},
        {"source": write("c.jsonl", pairs(range(4))), "weight": 2},
    )
    assert numbers(data) == list(range(1, 10))
    assert load_conversations(data)["row"][:] == [1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 9]


def test_where_names_the_file_and_the_row_in_it(write):
    data = spec(write("a.jsonl", pairs(range(2))), {"source": write("b.csv", "prompt,completion\nq,a\nr,b\n")})
    assert [c.where for c in read(data)] == ["a.jsonl, row 1", "a.jsonl, row 2", "b.csv, row 2", "b.csv, row 3"]


def test_where_of_a_folder_in_a_mixture_names_the_file_in_the_folder(write, tmp_path):
    write("folder/x.jsonl", pairs(range(2)))
    write("folder/y.jsonl", pairs(range(1)))
    data = spec(write("a.jsonl", pairs(range(1))), {"source": str(tmp_path / "folder")})
    assert read(data)[-1].where == "folder, y.jsonl, row 1"


def test_a_single_file_keeps_its_line_numbers_and_needs_no_place(write):
    data = spec(write("a.jsonl", "\n" + as_lines(pairs(range(2)))))
    assert [(c.row, c.where) for c in read(data)] == [(2, ""), (3, "")]


def test_each_source_is_read_in_its_own_format_and_columns(write):
    data = spec(
        write("a.jsonl", [{"q": "one", "a": "1", "other": "no"}]),
        {"source": write("b.jsonl", [{"instruction": "two", "input": "", "output": "2"}])},
        {"source": write("c.csv", "text,label\nthree,3\n"), "format": "classification"},
        {"source": write("d.jsonl", [{"text": "four"}]), "format": "text"},
        columns={"question": "q", "answer": "a"},
    )
    rows = load_conversations(data)
    said = [[m["content"] for m in row["messages"]] if row["messages"] else row["text"] for row in rows]
    assert said == [["one", "1"], ["two", "2"], ["three", "3"], "four"]


def test_the_system_prompt_of_the_dataset_goes_before_the_rows_of_every_source(write):
    data = spec(write("a.jsonl", pairs([1])), {"source": write("b.jsonl", pairs([2]))}, system_prompt="Be brief.")
    assert [row["messages"][0]["content"] for row in load_conversations(data)] == ["Be brief.", "Be brief."]


def test_each_source_of_a_mixture_has_its_own_range(write):
    more = {"source": write("b.jsonl", pairs(range(9), "mixed")), "skip_rows": 1, "max_rows": 2}
    data = spec(write("a.jsonl", pairs(range(9))), more, skip_rows=6)
    assert answers(load_conversations(data)) == ["answer 6", "answer 7", "answer 8", "mixed 1", "mixed 2"]


@pytest.mark.parametrize("weight", [0, -1, 101])
def test_a_weight_beyond_its_bounds_is_a_problem_of_the_recipe(weight):
    problems = Recipe.parse({"data": {"mix": [{"source": "a.jsonl", "weight": weight}]}}).problems()
    assert len(problems) == 1
    assert "weight" in str(problems[0].field)


def test_another_split_reads_the_first_source_alone():
    other = {"source": "builtin/support-triage", "split": "train"}
    data = spec("builtin/support-triage", other, skip_rows=7, max_rows=3)
    assert len(load_conversations(data)) == 3 + 300
    assert len(load_conversations(data, "test")) == 60
    assert [part.split for part in parts(data, "test")] == ["test"]


def test_a_broken_row_of_a_second_source_is_refused_by_its_own_file_and_line(write):
    data = spec(write("a.jsonl", pairs(range(3))), {"source": write("b.jsonl", as_lines(pairs(range(30))) + "{x\n")})
    assert "b.jsonl, line 31" in refusal(load_conversations, data).what


def test_a_second_source_that_is_not_there_is_refused(write):
    data = spec(write("a.jsonl", pairs(range(3))), {"source": "no-such-file.jsonl"})
    assert "no-such-file.jsonl" in refusal(load_conversations, data).what


# ranges


def test_skip_rows_and_max_rows_take_the_rows_between(write):
    path = write("a.jsonl", pairs(range(20)))
    assert numbers(spec(path, skip_rows=5)) == list(range(6, 21))
    assert numbers(spec(path, max_rows=4)) == [1, 2, 3, 4]
    assert numbers(spec(path, skip_rows=5, max_rows=4)) == [6, 7, 8, 9]


def test_skip_rows_and_max_rows_count_rows_not_blank_lines(write):
    path = write("a.jsonl", "\n\n".join(json.dumps(row) for row in pairs(range(6))))
    chosen = read(spec(path, skip_rows=2, max_rows=2))
    assert [c.row for c in chosen] == [5, 7]
    assert [c.messages[-1]["content"] for c in chosen] == ["answer 2", "answer 3"]


@pytest.mark.parametrize("start", range(1, 13))
@pytest.mark.parametrize(("skip", "most"), [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_a_start_moves_within_the_range_and_never_beyond_it(write, start, skip, most):
    path = write("a.jsonl", "\n\n".join(json.dumps(row) for row in pairs(range(6))))
    data = spec(path, skip_rows=skip, max_rows=most)
    assert numbers(data, start=start) == [number for number in numbers(data) if number >= start]


def test_a_range_longer_than_the_file_is_the_rest_of_it(write):
    assert numbers(spec(write("a.jsonl", pairs(range(30))), skip_rows=27, max_rows=100)) == [28, 29, 30]


def test_a_range_beyond_the_end_is_refused(write):
    error = refusal(load_conversations, spec(write("a.jsonl", pairs(range(3))), skip_rows=3))
    assert "it has no rows" in error.what


def test_the_shape_is_found_from_the_first_rows_even_if_they_are_skipped(write):
    path = write("a.jsonl", [*pairs(range(3)), {"prompt": "last"}])
    assert read_conversations(spec(path, skip_rows=3)).mapping.format == "prompt_completion"


# folders


def test_a_folder_of_several_files_numbers_its_rows_through(write, tmp_path):
    write("folder/a.jsonl", "\n" + as_lines(pairs(range(2))))
    write("folder/b.csv", "prompt,completion\nq,a\nr,b\n")
    write("folder/c.jsonl.gz", pairs(range(2)))
    assert numbers(spec(str(tmp_path / "folder"))) == [1, 2, 3, 4, 5, 6]


def test_where_in_a_folder_names_the_file_and_the_row_in_it(write, tmp_path):
    write("folder/a.jsonl", "\n" + as_lines(pairs(range(2))))
    write("folder/b.csv", "prompt,completion\nq,a\n")
    places = [c.where for c in read(spec(str(tmp_path / "folder")))]
    assert places == ["a.jsonl, row 2", "a.jsonl, row 3", "b.csv, row 2"]


def test_a_range_of_a_folder_goes_over_its_files(write, tmp_path):
    for name in "abc":
        write(f"folder/{name}.jsonl", pairs(range(3), name))
    data = spec(str(tmp_path / "folder"), skip_rows=2, max_rows=5)
    assert answers(load_conversations(data)) == ["a 2", "b 0", "b 1", "b 2", "c 0"]
    assert numbers(data, start=6) == [6, 7]


# rows by their numbers


def stored(tmp_path, kind: str):
    """A file of 40 rows of a kind, or a folder of four files."""
    rows = pairs(range(40))
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(as_lines(rows).encode()))
    elif kind == "csv":
        path.write_text("prompt,completion\n" + "".join(f'"{r["prompt"]}\n",{r["completion"]}\n' for r in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    else:
        path.mkdir()
        for start in range(0, 40, 10):
            (path / f"{start}.jsonl").write_text(as_lines(rows[start : start + 10]))
    return path


KINDS = ["jsonl", "jsonl.gz", "csv", "json", "parquet", "folder"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [[0], [39], [3, 4, 5], [0, 22, 39], []])
def test_rows_at_gives_exactly_the_rows_that_are_asked_for(tmp_path, kind, places):
    data = spec(str(stored(tmp_path, kind)))
    every = read(data)
    _, found = rows_at([data], [every[place].row for place in places])
    assert [(row.number, row.values["completion"]) for _, row in found] == [
        (every[place].row, f"answer {place}") for place in places
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_at_gives_them_once_each_in_ascending_order(tmp_path, kind):
    data = spec(str(stored(tmp_path, kind)))
    some = [read(data)[place].row for place in (30, 2, 30, 11)]
    assert [row.number for _, row in rows_at([data], some)[1]] == sorted(set(some))


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_beyond_the_end_are_left_out(tmp_path, kind):
    data = spec(str(stored(tmp_path, kind)))
    first = read(data)[0].row
    assert [row.number for _, row in rows_at([data], [first, 100_000])[1]] == [first]


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_at_are_those_that_reading_gives(tmp_path, kind):
    data = spec(str(stored(tmp_path, kind)), system_prompt="Be brief.")
    every = read(data)
    chosen = [every[place] for place in (1, 8, 25)]
    assert list(conversations_at(data, [c.row for c in chosen]).conversations) == chosen


def test_conversations_of_a_mixture_are_found_by_their_numbers(write):
    data = spec(
        write("a.jsonl", pairs(range(5))),
        {"source": write("b.jsonl", pairs(range(5), "mixed")), "weight": 2},
        {"source": write("c.jsonl", pairs(range(5), "last"))},
    )
    found = list(conversations_at(data, [14, 5, 6]).conversations)
    assert [(c.row, c.messages[-1]["content"], c.copies) for c in found] == [
        (5, "answer 4", 1),
        (6, "mixed 0", 2),
        (14, "last 3", 1),
    ]


def test_conversations_of_a_range_are_found_by_the_numbers_of_their_lines(write):
    data = spec(write("a.jsonl", pairs(range(9))), skip_rows=4, max_rows=3)
    found = list(conversations_at(data, [6, 7]).conversations)
    assert [c.messages[-1]["content"] for c in found] == ["answer 5", "answer 6"]


# names


@pytest.mark.parametrize(
    "name",
    [
        "x" * 300,
        f"{'x' * 150}/{'y' * 150}",
        "x" * 300 + ".jsonl",
        "a/" * 150 + "b.csv",
        "a\x00b",
        "a\x00b.jsonl",
    ],
)
@pytest.mark.parametrize("function", [load_conversations, read_conversations, survey])
def test_a_name_that_no_file_system_takes_is_refused_plainly(name, function):
    error = refusal(function, spec(name))
    assert error.what.startswith("There is no file or Hub dataset")
    assert len(error.what) < 300
    assert "\x00" not in error.what
    assert error.field == "data.source"


# splits


def split(data: DataSpec, seed: int = 0) -> tuple[list[str], list[str]]:
    """The answers that are trained on, and those that are held out."""
    train, held_out = split_conversations(load_conversations(data), data, seed)
    return answers(train), answers(held_out or [])


def test_a_column_holds_its_rows_out(write):
    words = ["train", "test", "", "Validation", "dev ", "no", "true", "0", "holdout"]
    rows = [{**pair, "part": word} for pair, word in zip(pairs(range(9)), words, strict=True)]
    train, held_out = split(spec(write("a.jsonl", rows), holdout_column="part"))
    assert held_out == [f"answer {n}" for n in (1, 3, 4, 6, 8)]
    assert train == [f"answer {n}" for n in (0, 2, 5, 7)]


@pytest.mark.parametrize(("yes", "no"), [(True, False), (1, 0), (1.0, 0.0), ("val", None)])
def test_a_column_may_hold_rows_out_in_many_ways(write, yes, no):
    rows = [{**pair, "out": yes if n % 2 else no} for n, pair in enumerate(pairs(range(4)))]
    assert split(spec(write("a.jsonl", rows), holdout_column="out"))[1] == ["answer 1", "answer 3"]


def test_a_column_that_is_not_there_is_refused_with_those_that_are(write):
    error = refusal(load_conversations, spec(write("a.jsonl", pairs(range(4))), holdout_column="part"))
    assert error.field == "data.holdout_column"
    assert "prompt, completion" in error.fix


def test_a_column_need_not_be_in_the_split_that_is_evaluated(write, tmp_path, monkeypatch):
    monkeypatch.setattr("studio.data.sources.ASSETS", tmp_path)
    write("datasets/parted/train.jsonl", [{**pair, "part": "test"} for pair in pairs(range(4))])
    write("datasets/parted/test.jsonl", pairs(range(2)))
    data = spec("builtin/parted", holdout_column="part", eval_split="test")
    assert len(load_conversations(data)) == 4
    assert len(load_evaluation(data, seed=0)) == 2


def test_a_column_that_holds_no_row_out_trains_on_all(write):
    rows = [{**pair, "part": "train"} for pair in pairs(range(4))]
    train, held_out = split(spec(write("a.jsonl", rows), holdout_column="part"))
    assert len(train) == 4
    assert held_out == []


@pytest.mark.parametrize("count", [1, 7, 25])
@pytest.mark.parametrize("seed", range(4))
def test_so_many_rows_as_are_asked_for_are_held_out(write, count, seed):
    train, held_out = split(spec(write("a.jsonl", pairs(range(50))), holdout_rows=count), seed)
    assert len(held_out) == count
    assert sorted([*train, *held_out]) == sorted(f"answer {n}" for n in range(50))


def test_more_rows_than_there_are_leave_one_to_train_on(write):
    train, held_out = split(spec(write("a.jsonl", pairs(range(5))), holdout_rows=99))
    assert (len(train), len(held_out)) == (1, 4)


def test_a_second_file_is_held_out_whole_and_the_first_trained_on_whole(write):
    data = spec(write("a.jsonl", pairs(range(5))), holdout_source=write("b.jsonl", pairs(range(3), "held")))
    train, held_out = split(data)
    assert train == [f"answer {n}" for n in range(5)]
    assert held_out == [f"held {n}" for n in range(3)]
    assert answers(load_evaluation(data, seed=0)) == held_out


def test_the_second_file_is_read_whole_whatever_the_range_and_the_mixture_of_the_first(write):
    data = spec(
        write("a.jsonl", pairs(range(9))),
        {"source": write("m.jsonl", pairs(range(2), "mixed"))},
        skip_rows=2,
        max_rows=3,
        holdout_source=write("b.jsonl", pairs(range(5), "held")),
    )
    train, held_out = split(data)
    assert train == ["answer 2", "answer 3", "answer 4", "mixed 0", "mixed 1"]
    assert len(held_out) == 5


def test_training_rows_that_are_all_held_out_are_refused(write):
    data = spec(write("a.jsonl", pairs(range(5))), holdout_source=write("b.jsonl", pairs(range(8))))
    error = refusal(split, data)
    assert "No row is left to train on" in error.what and "data.holdout_source" in error.fix


def test_a_second_file_that_is_not_there_is_refused(write):
    error = refusal(split, spec(write("a.jsonl", pairs(range(5))), holdout_source="no-such-file.jsonl"))
    assert "no-such-file.jsonl" in error.what


def test_two_ways_to_hold_rows_out_are_a_problem_of_the_recipe():
    recipe = Recipe.parse({"data": {"holdout_rows": 3, "holdout_column": "part"}})
    assert [problem.field for problem in recipe.problems()] == ["data.holdout_column"]


def sentence(number: int, words: int = 60) -> str:
    """Words that no other number has."""
    return " ".join(f"word{number}x{i}" for i in range(words))


def nearly_the_same(count: int) -> list[dict]:
    """Families of three rows: a long answer, the same in capitals with other signs, and one with a word more."""
    rows = []
    for n in range(count):
        text = sentence(n)
        versions = [text, text.upper().replace(" ", ", ") + "!", f"{text} indeed"]
        rows += [{"prompt": f"question {n}", "completion": version} for version in versions]
    return rows


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("holdout", [{"holdout": 0.2}, {"holdout": 0.5}, {"holdout_rows": 9}])
def test_near_duplicates_are_never_on_both_sides_of_a_split(write, seed, holdout):
    data = spec(write("a.jsonl", nearly_the_same(30)), **holdout)
    sides = split_conversations(load_conversations(data), data, seed)
    asked = [{row["messages"][0]["content"] for row in side} for side in sides]
    assert asked[0] and asked[1]
    assert not asked[0] & asked[1]


def test_near_duplicates_do_not_make_the_held_out_share_larger(write):
    data = spec(write("a.jsonl", nearly_the_same(200)), holdout=0.2)
    dataset = load_conversations(data)
    shares = [len(split_conversations(dataset, data, seed)[1]) / 600 for seed in range(5)]
    assert 0.14 <= sum(shares) / 5 <= 0.26


@pytest.mark.parametrize("seed", range(6))
def test_adding_unrelated_rows_moves_none(write, seed):
    old = [*nearly_the_same(20), *pairs(range(60))]
    new = [{"prompt": f"new {n}", "completion": sentence(n + 500)} for n in range(80)]
    before = split(spec(write("a.jsonl", old), holdout=0.25), seed)
    after = split(spec(write("b.jsonl", [*new[:40], *old, *new[40:]]), holdout=0.25), seed)
    for one, other in zip(before, after, strict=True):
        assert set(one) <= set(other)


def test_the_copies_of_a_row_of_a_mixture_are_on_the_same_side(write):
    more = {"source": write("b.jsonl", pairs(range(40), "mixed")), "weight": 3}
    train, held_out = split(spec(write("a.jsonl", pairs(range(20))), more, holdout=0.3))
    assert held_out
    assert not set(train) & set(held_out)


# what is loaded


def test_tools_and_tool_calls_are_loaded_as_they_were_given(write):
    schema = {"type": "object", "properties": {"city": {"type": "string", "enum": ["a", "b"]}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "get_weather", "description": "Says", "parameters": schema}}]
    arguments = {"city": "Köln", "days": 3, "deep": {"list": [1, 2.5, None, True, "x"], "empty": {}}}
    calls = [{"type": "function", "id": "c1", "function": {"name": "get_weather", "arguments": arguments}}]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "content": '{"t": 3}', "tool_call_id": "c1", "name": "get_weather"},
        {"role": "assistant", "content": "Cold."},
    ]
    parameters = {"properties": {"x": {"type": "number"}}}
    other = [{"type": "function", "function": {"name": "other", "parameters": parameters}}]
    short = [messages[0], messages[3]]
    path = write("a.jsonl", [{"messages": messages, "tools": tools}, {"messages": short, "tools": other}])
    first, second = load_conversations(spec(path))
    assert first["messages"] == messages
    assert first["tools"] == tools
    assert second["messages"] == short
    assert second["tools"] == other


def test_a_row_without_tools_has_none(write):
    assert load_conversations(spec(write("a.jsonl", pairs([1]))))[0]["tools"] is None


def test_tools_and_arguments_that_are_written_as_text_are_loaded_as_objects(write):
    function = {"name": "get_weather", "parameters": {"type": "object"}}
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Köln"}'}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    (row,) = load_conversations(spec(write("a.jsonl", [{"messages": messages, "tools": json.dumps([function])}])))
    assert row["tools"] == [{"type": "function", "function": function}]
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"city": "Köln"}


# rows that cannot be trained on


@pytest.fixture
def faulty(write):
    return write("a.jsonl", [*pairs(range(3)), {"prompt": "only"}, {"prompt": "", "completion": "x"}, {"prompt": "x"}])


@pytest.mark.parametrize("invalid_rows", ["ask", "drop"])
@pytest.mark.parametrize("loaded", [True, False])
def test_rows_that_need_mending_are_told_by_reason_and_do_not_stop(faulty, invalid_rows, loaded):
    data = spec(faulty, invalid_rows=invalid_rows)
    if loaded:
        assert len(load_conversations(data)) == 3
    assert left_out(data) == {"completion is missing": (2, "row 4"), "prompt is empty": (1, "row 5")}


@pytest.mark.parametrize("loaded", [True, False])
def test_rows_that_need_mending_stop_if_they_are_to(faulty, loaded):
    data = spec(faulty, invalid_rows="stop")
    if loaded:
        assert len(load_conversations(data)) == 3
    error = refusal(left_out, data)
    assert "3 rows cannot be trained on" in error.what
    assert "2 x completion is missing (first in row 4)" in error.what
    assert "1 x prompt is empty (first in row 5)" in error.what
    assert error.field == "data.invalid_rows"


def test_the_first_row_that_needs_mending_is_named_by_its_file_in_a_mixture(faulty, write):
    data = spec(write("good.jsonl", pairs(range(2))), {"source": faulty}, invalid_rows="stop")
    assert "first in a.jsonl, row 4" in refusal(left_out, data).what


def test_rows_that_are_all_sound_do_not_stop(write):
    data = spec(write("a.jsonl", pairs(range(3))), invalid_rows="stop")
    load_conversations(data)
    assert left_out(data) == {}


def test_answers_that_the_dataset_marks_as_unwanted_need_no_mending(write):
    rows = [{**pair, "label": n % 2 == 0} for n, pair in enumerate(pairs(range(6)))]
    data = spec(write("a.jsonl", rows), invalid_rows="stop")
    assert len(load_conversations(data)) == 3
    assert left_out(data) == {}


def test_a_mended_file_stops_no_more(faulty, write):
    data = spec(faulty, invalid_rows="stop")
    load_conversations(data)
    refusal(left_out, data)
    write("a.jsonl", pairs(range(9)))
    load_conversations(data)
    assert left_out(data) == {}


# the cache


@pytest.fixture
def mixed(write):
    return spec(write("a.jsonl", pairs(range(8))), {"source": write("b.jsonl", pairs(range(8), "mixed"))})


def read_again(data: DataSpec, monkeypatch) -> bool:
    """Whether loading reads the sources."""
    from studio.data import load

    read_rows, asked = load.read_conversations, []
    monkeypatch.setattr(load, "read_conversations", lambda *given: asked.append(1) or read_rows(*given))
    load_conversations(data)
    return bool(asked)


def test_a_dataset_is_read_once(mixed, monkeypatch):
    assert read_again(mixed, monkeypatch)
    assert not read_again(mixed, monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 99},
        {"train_on": "last"},
        {"chat_template": "chatml"},
        {"eval_split": "train"},
        {"invalid_rows": "drop"},
        {"holdout": 0.3},
        {"holdout_rows": 3},
        {"holdout_source": "elsewhere.jsonl"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_setting_that_changes_no_conversation_does_not_read_again(mixed, monkeypatch, change):
    load_conversations(mixed)
    assert not read_again(mixed.model_copy(update=change), monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        {"max_rows": 3},
        {"skip_rows": 3},
        {"format": "prompt_completion"},
        {"columns": {"prompt": "completion", "completion": "prompt"}},
        {"system_prompt": "Be brief."},
        {"reasoning": "drop"},
        {"holdout_column": "prompt"},
        {"mix": []},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_setting_that_changes_conversations_reads_again(mixed, monkeypatch, change):
    load_conversations(mixed)
    assert read_again(mixed.model_copy(update=change), monkeypatch)


@pytest.mark.parametrize("change", [{"weight": 2.0}, {"max_rows": 3}, {"format": "prompt_completion"}], ids=str)
def test_a_changed_setting_of_another_source_reads_again(mixed, monkeypatch, change):
    load_conversations(mixed)
    changed = mixed.model_copy(update={"mix": [mixed.mix[0].model_copy(update=change)]})
    assert read_again(changed, monkeypatch)


@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl"])
def test_a_change_of_any_source_is_seen(mixed, write, name):
    load_conversations(mixed)
    write(name, pairs(range(9), "changed"))
    assert "changed 8" in answers(load_conversations(mixed))


def test_a_file_that_comes_into_a_folder_is_seen(write, tmp_path):
    write("folder/a.jsonl", pairs(range(3)))
    data = spec(str(tmp_path / "folder"))
    assert len(load_conversations(data)) == 3
    write("folder/b.jsonl", pairs(range(4), "more"))
    assert len(load_conversations(data)) == 7
