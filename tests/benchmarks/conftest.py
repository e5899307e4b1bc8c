"""Makes the scripts of `benchmarks/` importable, as they import one another."""

import pathlib
import sys

import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "benchmarks"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> pathlib.Path:
    """A folder with the workloads' data for few clients, and cohorts of five of them."""
    import workloads

    folder = tmp_path_factory.mktemp("data")
    workloads.make(folder, population=12, writers=6)
    with np.load(folder / "meta.npz") as file:
        meta = dict(file)
    meta |= {name: meta[name][:, :5] for name in meta if name.startswith("cohort_")}
    np.savez(folder / "meta.npz", **meta)
    x, first = np.load(folder / "x.npy"), meta["cohort_W1"][:2]
    np.savez(folder / "ref_w1.npz", **workloads.reference(x, meta["y"], meta["off"], first))
    return folder
