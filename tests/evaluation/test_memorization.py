"""Training answers that come back word for word."""

import random

from studio.evaluation.memorization import memorised

WORDS = [f"word{number}" for number in range(400)]


def text(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def test_a_long_piece_of_a_training_answer_is_found_with_its_row_and_length():
    learnt = text(1, 80)
    output = f"{text(2, 10)} {' '.join(learnt.split()[20:55]).upper()}, {text(3, 10)}"
    (overlap,) = memorised([text(4, 60), output], ["", ""], [(7, text(5, 90)), (8, learnt)])
    assert (overlap.answer, overlap.row, overlap.words) == (1, 8, 35)
    assert overlap.text == " ".join(learnt.split()[20:55])


def test_what_the_prompt_or_the_reference_says_may_be_said():
    learnt = text(1, 40)
    assert memorised([learnt], [f"Repeat: {learnt}"], [(1, learnt)]) == []


def test_short_pieces_are_everybodys():
    learnt = text(1, 40)
    assert memorised([" ".join(learnt.split()[:19])], [""], [(1, learnt)]) == []
    assert len(memorised([" ".join(learnt.split()[:20])], [""], [(1, learnt)])) == 1


def test_the_longest_comes_first():
    learnt = text(1, 90)
    short, long = " ".join(learnt.split()[:25]), " ".join(learnt.split()[30:80])
    found = memorised([short, long], ["", ""], [(1, learnt)])
    assert [(o.answer, o.words) for o in found] == [(1, 50), (0, 25)]


def test_texts_without_words_are_no_trouble():
    assert memorised(["", "..."], ["", ""], [(1, ""), (2, "!?")]) == []


def test_results_02_a_copied_piece_is_found_in_a_script_without_blanks():
    learnt = "机器学习模型在训练数据上反复学习之后可能会把其中的句子原样背下来"
    (overlap,) = memorised([f"答：{learnt}。"], [""], [(3, learnt)])
    assert (overlap.row, overlap.words) == (3, len(learnt))
    assert memorised([learnt[:19]], [""], [(3, learnt)]) == []
