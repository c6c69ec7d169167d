"""Answers as they are written: right, reproducible, interruptible, many at once."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from lora_runs import logits, reference

from studio.errors import StudioError
from studio.inference import Sampling, Target, compare, generate_batch, stream, stream_many
from studio.models.processor import processor_name

GREEDY = Sampling(temperature=0, max_new_tokens=24)
WARM = Sampling(temperature=1.2, top_p=0.95, top_k=200, max_new_tokens=24, seed=5)


def chat(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def answer(handle, messages, sampling) -> str:
    return "".join(piece.text for piece in stream(handle, messages, sampling))


def answers(handles, conversations, sampling) -> list[str]:
    texts = [""] * len(handles)
    for number, piece in stream_many(handles, conversations, sampling):
        assert piece.error is None
        texts[number] += piece.text
    return texts


@pytest.fixture
def panes(workspace, engine, base):
    return [engine.open(target) for target in (base, "one", "two")]


@pytest.fixture
def endless(panes):
    """The panes, with the end token made impossible, so that answers go on to their limit."""
    for pane in panes:
        pane.weights.model.generation_config.suppress_tokens = sorted(pane.stop_ids)
    return panes


def test_a_greedy_answer_is_that_of_transformers_generate(panes):
    pane, messages = panes[0], chat("What is the capital of France?")
    inputs = pane.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    plain = pane.weights.model.generate(**inputs, do_sample=False, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
    assert answer(pane, messages, GREEDY) == pane.tokenizer.decode(plain, skip_special_tokens=True)


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_answers_at_the_same_time_are_those_of_each_pane_alone(endless, sampling):
    conversations = [chat("My order has not arrived."), chat("Write a function."), chat("Numbers: 1 2 3")]
    alone = [answer(pane, messages, sampling) for pane, messages in zip(endless, conversations, strict=True)]
    assert answers(endless, conversations, sampling) == alone
    assert len(set(alone)) == 3


def test_the_base_keeps_its_logits_bit_by_bit_while_a_tuned_pane_answers(endless, models):
    base, tuned, _ = endless
    untouched, stop, written = reference(models["base"]), threading.Event(), []
    pane = threading.Thread(
        target=lambda: written.extend(stream(tuned, chat("Go on"), Sampling(temperature=0, max_new_tokens=200), stop))
    )
    pane.start()
    between = set()  # how many tokens the other pane had, each time the base was looked at
    while len(between) < 20 and pane.is_alive():
        assert torch.equal(logits(base), untouched)
        between.add(len(written))
    stop.set()
    pane.join()
    assert len(between) >= 20, "they did take turns"


def test_the_same_seed_gives_the_same_text_and_another_seed_another(endless):
    texts = [
        answer(endless[0], chat("Tell me"), Sampling(temperature=1.5, seed=s, max_new_tokens=20)) for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_sampling_leaves_the_global_random_state_alone(panes):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    answer(panes[0], chat("Tell me"), WARM)
    assert torch.equal(before, torch.get_rng_state())


def test_sampling_draws_from_the_distribution_that_it_names(panes):
    from studio.inference.token_sampling import processors

    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    draws = [
        processors(Sampling(temperature=1, top_p=1, seed=seed))(torch.zeros(1, 1), scores).argmax().item()
        for seed in range(2000)
    ]
    found = torch.bincount(torch.tensor(draws), minlength=4) / len(draws)
    assert torch.allclose(found, torch.softmax(scores[0], -1), atol=0.03)
    only = processors(Sampling(temperature=1, top_k=1))(torch.zeros(1, 1), scores)
    assert only.argmax() == 0


def test_an_answer_stops_within_one_token(endless):
    from studio.inference.generate import generate_streaming

    pieces, stop = [], threading.Event()

    def emit(piece) -> None:
        pieces.append(piece)
        if piece.new_tokens == 3:
            stop.set()

    generate_streaming(endless[0], chat("Go on"), Sampling(temperature=0, max_new_tokens=200), stop.is_set, emit)
    assert (pieces[-1].finished, pieces[-1].new_tokens) == ("stopped", 4), "the token in work is the last"


def test_a_stop_reaches_every_pane_of_a_stream(endless):
    stop, last = threading.Event(), {}
    for number, piece in stream_many(endless, [chat("Go on")] * 3, Sampling(temperature=0, max_new_tokens=200), stop):
        stop.set()
        last[number] = piece.finished
    assert last == {0: "stopped", 1: "stopped", 2: "stopped"}


def test_a_stop_before_the_start_costs_no_token(panes):
    stop = threading.Event()
    stop.set()
    (piece,) = stream(panes[0], chat("Go on"), GREEDY, stop)
    assert (piece.finished, piece.new_tokens) == ("stopped", 0)


def test_closing_the_iterator_ends_every_thread(endless):
    pieces = stream_many(endless, [chat("Go on")] * 3, Sampling(temperature=0, max_new_tokens=200))
    next(pieces)
    pieces.close()
    for thread in threading.enumerate():
        if thread.name.startswith("pane-"):
            thread.join(timeout=5)
            assert not thread.is_alive()


def test_pieces_say_how_many_tokens_and_how_long(endless):
    pieces = list(stream(endless[0], chat("Go on"), Sampling(temperature=0, max_new_tokens=5)))
    assert [piece.new_tokens for piece in pieces] == [1, 2, 3, 4, 5, 5]
    assert [piece.finished for piece in pieces] == [None] * 5 + ["length"]
    assert 0 < pieces[0].first_token_seconds == pieces[-1].first_token_seconds <= pieces[-1].seconds


def test_an_end_of_turn_ends_the_answer_and_is_not_shown(panes):
    pane = panes[0]
    end = pane.tokenizer.convert_tokens_to_ids("<|im_end|>")
    pane.weights.model.generation_config.forced_eos_token_id = end
    last = list(stream(pane, chat("Go on"), Sampling(temperature=0, max_new_tokens=4)))[-1]
    assert last.finished == "end" and last.new_tokens <= 4
    assert "<|im_end|>" not in answer(pane, chat("Go on"), Sampling(temperature=0, max_new_tokens=4))


def test_the_template_s_end_of_turn_ends_an_answer_even_if_the_model_knows_another_end(workspace, models, engine, base):
    from studio.data.stops import stop_ids

    handle = engine.open(base)
    tokenizer = handle.tokenizer
    tokenizer.eos_token = "<|endoftext|>"
    handle.weights.model.generation_config.eos_token_id = tokenizer.eos_token_id
    ends = {tokenizer.convert_tokens_to_ids(t) for t in ("<|endoftext|>", "<|im_end|>")}
    assert stop_ids(tokenizer, handle.weights.model.generation_config) == ends


def test_an_answer_ends_where_the_context_does(endless):
    last = list(stream(endless[0], chat("a " * 200), Sampling(temperature=0, max_new_tokens=500)))[-1]
    assert last.finished == "length" and last.new_tokens < 100


def test_a_conversation_longer_than_the_context_is_refused_with_what_to_do(panes):
    with pytest.raises(StudioError, match="takes 256") as caught:
        list(stream(panes[0], chat("word " * 400), GREEDY))
    assert "Shorten" in caught.value.fix


def test_a_template_that_refuses_the_conversation_is_an_error_with_its_reason(panes):
    panes[0].tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(StudioError, match="no system role"):
        list(stream(panes[0], chat("hi"), GREEDY))


def test_a_pane_that_fails_says_so_and_the_others_go_on(panes):
    found = list(stream_many(panes[:2], [chat("word " * 400), chat("hi")], GREEDY))
    failed = [piece for number, piece in found if number == 0]
    assert [piece.finished for piece in failed] == ["failed"] and "Shorten" in failed[0].error.fix
    assert [piece.finished for number, piece in found if number == 1][-1] in ("end", "length")


def test_an_unforeseen_failure_is_shown_in_its_pane_too(panes, monkeypatch):
    monkeypatch.setattr(panes[1].weights.model, "forward", lambda **_: 1 / 0)
    piece = list(stream_many(panes[1:2], [chat("hi")], GREEDY))[-1][1]
    assert piece.finished == "failed" and "ZeroDivisionError" in piece.error.what


@pytest.mark.parametrize("name, value", [("temperature", -1), ("top_p", 0), ("top_k", -1), ("max_new_tokens", 0)])
def test_sampling_out_of_bounds_is_refused_by_name(name, value):
    with pytest.raises(StudioError) as caught:
        Sampling(**{name: value})
    assert caught.value.field == name


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("pane", [0, 1])
def test_a_batch_gives_the_answers_of_one_at_a_time(panes, sampling, pane):
    texts = ["hi", "My order number 48213 has not arrived; please tell me.", "What is it?", "Write. " * 9, "One 1"]
    done = []
    batch = generate_batch(
        panes[pane], [chat(t) for t in texts], sampling, lambda n, total: done.append((n, total)), max_tokens=150
    )
    assert batch == [answer(panes[pane], chat(text), sampling) for text in texts]
    assert 1 < len(done) < 5 and done[-1] == (5, 5), "several batches, and several rows in one"


@pytest.mark.parametrize("pane", [0, 1])
def test_a_shared_system_message_is_read_once_and_changes_no_answer(panes, pane, monkeypatch):
    from studio.inference import batches as module

    system = {"role": "system", "content": "You are a clerk who answers letters about orders, shortly and kindly."}
    conversations = [[system, *chat(text)] for text in ("hi", "Where is my order 48213?", "One 1", "Write. " * 5)]
    alone = [generate_batch(panes[pane], [each], GREEDY)[0] for each in conversations]
    given = []
    whole = module.run_generate
    monkeypatch.setattr(
        module, "run_generate", lambda *a, shared=0, **more: given.append(shared) or whole(*a, shared=shared, **more)
    )
    assert generate_batch(panes[pane], conversations, GREEDY) == alone
    assert given[0] >= 16
    given.clear()
    monkeypatch.setattr(module, "_can_share", lambda model: False)
    assert generate_batch(panes[pane], conversations, GREEDY) == alone
    assert given == [0]


def test_what_prompts_share_leaves_a_token_of_each():
    from studio.inference.batches import shared_beginning

    long = list(range(40))
    assert shared_beginning([long, [*long[:30], 7]]) == 30
    assert shared_beginning([long[:20], long]) == 19
    assert shared_beginning([long]) == shared_beginning([long, long[:10]]) == shared_beginning([[1], [2]]) == 0


def test_compare_has_the_shape_of_the_command_line(workspace, engine):
    found = compare(engine, ["base", "one", Target.run("two")], ["hi", "Who?"], GREEDY)
    assert list(found) == ["hi", "Who?"]
    for entries in found.values():
        assert [entry["model"] for entry in entries] == ["base", "one", "two"]
        for entry in entries:
            assert list(entry) == ["model", "output", "new_tokens", "seconds", "first_token_seconds"]
            assert entry["new_tokens"] > 0 and 0 < entry["first_token_seconds"] <= entry["seconds"]
    assert found["hi"][0]["output"] == answer(engine.open(Target.parse_all(["base", "one"])[0]), chat("hi"), GREEDY)


def test_results_03_a_comparison_tells_how_each_model_computed(workspace, engine):
    computed = {}
    compare(engine, ["base", "one"], ["hi"], GREEDY, computed=computed)
    assert list(computed) == ["base", "one"]
    for how in computed.values():
        assert (how["device"], how["dtype"], how["attention"]) == ("cpu", "float32", "sdpa")
        assert how["threads"] == torch.get_num_threads() and how["processor"] == processor_name()


def test_compare_without_models_or_prompts_is_refused(engine):
    with pytest.raises(StudioError, match="no model"):
        compare(engine, [], ["hi"])
    with pytest.raises(StudioError, match="no prompt"):
        compare(engine, ["base"], [])


def test_a_model_that_cannot_be_opened_ends_its_own_pane_only(panes):
    def refused():
        raise StudioError("Its files are damaged.", "Restore them.")

    found = list(stream_many([refused, lambda: panes[1]], [chat("hi")] * 2, GREEDY))
    assert [piece.error.what for number, piece in found if number == 0] == ["Its files are damaged."]
    assert [piece.finished for number, piece in found if number == 1][-1] in ("end", "length")


def test_a_model_that_takes_long_to_open_holds_no_other_pane_up(panes):
    other_has_ended = threading.Event()

    def slow():
        assert other_has_ended.wait(60)
        return panes[0]

    ends = []
    for number, piece in stream_many([slow, panes[1]], [chat("hi")] * 2, GREEDY):
        if piece.finished:
            ends.append(number)
            other_has_ended.set()
    assert ends == [1, 0]


def test_one_pane_is_stopped_and_the_others_go_on_to_their_end(endless):
    stops, last = [threading.Event() for _ in range(2)], {}
    for number, piece in stream_many(endless[:2], [chat("Go on")] * 2, GREEDY, stops):
        stops[0].set()
        last[number] = piece.finished
    assert last == {0: "stopped", 1: "length"}


def test_each_pane_has_settings_of_its_own(endless):
    short, long = Sampling(temperature=0, max_new_tokens=2), Sampling(temperature=0, max_new_tokens=5)
    last = {number: piece for number, piece in stream_many(endless[:2], [chat("Go on")] * 2, [short, long])}
    assert (last[0].new_tokens, last[1].new_tokens) == (2, 5)


def test_the_probability_of_each_token_is_the_model_s_own_whatever_the_settings(endless):
    from studio.inference.generate import prompt_ids

    pane, messages = endless[0], chat("Go on")
    prompt, sampling = prompt_ids(pane, messages), Sampling(temperature=1.3, repetition_penalty=1.2, max_new_tokens=6)
    pieces = list(stream(pane, messages, sampling))
    assert pieces[-1].log_probability is None
    found = [piece.log_probability for piece in pieces[:-1]]
    assert len(found) == 6 and all(value <= 0 for value in found)
    answer_ids = pane.tokenizer("".join(p.text for p in pieces), add_special_tokens=False)["input_ids"]
    with pane.weights.use_adapter(None):
        scores = pane.weights.model(torch.tensor([prompt + answer_ids])).logits[0]
    banned = pane.weights.model.generation_config.suppress_tokens
    scores[:, banned] = -torch.inf
    wanted = scores.log_softmax(-1)[len(prompt) - 1, answer_ids[0]].item()
    assert found[0] == pytest.approx(wanted, abs=1e-4)


def test_min_p_keeps_the_tokens_that_are_likely_enough(panes):
    from studio.inference.token_sampling import processors

    scores = torch.tensor([[2.0, 1.5, -3.0]])
    drawn = {
        processors(Sampling(temperature=1, top_p=1, min_p=0.5, seed=seed))(torch.zeros(1, 1), scores).argmax().item()
        for seed in range(200)
    }
    assert drawn == {0, 1}


def test_a_prompt_waits_for_the_first_token_of_the_one_before_it_and_no_longer_than_a_moment(monkeypatch):
    from studio.inference import generate

    monkeypatch.setattr(generate, "_PATIENCE_SECONDS", 0.3)
    with generate._turn(lambda: False) as over:
        started = time.perf_counter()
        with generate._turn(lambda: False):  # the first one is slow: this one goes on all the same
            assert 0.25 < time.perf_counter() - started < 5
        over()
        over()  # every token says so
        started = time.perf_counter()
        with generate._turn(lambda: False):
            assert time.perf_counter() - started < 0.2
        with generate._turn(lambda: False), generate._turn(lambda: True):
            pass  # a stopped one does not wait
    assert generate._READING.acquire(blocking=False)
    generate._READING.release()
