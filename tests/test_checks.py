"""The checks of arguments that all rooms share."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import _checks

KEY = jax.random.key(0)


def integer(value):
    return _checks.checked_integer("f(n=...)", value, 2, "write n=3")


def number(value):
    return _checks.checked_number("f(x=...)", value, _checks.Rule("below 1", lambda x: x < 1), "write x=0.5")


def choice(value):
    _checks.check_choice("f(mode=...)", value, ("min", "max"), "write mode='min'")


def test_a_key_is_one_typed_key():
    _checks.check_key("f(key=...)", KEY)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (0, "0"),
        (None, "None"),
        (np.zeros(2, np.uint32), "array([0, 0], dtype=uint32)"),
        (jax.random.PRNGKey(0), "uint32[2]"),
        (jax.random.split(KEY), "key<fry>[2]"),
    ],
)
def test_what_is_no_key_is_refused(wrong, found):
    sentence = f"f(key=...) must be one JAX key, got {found}; write key=jax.random.key(0)"
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        _checks.check_key("f(key=...)", wrong)


@pytest.mark.parametrize("given", [2, np.int64(2), np.array(2), jnp.int32(2)])
def test_an_integer_of_any_kind_becomes_one_of_python(given):
    assert type(integer(given)) is int
    assert integer(given) == 2


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(True, TypeError), (2.0, TypeError), ("2", TypeError), (None, TypeError), (np.bool_(True), TypeError),
     (np.array([2, 3]), TypeError), (1, ValueError), (np.int8(-1), ValueError)],
)  # fmt: skip
def test_what_is_no_integer_or_too_small_is_refused(wrong, error):
    sentence = f"f(n=...) must be an integer of at least 2, got {wrong!r}; write n=3"
    for check in (_checks.checked_integer, _checks.check_integer):
        with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
            check("f(n=...)", wrong, 2, "write n=3")


@pytest.mark.parametrize("wrong", [np.array(2), jnp.int32(2)])
def test_a_setting_is_no_array(wrong):
    _checks.check_integer("f(n=...)", 2, 2, "write n=3")
    _checks.check_integer("f(n=...)", np.int64(2), 2, "write n=3")
    with pytest.raises(TypeError, match=r"must be an integer of at least 2, got .*; write n=3"):
        _checks.check_integer("f(n=...)", wrong, 2, "write n=3")


@pytest.mark.parametrize("given", [-1, 0.5, np.float32(0.5), np.int32(-1)])
def test_a_number_of_any_kind_becomes_one_of_python(given):
    assert isinstance(number(given), int | float)
    assert number(given) == given


@pytest.mark.parametrize(
    "rule, inside, outside",
    [
        (_checks.POSITIVE, [1e-300, 1], [0, -1.0, math.inf, math.nan]),
        (_checks.NOT_NEGATIVE, [0, 1e300], [-1e-300, math.inf, math.nan]),
        (_checks.FROM_0_TO_1, [0, 0.5, 1], [-1e-300, 1.5, math.nan]),
    ],
)
def test_rules_hold_within_their_bounds(rule, inside, outside):
    assert [_checks.checked_number("f(x=...)", value, rule, "write x=1") for value in inside] == inside
    for value in outside:
        with pytest.raises(ValueError, match=rf"^f\(x=...\) must be {rule.words}, got {value}; write x=1$"):
            _checks.checked_number("f(x=...)", value, rule, "write x=1")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(True, TypeError), ("0", TypeError), (None, TypeError), (1j, TypeError), (np.zeros(()), TypeError),
     (jnp.zeros(()), TypeError), (1, ValueError), (np.float32(1), ValueError), (float("nan"), ValueError)],
)  # fmt: skip
def test_what_is_no_number_or_breaks_its_rule_is_refused(wrong, error):
    sentence = f"f(x=...) must be below 1, got {wrong!r}; write x=0.5"
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        number(wrong)


def test_three_words_are_a_list_with_one_or():
    with pytest.raises(ValueError, match=r"^f\(x=...\) must be 'a', 'b' or 'c', got 'd'; write x='a'$"):
        _checks.check_choice("f(x=...)", "d", ("a", "b", "c"), "write x='a'")


@pytest.mark.parametrize("wrong, error", [("least", ValueError), (3, TypeError), (None, TypeError), ([], TypeError)])
def test_what_is_none_of_the_words_is_refused(wrong, error):
    choice("min")
    choice("max")
    sentence = f"f(mode=...) must be 'min' or 'max', got {wrong!r}; write mode='min'"
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        choice(wrong)


@pytest.mark.parametrize("wrong", [0, 1, None, "yes"])
def test_what_is_no_switch_is_refused(wrong):
    for given in (True, False, np.True_, np.False_):
        assert _checks.checked_switch("f(on=...)", given, "write on=True") is bool(given)
    sentence = f"f(on=...) must be True or False, got {wrong!r}; write on=True"
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        _checks.checked_switch("f(on=...)", wrong, "write on=True")


@pytest.mark.parametrize("wrong", [3, None, "sum"])
def test_what_is_no_function_is_refused(wrong):
    _checks.check_function("f(fn=...)", sum, "of a list", "write fn=sum")
    sentence = f"f(fn=...) must be a function of a list, got {wrong!r}; write fn=sum"
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        _checks.check_function("f(fn=...)", wrong, "of a list", "write fn=sum")


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["large", "negative", "huge"])
def test_integers_beyond_floats_are_out_of_range(value):
    """They would be an OverflowError of Python, and from 4,300 digits on Python cannot even print them."""
    for rule in (_checks.FINITE, _checks.POSITIVE, _checks.NOT_NEGATIVE, _checks.FROM_0_TO_1):
        with pytest.raises(ValueError, match=r"f\(x=...\) must be .*, got (-?1000|an int of more).*; write x=1"):
            _checks.checked_number("f(x=...)", value, rule, "write x=1")
    with pytest.raises(ValueError, match=r"f\(n=...\) must be an integer .*; write n=1"):
        _checks.checked_integer("f(n=...)", value, 0, "write n=1")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e39])
def test_finite_is_finite_in_float32(value):
    with pytest.raises(ValueError, match="must be a finite number"):
        _checks.checked_number("f(x=...)", value, _checks.FINITE, "write x=1")
