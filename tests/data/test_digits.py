import hashlib
import importlib.resources
import io

import jax
import numpy as np
import pytest

from fedjax_core.data import _digits, _partitioners


@pytest.fixture(scope="module")
def arrays():
    return _digits.digits_arrays()


def test_every_digit_is_there(arrays):
    assert arrays["x"].shape == (1797, 8, 8, 1) and arrays["x"].dtype == np.float32
    assert arrays["y"].shape == (1797,) and arrays["y"].dtype == np.int32
    np.testing.assert_array_equal(np.bincount(arrays["y"]), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


def test_pixels_are_sixteenths_from_0_to_1(arrays):
    sixteenths = arrays["x"] * 16
    assert (sixteenths.min(), sixteenths.max()) == (0, 16)
    np.testing.assert_array_equal(sixteenths, np.round(sixteenths))
    digest = hashlib.sha256(sixteenths.astype(np.uint8).tobytes()).hexdigest()
    assert digest == "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"


def test_images_look_like_their_digits(arrays):
    images = arrays["x"][..., 0]
    assert images[arrays["y"] == 0, 3:5, 3:5].mean() < 0.25 < images[arrays["y"] == 1, 3:5, 3:5].mean()
    flat = images.reshape(len(images), -1)
    means = np.stack([flat[:1200][arrays["y"][:1200] == d].mean(0) for d in range(10)])
    distance = ((flat[1200:, None] - means) ** 2).sum(-1)
    assert (distance.argmin(1) == arrays["y"][1200:]).mean() > 0.85


def test_file_is_small_and_not_pickled():
    content = importlib.resources.files("fedjax_core.data").joinpath("files", "digits.npz").read_bytes()
    assert len(content) < 100_000
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        assert {name: file[name].dtype for name in file} == {"x": np.uint8, "y": np.uint8}


def test_clients_hold_every_digit_once(arrays):
    data = _digits.digits(num_clients=100, key=jax.random.key(0))
    assert str(data.element_type) == "<x=float32[?,8,8,1],y=int32[?]>"
    assert data.client_ids == tuple(range(100)) and data.sizes.min() > 0
    rows = [image.tobytes() for client in data.values() for image in client["x"]]
    assert sorted(rows) == sorted(image.tobytes() for image in arrays["x"])


def test_images_keep_their_labels(arrays):
    labels = {image.tobytes(): label for image, label in zip(arrays["x"], arrays["y"])}
    data = _digits.digits(num_clients=10, key=jax.random.key(0))
    for client in data.values():
        assert [labels[image.tobytes()] for image in client["x"]] == client["y"].tolist()


def test_default_partitioner_makes_clients_differ():
    default = _digits.digits(num_clients=20, key=jax.random.key(0))
    explicit = _digits.digits(num_clients=20, partitioner=_partitioners.dirichlet(0.5), key=jax.random.key(0))
    iid = _digits.digits(num_clients=20, partitioner=_partitioners.iid(), key=jax.random.key(0))
    for client in default:
        np.testing.assert_array_equal(default[client]["y"], explicit[client]["y"])
    assert _spread(default) > 3 * _spread(iid)


def _spread(data):
    shares = [np.bincount(c["y"], minlength=10) / len(c["y"]) for c in data.values()]
    return np.var(shares, axis=0).sum()


def test_partitioner_that_chooses_the_clients_needs_no_key():
    data = _digits.digits(None, _partitioners.by_column("y"))
    assert sorted(data.client_ids) == list(range(10))


def test_same_key_same_clients():
    one, same, other = (_digits.digits(num_clients=7, key=jax.random.key(k)) for k in (3, 3, 4))
    for client in one:
        np.testing.assert_array_equal(one[client]["x"], same[client]["x"])
    assert any(not np.array_equal(one[c]["y"], other[c]["y"]) for c in one)


def test_held_out_examples_are_others():
    train, test = _digits.digits(num_clients=10, key=jax.random.key(0)).split_examples(0.8, key=jax.random.key(1))
    assert train.sizes.sum() + test.sizes.sum() == 1797
    assert 0.78 < train.sizes.sum() / 1797 < 0.82


def test_missing_key_is_refused():
    with pytest.raises(TypeError, match=r"key=jax\.random\.key\(0\)"):
        _digits.digits(num_clients=10)


def test_too_many_clients_are_refused():
    with pytest.raises(ValueError, match="1797"):
        _digits.digits(num_clients=2000, key=jax.random.key(0))
