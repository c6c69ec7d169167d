"""The metrics of a classifier are scikit-learn's."""

import numpy
import pytest
import sklearn.metrics
import torch

from studio.models.class_scores import confusion, predicted, probabilities, scores

NAMES = ["a", "b", "c"]
WANTED, GIVEN = [0, 1, 2, 2, 1, 0, 0, 2], [0, 2, 2, 2, 1, 1, 0, 0]
MANY_WANTED, MANY_GIVEN = [[0], [0, 2], [], [1]], [[0], [0, 1, 2], [], [1, 2]]


def marks(sets):
    return numpy.array([[int(n in one) for n in range(3)] for one in sets])


def test_of_one_class_each():
    found = scores(WANTED, GIVEN, NAMES)
    assert found["accuracy"] == sklearn.metrics.accuracy_score(WANTED, GIVEN)
    assert found["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(WANTED, GIVEN, average="macro"))
    report = sklearn.metrics.classification_report(WANTED, GIVEN, target_names=NAMES, output_dict=True)
    for name in NAMES:
        theirs = report[name]
        ours = found["per_class"][name]
        assert ours["precision"] == theirs["precision"] and ours["recall"] == theirs["recall"]
        assert (ours["f1"], ours["rows"]) == (theirs["f1-score"], theirs["support"])
    assert confusion(WANTED, GIVEN, NAMES)["counts"] == sklearn.metrics.confusion_matrix(WANTED, GIVEN).tolist()


def test_of_several_classes_accuracy_counts_whole_sets():
    found = scores(MANY_WANTED, MANY_GIVEN, NAMES)
    assert found["accuracy"] == 0.5
    theirs = sklearn.metrics.f1_score(marks(MANY_WANTED), marks(MANY_GIVEN), average="macro")
    assert found["macro_f1"] == pytest.approx(theirs)
    assert confusion(MANY_WANTED, MANY_GIVEN, NAMES)["counts"][2] == [[2, 1], [0, 1]]


def test_a_class_that_occurs_nowhere_does_not_lower_the_mean():
    assert scores([0, 1], [0, 1], NAMES)["macro_f1"] == 1
    assert scores([0, 1], [0, 1], NAMES)["per_class"]["c"]["rows"] == 0


def test_probabilities_are_those_of_torch():
    logits = torch.tensor([[1.0, -2.0, 800.0], [0.3, 0.2, 0.1]], dtype=torch.float64)
    assert probabilities(logits, False) == pytest.approx(logits.softmax(1).numpy())
    assert probabilities(logits, True) == pytest.approx(logits.sigmoid().numpy())
    assert predicted(probabilities(logits, False), False) == [2, 0]
    assert predicted(probabilities(logits - 0.25, True), True) == [[0, 2], [0]]
