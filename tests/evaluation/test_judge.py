"""A judge's verdicts: flipped in half of the cases, counted for the right model, and a key that is kept nowhere."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from studio.errors import StudioError
from studio.evaluation.judge import PROMPT, endpoint, filled, judge, replies_path
from studio.evaluation.suite_run import Answer, SuiteRun
from studio.evaluation.suites import Prompt, Suite


@pytest.fixture
def run() -> SuiteRun:
    prompts = tuple(
        Prompt(str(n), ({"role": "user", "content": f"Task {n} {{a}}"},), "ref" if n == 0 else None) for n in range(20)
    )
    answers = {name: {p.id: Answer(p.id, f"{name} answer", 2) for p in prompts} for name in ("base", "tuned")}
    return SuiteRun(Suite("mine", prompts), answers)


def likes_tuned(text: str) -> str:
    first = text.index("tuned answer") < text.index("base answer")
    return "I think it is " + ("A" if first else "B")


def test_the_tuned_model_wins_whichever_side_it_stands_on(run):
    found = judge(run, "base", "tuned", likes_tuned)
    assert found["win_rates"] == {"base": 0.0, "tuned": 1.0}
    assert sum(v["flipped"] for v in found["verdicts"]) == 10
    assert found["first_side"] == 0.5
    assert found["p"] < 0.001
    assert found["scores"]["tuned"][1] > 1000


def test_a_judge_that_always_takes_the_first_says_nothing_about_the_models(run):
    found = judge(run, "base", "tuned", lambda text: "A")
    assert found["win_rates"] == {"base": 0.5, "tuned": 0.5}
    assert found["first_side"] == 1.0
    assert found["p"] == 1.0


def test_no_verdict_is_counted_as_none(run):
    found = judge(run, "base", "tuned", lambda text: "Both are fine.")
    assert found["no_verdict"] == found["prompts"] == 20
    assert found["p"] is None


def test_results_01_a_long_thought_that_is_cut_off_is_no_verdict(run):
    """Its opening mark is far before the part of the reply that is kept."""
    found = judge(run, "base", "tuned", lambda text: "<think>" + "so " * 10_000 + "[[A]]")
    assert found["no_verdict"] == 20
    found = judge(run, "base", "tuned", lambda text: "so " * 10_000 + "[[A]] or [[B]]\n</think>\n\n[[B]]")
    assert found["no_verdict"] == 0


def test_braces_in_answers_stay_what_they_are():
    parts = {"prompt": "{b}", "reference": "", "a": "{a} {0} %s", "b": "\\1"}
    text = filled(PROMPT, parts)
    assert "{a} {0} %s" in text
    assert "\\1" in text
    assert "The task:\n{b}" in text


def test_a_prompt_without_the_answers_is_refused(run):
    with pytest.raises(StudioError, match=r"no \{b\}"):
        judge(run, "base", "tuned", likes_tuned, prompt="{prompt} {a}")


@pytest.fixture
def server():
    """An OpenAI-compatible endpoint that answers with what ``server.reply`` says."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.seen.append((self.path, self.headers.get("Authorization"), body))
            status, reply, *headers = self.server.script() if self.server.script else self.server.reply
            self.send_response(status)
            for name, value in headers[0].items() if headers else ():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the other side has had enough
                self.wfile.write(reply.encode())

        def log_message(self, *_):
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    made.script = None
    made.seen, made.reply = [], (200, json.dumps({"choices": [{"message": {"content": "TIE"}}]}))
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def address(server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def test_an_endpoint_is_asked_with_the_key_of_the_environment(run, server, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "secret-key")
    found = judge(run, "base", "tuned", endpoint(address(server), "a-model"))
    assert found["win_rates"] == {"base": 0.5, "tuned": 0.5}
    path, key, body = server.seen[0]
    assert (path, key, body["model"], body["temperature"]) == (
        "/v1/chat/completions",
        "Bearer secret-key",
        "a-model",
        0,
    )
    assert "secret-key" not in json.dumps(found)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((401, ""), "refuses the key"),
        ((500, "oops"), "status 500"),
        ((200, "no json"), "no message"),
        ((200, "[]"), "no message"),
        ((200, "[" * 100_000), "no message"),
    ],
)
def test_a_judge_that_does_not_answer_is_told_without_the_key(server, monkeypatch, reply, said):
    monkeypatch.setenv("JUDGE_API_KEY", "secret-key")
    server.reply = reply
    with pytest.raises(StudioError, match=said) as caught:
        endpoint(address(server), "a-model", waits=())("Hello")
    assert "secret-key" not in f"{caught.value!r}{caught.value.what}{caught.value.fix}"


