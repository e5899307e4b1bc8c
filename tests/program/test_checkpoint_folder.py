"""One checkpoint on disk: its bits, and what is refused."""

import json
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

from fedjax_core import types
from fedjax_core.program import CheckpointTypeError, DamagedCheckpointError
from fedjax_core.program import _checkpoint_folder as module
from fedjax_core.program._checkpoint_folder import host_arrays, read_about, read_checkpoint, write_checkpoint

ABOUT = {"round": 3, "run_identity": {"key": [0, 1], "nested": {"a": None}}}


class Pair(NamedTuple):
    first: object
    second: object


def _bits(dtype, *numbers):
    return jax.lax.bitcast_convert_type(jnp.array(numbers, f"uint{dtype.dtype.itemsize * 8}"), dtype)


STATES = {
    "adam": lambda: optax.adam(0.1).init({"w": jnp.ones((2, 3)), "b": jnp.zeros(3, jnp.bfloat16)}),
    "keys": lambda: {"one": jax.random.key(3), "many": jax.random.split(jax.random.key(4, impl="rbg"), (2, 3))},
    "containers": lambda: [Pair({"a": jnp.ones(1)}, ()), (None, [jnp.int32(7)]), optax.EmptyState(), {}],
    "names": lambda: {
        n: jnp.full(1, i) for i, n in enumerate(["", "a.b", "a/b", "..", "ü", "a b", "'", "[0]", "class"])
    },
    "nested names": lambda: {"a": {"b": jnp.zeros(1), "c": jnp.zeros(1)}, "a.b": jnp.ones(1), "a/b": jnp.full(1, 2)},
    "integer names": lambda: {1: jnp.zeros(2), 10: jnp.ones(2), 2: jnp.full(2, 2.0)},
    "one array": lambda: jnp.arange(5),
    "one number": lambda: jnp.float32(0.5),
    "nothing": dict,
    "empty arrays": lambda: {"a": jnp.zeros((0, 3)), "b": jnp.zeros((2, 0), jnp.bfloat16)},
    "some empty": lambda: {"a": jnp.zeros((0, 3), jnp.int8), "b": jnp.ones(2)},
    "negative zeros": lambda: {"all": jnp.full(4, -0.0), "some": jnp.array([0.0, -0.0])},
    "float32 bits": lambda: _bits(jnp.float32, 0x7FC00001, 0xFFC12345, 0x7F800000, 0x00000001, 0x80000000),
    "bfloat16 bits": lambda: _bits(jnp.bfloat16, 0x7FC1, 0xFFC1, 0x8000, 0x0001, 0x3F80),
    "float16 bits": lambda: _bits(jnp.float16, 0x7E01, 0x8000, 0x0001),
    "narrow": lambda: {d: jnp.arange(4).astype(d) for d in ("float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int8")},
    "integers": lambda: {d: jnp.array([0, 1, 7], d) for d in ("uint8", "int16", "uint16", "int32", "uint32", "bool")},
    "complex": lambda: jnp.array([1 + 2j, complex(np.nan, -0.0)], jnp.complex64),
    "host values": lambda: {"numpy": np.arange(3, dtype=np.float32), "number": 3, "yes": True, "half": 0.5},
    "large": lambda: jax.random.normal(jax.random.key(0), (1000, 700)),
}


def _write(path, state, about=ABOUT, history=(b"a\n", b"line\n")):
    write_checkpoint(path, str(types.type_of(state)), host_arrays(state), about, history)


