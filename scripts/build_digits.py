"""Builds `fedjax_core/data/files/digits.npz`: the 1,797 handwritten digits that scikit-learn ships.

    pip install scikit-learn && python scripts/build_digits.py

Only this script needs scikit-learn, the package does not. The file holds `x`, uint8 `[1797, 8, 8]` with the values
0 to 16, and `y`, uint8 `[1797]`, in scikit-learn's order; it contains no pickled objects.
"""

import hashlib
import pathlib

import numpy as np
from sklearn import datasets

_TARGET = pathlib.Path(__file__).parents[1] / "fedjax_core" / "data" / "files" / "digits.npz"


def main() -> None:
    """Writes the file and prints what it holds."""
    source = datasets.load_digits()
    x, y = source.images.astype(np.uint8), source.target.astype(np.uint8)
    if not np.array_equal(x, source.images) or x.shape != (1797, 8, 8) or x.max() != 16:
        raise ValueError(f"expected 1797 images of 8x8 with the values 0 to 16, got {x.shape} up to {x.max()}")
    np.savez_compressed(_TARGET, x=x, y=y)
    print(f"{len(x)} digits, {np.bincount(y).tolist()} of each")
    print(f"pixels SHA-256 {hashlib.sha256(x.tobytes()).hexdigest()}, {_TARGET.stat().st_size} bytes compressed")


if __name__ == "__main__":
    main()
