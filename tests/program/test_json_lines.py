import json

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.program import release_to_json_lines


def test_values_read_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    value = {
        "train": {"loss": 1 / 3, "counts": jnp.arange(4).reshape(2, 2), "none": jnp.zeros((0, 2))},
        "many": np.arange(100, dtype=np.int8),
        "name": "a\nb",
        "done": True,
        "half": jnp.bfloat16(0.1),
    }
    release_to_json_lines(path).release(value, np.int64(7))
    assert path.read_text().count("\n") == 1
    assert json.loads(path.read_text()) == {
        "round": 7,
        "done": True,
        "half": float(jnp.bfloat16(0.1)),
        "many": list(range(100)),
        "name": "a\nb",
        "train/counts": [[0, 1], [2, 3]],
        "train/loss": 1 / 3,
        "train/none": [],
    }


def test_numbers_that_json_has_not(tmp_path):
    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    path = tmp_path / "metrics.jsonl"
    release_to_json_lines(path).release({"a": np.nan, "b": jnp.array([[np.inf, 0.5], [-np.inf, np.nan]])}, 1)
    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"round": 1, "a": "NaN", "b": [["Infinity", 0.5], ["-Infinity", "NaN"]]}
    np.testing.assert_array_equal(np.array(found["b"], np.float32), [[np.inf, 0.5], [-np.inf, np.nan]])


def test_a_round_is_one_line_more_of_the_same_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    manager = release_to_json_lines(path)
    manager.release({"loss": 0.5}, 1)
    file, before = path.stat().st_ino, path.read_bytes()
    manager.release({"loss": 0.25}, 2)
    assert path.stat().st_ino == file
    assert path.read_bytes() == before + b'{"round": 2, "loss": 0.25}\n'


@pytest.mark.parametrize("content", ["[1]\n", "{}\n", "round\n", "1\n"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match="holds something else"):
        release_to_json_lines(tmp_path / "metrics.jsonl")
