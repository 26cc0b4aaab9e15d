"""Folders of real pictures for tests: scikit-learn's digits as PNG files."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Grey 8x8 digits as uint8 (n, 8, 8), and which digit each is."""
    bunch = load_digits()
    return (bunch.images * 15.9).astype(np.uint8), bunch.target


def write_digits(folder: Path, classes: tuple[str, ...], each: int, *, skip: int = 0) -> None:
    """Write `each` pictures of the first digits as ``folder/class/number.png``, leaving out the first `skip`."""
    images, targets = digits()
    for digit, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            picture = images[targets == digit][skip + number]
            Image.fromarray(picture).resize((16, 16)).save(folder / name / f"{number}.png")
