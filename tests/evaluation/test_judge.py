"""A judge's verdicts: flipped in half of the cases, counted for the right model, and a key that is kept nowhere."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from studio.errors import StudioError
from studio.evaluation.judge import PROMPT, endpoint, filled, judge
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
            status, reply = self.server.reply
            self.send_response(status)
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *_):
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    made.seen, made.reply = [], (200, json.dumps({"choices": [{"message": {"content": "TIE"}}]}))
    thread = threading.Thread(target=made.serve_forever, daemon=True)
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
    ],
)
def test_a_judge_that_does_not_answer_is_told_without_the_key(server, monkeypatch, reply, said):
    monkeypatch.setenv("JUDGE_API_KEY", "secret-key")
    server.reply = reply
    with pytest.raises(StudioError, match=said) as caught:
        endpoint(address(server), "a-model")("Hello")
    assert "secret-key" not in f"{caught.value!r}{caught.value.what}{caught.value.fix}"


def test_nobody_at_the_address_is_told():
    with pytest.raises(StudioError, match="does not answer"):
        endpoint("http://127.0.0.1:9/v1", "m")("Hello")