def _same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        b = jnp.asarray(b)
        assert isinstance(a, jax.Array) and (a.dtype, a.shape) == (b.dtype, b.shape)
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.array(a).tobytes() == np.array(b).tobytes()


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_every_bit_comes_back(make, tmp_path):
    state = make()
    _write(tmp_path / "3", state)
    found, about, history = read_checkpoint(tmp_path / "3", like=state)
    _same_bits(found, state)
    assert (about, history) == (ABOUT, [b"a\n", b"line\n"])
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_leaves_come_back_where_they_are_in_like(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("i",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
    second = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    state = {"a": jnp.arange(16.0), "key": jax.random.key(0)}
    _write(tmp_path / "3", state)
    like = {"a": jax.device_put(jnp.zeros(16), spread), "key": jax.device_put(jax.random.key(1), second)}
    found, _, _ = read_checkpoint(tmp_path / "3", like)
    assert found["a"].sharding == spread
    assert found["key"].devices() == {jax.devices()[1]}
    _same_bits(found, state)


def test_the_arrays_do_not_follow_the_state():
    mutable = np.arange(3, dtype=np.float32)
    donated = jnp.arange(3.0)
    arrays = host_arrays({"mutable": mutable, "donated": donated})
    mutable[:] = 7
    jax.jit(lambda x: x * 0, donate_argnums=0)(donated).block_until_ready()
    assert arrays["mutable"].tolist() == arrays["donated"].tolist() == [0, 1, 2]


def test_orbax_alone_reads_the_arrays(tmp_path):
    _write(tmp_path / "3", {"layer": {"kernel": jnp.ones((2, 3))}, "rest": [jnp.zeros(0), jnp.int32(7)]})
    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "3" / "arrays")
    assert sorted(found) == ["layer.kernel", "rest[1]"]
    assert found["layer.kernel"].shape == (2, 3)


def _emptied(data):
    return b""


def _halved(data):
    return data[: len(data) // 2]


def _flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def _longer(data):
    return data + b"0"


def _exchanged(data):
    return bytes(reversed(data))


@pytest.mark.parametrize("damage", [_emptied, _halved, _flipped, _longer, _exchanged, None])
def test_whatever_is_damaged_is_noticed_or_changes_nothing(damage, tmp_path):
    """Damages each file in turn; None removes it."""
    state = {"w": jnp.arange(300.0), "n": jnp.int32(3), "key": jax.random.key(1)}
    _write(tmp_path / "whole", state)
    files = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file()]
    noticed = set()
    for name in files:
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        path = tmp_path / "copy" / name
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage(path.read_bytes()))
        try:
            found, about, history = read_checkpoint(tmp_path / "copy", like=state)
        except DamagedCheckpointError:
            noticed.add(name.as_posix())
        else:
            _same_bits(found, state)
            assert (about, history) == (ABOUT, [b"a\n", b"line\n"])
        shutil.rmtree(tmp_path / "copy")
    unchanged = damage is _longer  # a byte that no reader reads
    assert {"manifest.json", "history.jsonl"} <= noticed
    assert unchanged or any(name.startswith("arrays/") for name in noticed)


@pytest.mark.parametrize("content", ["nothing", "an empty folder", "a file"])
def test_what_is_no_checkpoint(content, tmp_path):
    if content == "an empty folder":
        (tmp_path / "3").mkdir()
    if content == "a file":
        (tmp_path / "3").write_text("")
    for read in (lambda: read_about(tmp_path / "3"), lambda: read_checkpoint(tmp_path / "3", jnp.ones(1))):
        with pytest.raises(DamagedCheckpointError, match="cannot be read"):
            read()


def test_what_orbax_does_not_write_as_it_was_given_is_noticed(tmp_path, monkeypatch):
    """The arrays themselves are verified, not only orbax's files."""
    state = {"a": jnp.zeros(3), "b": jnp.ones(3)}
    with monkeypatch.context() as patched:
        patched.setattr(module, "_stored", lambda array: array + 1)
        _write(tmp_path / "3", state)
    with pytest.raises(DamagedCheckpointError, match="the array 'a' is not what was written"):
        read_checkpoint(tmp_path / "3", state)


@pytest.mark.parametrize(
    "like, part",
    [
        ({"w": jnp.zeros((3, 2)), "n": jnp.int32(0)}, "differing in w;"),
        ({"w": jnp.zeros((2, 3), jnp.bfloat16), "n": jnp.int32(0)}, "differing in w;"),
        ({"w": jnp.zeros((2, 3)), "m": jnp.int32(0)}, "differing in n, m;"),
        ({"w": jnp.zeros((2, 3))}, "differing in n;"),
        ({"w": jnp.zeros((2, 3)), "n": jnp.int32(0), "rest": {}}, "build the model"),
        ({c: jnp.zeros(1) for c in "abcde"}, r"differing in n, w, a, \.\.\.;"),
    ],
)
def test_another_type_is_refused_with_both(like, part, tmp_path):
    state = {"w": jnp.ones((2, 3)), "n": jnp.int32(1)}
    _write(tmp_path / "3", state)
    with pytest.raises(CheckpointTypeError, match=part) as refused:
        read_checkpoint(tmp_path / "3", like)
    lines = str(refused.value).splitlines()
    assert lines[1].strip() == "<n=int32,w=float32[2,3]>"
    assert lines[3].strip() == str(types.type_of(like))


def test_a_later_format_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("fedjax_core.program._checkpoint_folder._FORMAT", 3)
    _write(tmp_path / "3", jnp.ones(1))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 3 and this version reads format 2") as refused:
        read_about(tmp_path / "3")
    assert not isinstance(refused.value, DamagedCheckpointError)


