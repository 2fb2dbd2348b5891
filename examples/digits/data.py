"""Handwritten digits of four silos: each has many examples of a few digits and hardly any of the others."""

import numpy as np
from sklearn.datasets import load_digits

SILOS = ("north", "east", "south", "west")
HELD_OUT = 0.2
SKEW = 0.3  # parameter of the Dirichlet distribution: the smaller, the fewer digits a silo has


def split(seed: int = 3) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return each silo's tables: rows for training, and held-out rows."""
    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16).astype(np.float32), labels.astype(np.int32)
    random = np.random.default_rng(seed)
    owner = np.empty(len(y), dtype=int)
    for digit in range(10):
        rows = random.permutation(np.flatnonzero(y == digit))
        shares = np.cumsum(random.dirichlet([SKEW] * len(SILOS)))
        owner[rows] = np.searchsorted(shares, (np.arange(len(rows)) + 0.5) / len(rows))
    held_out = random.random(len(y)) < HELD_OUT
    return {
        silo: {
            name: {"x": x[chosen], "y": y[chosen]}
            for name, chosen in (("train", (owner == number) & ~held_out), ("test", (owner == number) & held_out))
        }
        for number, silo in enumerate(SILOS)
    }


def pooled(tables: dict[str, dict[str, dict[str, np.ndarray]]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of all silos in one place, which only the baseline may have."""
    x, y = (np.concatenate([table[name][column] for table in tables.values()]) for column in ("x", "y"))
    return x, y
