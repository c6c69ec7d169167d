"""The log on the page: its end, and a search over all of it."""

import pytest

from studio.recipe import Recipe
from studio.runs import Run
from studio.runs.log_lines import FOUND_LINES, search, tail
from studio.ui.runs.log import log, marked

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def run():
    return Run.create(Recipe())


def test_a_run_without_output_says_so(run):
    assert "Nothing has been printed" in log({"run": run.id})["html"]


def test_the_end_of_a_long_log_is_whole_lines(run):
    run.log_path.write_text("".join(f"line {n}\n" for n in range(20_000)))
    lines, more = tail(run.log_path)
    assert more
    assert lines[-1] == "line 19999"
    assert lines == [f"line {n}" for n in range(20_000 - len(lines), 20_000)]


def test_a_search_finds_lines_anywhere_whatever_their_case(run):
    run.log_path.write_text("An ERROR here\n" + "quiet\n" * 50_000 + "an error there\n")
    found, count = search(run.log_path, "Error")
    assert found == [(1, "An ERROR here"), (50_002, "an error there")]
    assert count == 2


def test_of_too_many_lines_the_last_are_shown_and_all_are_counted(run):
    run.log_path.write_text("".join(f"x {n}\n" for n in range(FOUND_LINES + 10)))
    said = log({"run": run.id, "search": "x"})
    assert said["told"] == f"{FOUND_LINES + 10} lines, the last {FOUND_LINES} are shown"
    assert f"</mark> {FOUND_LINES + 9}" in said["html"]


def test_what_a_progress_bar_has_overwritten_is_gone(run):
    run.log_path.write_bytes(b"10%\r50%\r100%\r\nnext\n")
    assert tail(run.log_path)[0] == ["100%", "next"]


def test_an_unchanged_log_is_not_sent_again(run):
    run.log_path.write_text("x\n")
    said = log({"run": run.id})
    assert log({"run": run.id, "have": said["size"]}) == {"same": True}


def test_output_is_text_and_never_markup(run):
    run.log_path.write_text("<script>alert(1)</script>\n")
    assert "<script>" not in log({"run": run.id})["html"]
    assert "<script>" not in log({"run": run.id, "search": "alert"})["html"]


@pytest.mark.parametrize("line", ["a < b & a", "aAa", "İstanbul a", "no"])
def test_a_marked_line_reads_as_the_line(line):
    import html
    import re

    assert html.unescape(re.sub("</?mark>", "", marked(line, "a"))) == line


def test_a_run_that_is_gone_has_no_log():
    assert log({"run": "../../etc/passwd"})["html"] == ""