def test_the_manifest_says_what_is_there(tmp_path):
    _write(tmp_path / "3", {"w": jnp.ones((2, 3), jnp.bfloat16), "key": jax.random.key(0)})
    manifest = json.loads((tmp_path / "3" / "manifest.json").read_text())["manifest"]
    assert manifest["type"] == "<key=key<fry>,w=bfloat16[2,3]>"
    assert {name: (e["dtype"], e["shape"]) for name, e in manifest["arrays"].items()} == {
        "key": ("uint32", [2]),
        "w": ("bfloat16", [2, 3]),
    }


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", fail)
    with pytest.raises(OSError, match="no space left"):
        _write(tmp_path / "3", jnp.ones(1))
    assert not any(tmp_path.iterdir())


def _forge(path, change):
    """Changes a manifest and signs it anew; the digest is no secret."""
    signed = json.loads((path / "manifest.json").read_text())
    changed = change(signed["manifest"])
    manifest = signed["manifest"] if changed is None else changed
    digest = module._digest(module._canonical(manifest))
    (path / "manifest.json").write_text(json.dumps({"digest": digest, "manifest": manifest}))


FORGERIES = {
    **{f"no {name}": lambda m, name=name: m.pop(name) and None for name in ("format", "type", "arrays", "about")},
    **{f"{name} is no dict": lambda m, name=name: m.update({name: 3}) for name in ("arrays", "tables", "files")},
    "no tables": lambda m: (m.pop("tables") and None) or m,
    "a list": lambda m: [m],
    "a text": lambda m: "manifest",
    "nothing": lambda m: {},
    "an array that is no dict": lambda m: m["arrays"].update(w=3),
    "an array without a dtype": lambda m: m["arrays"]["w"].pop("dtype") and None,
    "an unknown dtype": lambda m: m["arrays"]["w"].update(dtype="float7"),
    "a negative shape": lambda m: m["arrays"]["w"].update(shape=[-1, 0]),
    "another array": lambda m: m["arrays"].update(v=m["arrays"].pop("w")),
    "no array": lambda m: m["arrays"].clear(),
    "a type that is none": lambda m: m.update(type="<w=float32["),
    "a nested type": lambda m: m.update(type="<" * 5000),
    "a digest that is none": lambda m: m["files"].update({"history.jsonl": 3}),
    "an empty array": lambda m: m["arrays"]["w"].update(shape=[0], digest=module._digest(b"")),
    "another type": lambda m: m.update(type="<w=float32[4]>"),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_manifest_is_damaged(change, tmp_path):
    like = {"w": jnp.zeros(4 if change is FORGERIES["another type"] else 3)}
    _write(tmp_path / "3", {"w": jnp.ones(3)})
    _forge(tmp_path / "3", change)
    with pytest.raises(DamagedCheckpointError):
        read_checkpoint(tmp_path / "3", like)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"{}", b'{"digest": 3}', b"\xff", b"[" * 10**5])
def test_a_half_written_manifest_is_damaged(content, tmp_path):
    _write(tmp_path / "3", {"w": jnp.ones(3)})
    (tmp_path / "3" / "manifest.json").write_bytes(content)
    for read in (lambda: read_about(tmp_path / "3"), lambda: read_checkpoint(tmp_path / "3", {"w": jnp.ones(3)})):
        with pytest.raises(DamagedCheckpointError, match="is not what was written"):
            read()


@pytest.mark.parametrize(
    "error, message",
    [
        (ValueError("RESOURCE_EXHAUSTED: [os_error_code='28'] [...]"), r"No space left on device: '.*/3/arrays'"),
        (ValueError("UNAVAILABLE: the reason"), r"UNAVAILABLE: the reason: '.*/3/arrays'"),
        (PermissionError(13, "Permission denied", "x"), r"Permission denied: '.*/3/arrays'"),
    ],
)
def test_what_orbax_cannot_write_is_an_error_of_the_system(error, message, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(module._orbax(), "save", fail)
    with pytest.raises(OSError, match=message):
        _write(tmp_path / "3", {"w": jnp.ones(3)})
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_noticed_before_orbax_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 4096, 4096))
    monkeypatch.setattr(module._orbax(), "save", lambda *args, **kwargs: pytest.fail("not to be reached"))
    with pytest.raises(OSError, match=r"No space left on device: '.*/3/arrays'"):
        _write(tmp_path / "3", {"w": jnp.ones(3)})
    assert not any(tmp_path.iterdir())
