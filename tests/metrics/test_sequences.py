"""Counts of tokens and sequences: the examples of FedJAX's documentation, and NumPy."""

import jax
import numpy as np
import pytest

from fedjax_core import metrics

EMPTY = [0] * 7
CASES = {
    "num_tokens": (metrics.num_tokens((0, 2)), [[1, 2, 2, 3, 4, 0, 0]], 3),
    "num_tokens of none": (metrics.num_tokens(), [EMPTY], 0),
    "num_sequences": (metrics.num_sequences((0, 2)), [[1, 2, 2, 3, 4, 0, 0], EMPTY, [2] * 7], 1),
    "sequence_length": (metrics.sequence_length(), [[1, 2, 3, 4, 0, 0, 0]], 4),
    "sequence_length of several": (
        metrics.sequence_length(),
        [[1, 2, 3, 4, 0, 0, 0], [0, 5, 0, 0, 0, 0, 0], EMPTY],
        2.5,
    ),
    "truncation_rate whole": (metrics.truncation_rate(4), [[1, 2, 2, 3, 3, 3, 4]], 0),
    "truncation_rate cut": (metrics.truncation_rate(4), [[1, 2, 2, 3, 3, 3, 3]], 1),
    "truncation_rate of several": (metrics.truncation_rate(4), [[1, 2, 2, 3, 3, 3, 3], EMPTY, [4] + [0] * 6], 0.5),
}


def _value(metric, tokens, mask=None):
    tokens = np.array(tokens)
    mask = np.ones(len(tokens), bool) if mask is None else mask
    return metric.finalize(metric.measure(None, {"y": tokens}, mask))


@pytest.mark.parametrize("case", CASES)
def test_examples(case):
    metric, tokens, expected = CASES[case]
    assert _value(metric, tokens) == expected
    with_padding = [*tokens, [1, 2, 3, 4, 5, 6, 7]]
    assert _value(metric, with_padding, np.array([True] * len(tokens) + [False])) == expected


def test_rates_of_nothing_are_nan_and_counts_are_integers():
    for metric in (metrics.sequence_length(), metrics.truncation_rate(4)):
        assert np.isnan(_value(metric, [EMPTY])) and np.isnan(_value(metric, [[1] * 7], np.zeros(1, bool)))
    for metric in (
        metrics.num_tokens(),
        metrics.num_sequences(),
        metrics.sequence_length(),
        metrics.truncation_rate(4),
    ):
        leaves = jax.tree.leaves(metric.measure(None, {"y": np.ones((2, 3), int)}, np.ones(2, bool)))
        assert all(leaf.dtype == np.int32 for leaf in leaves)


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"truncation_rate\(end=\.\.\.\) must be an integer.* give the number"):
        metrics.truncation_rate("</s>")
    with pytest.raises(ValueError, match=r"must be a token that is not ignored, got 0; leave 0 out of ignored=\(0,\)"):
        metrics.truncation_rate(0)
    for make in (metrics.num_tokens, metrics.num_sequences, metrics.sequence_length):
        with pytest.raises(TypeError, match=rf"{make.__name__}\(ignored=\.\.\.\) must be a tuple of integers"):
            make(ignored=0)
        with pytest.raises(ValueError, match=rf"{make.__name__} takes integers of shape \[B, T\]"):
            _value(make(), [1, 2, 3])