def test_nobody_at_the_address_is_told():
    with pytest.raises(StudioError, match="does not answer"):
        endpoint("http://127.0.0.1:9/v1", "m", waits=())("Hello")


PHRASINGS = (
    "{won}",
    "[[{won}]]",
    "**{won}**",
    "({won}).",
    "Verdict: {won}",
    "My final verdict: Answer {won}.",
    "Winner: **{won}**",
    "The better answer is {won}.",
    "The better answer is {won}, as {lost} is vague.",
    "Answer {won} is a better answer.",
    "Answer {won} is better than answer {lost}.",
    "{lost} is good, but {won} is better.",
    "Although {lost} is longer, {won} is the better one.",
    "I prefer answer {won}, because a reader learns more from it.",
    "After a careful look I would choose {won}.",
    "{won} wins.",
    "Answer {lost} is worse than answer {won}.",
    "{won}\n\nIt is a complete answer; the other one lacks a step.",
    "A first look favours none.\n\nOn a closer look a detail is missing in one.\n\n[[{won}]]",
    "<think>{lost} is better? It is a close call.</think>Response {won} is clearly the stronger response.",
    "Neither answer is perfect, but {won} is better.",
    '{{"verdict": "{won}"}}',
)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("phrasing", PHRASINGS)
def test_results_01_a_judge_that_is_always_right_gives_twelve_of_twelve_in_any_phrasing(phrasing, swapped):
    found = judge(run_of(12), *(("tuned", "base") if swapped else ("base", "tuned")), says(lambda n: phrasing))
    assert found["win_rates"] == {"base": 0.0, "tuned": 1.0}
    assert (found["prompts"], found["no_verdict"], found["ties"], found["failed"]) == (12, 0, 0, 0)
    assert found["first_side"] == 0.5
    assert found["p"] < 0.001


def test_results_01_different_phrasings_in_one_suite_are_all_read():
    found = judge(run_of(len(PHRASINGS)), "base", "tuned", says(lambda n: PHRASINGS[n]))
    assert found["win_rates"] == {"base": 0.0, "tuned": 1.0}


def test_results_01_missing_contradictory_and_equal_verdicts_are_counts_of_their_own():
    said = ["Neither A nor B", "[[A]] or [[B]]", "A better answer names a source.", "Both are equal", "TIE", "[[C]]"]
    found = judge(run_of(12), "base", "tuned", says(lambda n: said[n] if n < 6 else "{won}"))
    assert (found["prompts"], found["no_verdict"], found["ties"], found["failed"]) == (12, 3, 3, 0)
    assert found["win_rates"]["tuned"] == pytest.approx((6 + 1.5) / 9)
    assert [v["score"] for v in found["verdicts"]][:6] == [None, None, None, 0.5, 0.5, 0.5]


def run_of(count: int) -> SuiteRun:
    prompts = tuple(Prompt(f"{n:02}", ({"role": "user", "content": f"Task {n:02}"},), None) for n in range(count))
    answers = {name: {p.id: Answer(p.id, f"{name} answer", 2) for p in prompts} for name in ("base", "tuned")}
    return SuiteRun(Suite("mine", prompts), answers)


def says(phrasing):
    """A judge that always finds the tuned model's answer better; ``phrasing`` of a task's number says how."""

    def ask(text: str) -> str:
        number = int(text.split("Task ")[1][:2])
        won, lost = "AB" if text.index("tuned answer") < text.index("base answer") else "BA"
        return phrasing(number).format(won=won, lost=lost)

    return ask


def scripted(server, *replies):
    """Let the endpoint give these replies one after another, and the last one again and again."""
    waiting = list(replies)

    def next_reply():
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    server.script = next_reply


OK = (200, json.dumps({"choices": [{"message": {"content": "[[A]]"}}]}))


@pytest.mark.parametrize("passing", [429, 500, 502, 503, 408])
def test_results_08_a_status_that_may_pass_is_tried_again_with_growing_waits(server, passing):
    slept = []
    scripted(server, (passing, "busy"), (passing, "busy"), OK)
    assert endpoint(address(server), "m", sleep=slept.append)("Hello") == "[[A]]"
    assert slept == [0.5, 1.0]


@pytest.mark.parametrize(("header", "waits"), [("7", [7.0]), ("0", [0.0]), ("1e9", [60.0]), ("nonsense", [0.5])])
def test_results_08_retry_after_is_obeyed_within_reason(server, header, waits):
    slept = []
    scripted(server, (429, "busy", {"Retry-After": header}), OK)
    assert endpoint(address(server), "m", sleep=slept.append)("Hello") == "[[A]]"
    assert slept == waits


def test_results_08_a_status_that_does_not_pass_is_not_tried_again(server):
    scripted(server, (404, "no such model"))
    with pytest.raises(StudioError) as caught:
        endpoint(address(server), "m", sleep=pytest.fail)("Hello")
    assert caught.value.code == "judge-no-reply"
    assert len(server.seen) == 1


def test_results_08_one_bad_reply_loses_its_own_verdict_alone(server):
    scripted(server, OK, OK, OK, OK, (500, "oops"), OK)
    found = judge(run_of(12), "base", "tuned", endpoint(address(server), "m", waits=()))
    assert (found["prompts"], found["failed"], found["no_verdict"]) == (12, 1, 0)
    assert [v["prompt_id"] for v in found["verdicts"] if v["error"]] == ["04"]


def test_results_08_an_interrupted_judgement_goes_on_where_it_was(server, tmp_path):
    kept = tmp_path / "judged.jsonl"
    scripted(server, OK, OK, OK, OK, OK, (503, "down"))
    ask = endpoint(address(server), "m", waits=())
    with pytest.raises(StudioError) as caught:
        judge(run_of(12), "base", "tuned", ask, kept=kept)
    assert caught.value.code == "judge-no-reply"
    assert len(server.seen) == 5 + 3
    scripted(server, OK)
    found = judge(run_of(12), "base", "tuned", ask, kept=kept)
    assert len(server.seen) == 5 + 3 + 7
    assert found["no_verdict"] == found["failed"] == 0
    judge(run_of(12), "base", "tuned", ask, kept=kept)
    assert len(server.seen) == 5 + 3 + 7


def test_results_08_damaged_lines_of_kept_replies_are_asked_again(server, tmp_path):
    kept = tmp_path / "judged.jsonl"
    scripted(server, OK)
    ask = endpoint(address(server), "m", waits=())
    judge(run_of(4), "base", "tuned", ask, kept=kept)
    lines = kept.read_bytes().splitlines()
    damaged = [b"{", b"[" * 9999, b'{"prompt_id": [], "flipped": 1, "said": null}', b"\xff"]
    kept.write_bytes(b"\n".join([*lines[:2], *damaged, lines[3][:9]]))
    judge(run_of(4), "base", "tuned", ask, kept=kept)
    assert len(server.seen) == 4 + 2
    judge(run_of(4), "base", "tuned", ask, kept=kept)
    assert len(server.seen) == 4 + 2


def test_results_08_replies_are_kept_by_answers_judge_and_prompt(home):
    paths = {
        replies_path(run_of(4), "base", "tuned", "judge"),
        replies_path(run_of(4), "tuned", "base", "judge"),
        replies_path(run_of(5), "base", "tuned", "judge"),
        replies_path(run_of(4), "base", "tuned", "other judge"),
        replies_path(run_of(4), "base", "tuned", "judge", "other {prompt} {a} {b}"),
    }
    assert len(paths) == 5
    assert replies_path(run_of(4), "base", "tuned", "judge") in paths


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://[::1/v1", "", "localhost:8000", "ftp://x/v1", "http://", "http://a b\0/v1", "http://x:99999999/v1"]
)  # fmt: skip
def test_results_08_an_address_that_is_none_is_refused_before_anything_is_asked(url):
    with pytest.raises(StudioError) as caught:
        endpoint(url, "m")
    assert caught.value.code == "judge-address"


@pytest.mark.parametrize("key", ["schlüssel", "a\nb", "ключ"])
def test_results_08_a_key_with_characters_that_no_key_has_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("JUDGE_API_KEY", key)
    with pytest.raises(StudioError) as caught:
        endpoint("http://127.0.0.1:9/v1", "m")
    assert caught.value.code == "judge-key"
    assert key not in str(caught.value)


def test_a_password_in_the_address_is_not_shown(server):
    scripted(server, (500, ""))
    with pytest.raises(StudioError) as caught:
        endpoint(address(server).replace("//", "//me:hidden@"), "m", waits=())("Hello")
    assert "hidden" not in str(caught.value)


def test_a_reply_without_end_is_cut_off(server):
    scripted(server, (200, "x" * 5_000_000))
    with pytest.raises(StudioError) as caught:
        endpoint(address(server), "m", sleep=pytest.fail)("Hello")
    assert caught.value.code == "judge-no-reply"
