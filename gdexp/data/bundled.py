"""The small data sets that come with scikit-learn, read straight from its files.

Importing scikit-learn takes longer than training on them, so its package is only looked up. The
numbers are those of `sklearn.datasets.load_*`, tested to be equal.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from gdexp.data import TensorData

_CELL = "radius texture perimeter area smoothness compactness concavity concave_points symmetry fractal_dimension"

_WINE = (
    "alcohol malic_acid ash alcalinity_of_ash magnesium total_phenols flavanoids nonflavanoid_phenols "
    "proanthocyanins color_intensity hue od280_od315_of_diluted_wines proline"
)

NAMES = {
    "diabetes": ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"],
    "digits": [f"pixel_{row}_{column}" for row in range(8) for column in range(8)],
    "breast_cancer": [form.format(name) for form in ("mean_{}", "{}_error", "worst_{}") for name in _CELL.split()],
    "iris": ["sepal_length", "sepal_width", "petal_length", "petal_width"],
    "wine": _WINE.split(),
}


def diabetes(features: Sequence[str] | None = None) -> TensorData:
    """Read 442 patients, 10 features, a continuous target (25 to 346).

    Each feature is centred and divided by its norm, as scikit-learn gives it.
    """
    x = _read("diabetes_data_raw.csv.gz", delimiter=None)
    x -= x.mean(axis=0)
    x /= x.std(axis=0) * len(x) ** 0.5
    y = _read("diabetes_target.csv.gz", delimiter=None)
    return TensorData((_columns("diabetes", x, features), torch.from_numpy(y)[:, None]))


def digits(features: Sequence[str] | None = None) -> TensorData:
    """Read 1797 images of 8×8 pixels (0 to 16), flat, ten classes."""
    return _classes("digits", _read("digits.csv.gz"), 10, features)


def breast_cancer(features: Sequence[str] | None = None) -> TensorData:
    """Read 569 tumours, 30 features, classes malignant (0) and benign (1)."""
    return _classes("breast_cancer", _read("breast_cancer.csv", skiprows=1), 2, features)


def iris(features: Sequence[str] | None = None) -> TensorData:
    """Read 150 flowers, 4 features in cm, three classes."""
    return _classes("iris", _read("iris.csv", skiprows=1), 3, features)


def wine(features: Sequence[str] | None = None) -> TensorData:
    """Read 178 wines, 13 features, three classes."""
    return _classes("wine", _read("wine_data.csv", skiprows=1), 3, features)


def _read(name: str, delimiter: str | None = ",", skiprows: int = 0) -> np.ndarray:
    spec = find_spec("sklearn")  # finds the package without importing it
    if spec is None or not spec.origin:
        raise ValueError("`data`: the bundled data sets are scikit-learn's; pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / name
    return np.loadtxt(path, delimiter=delimiter, skiprows=skiprows)


def _classes(name: str, table: np.ndarray, classes: int, features: Sequence[str] | None) -> TensorData:
    """Split off the last column, which holds the class."""
    target = torch.from_numpy(table[:, -1].astype(np.int64))
    return TensorData((_columns(name, table[:, :-1], features), target), classes=classes)


def _columns(name: str, x: np.ndarray, features: Sequence[str] | None) -> torch.Tensor:
    if features is None:
        return torch.from_numpy(np.ascontiguousarray(x))
    for feature in features:
        if feature not in NAMES[name]:
            raise ValueError(f"`data.features`: {name} has no {feature!r}; choose from {', '.join(NAMES[name])}")
    if not features or len(set(features)) < len(features):
        raise ValueError(f"`data.features` must name each column once, got {list(features)}")
    return torch.from_numpy(x[:, [NAMES[name].index(f) for f in features]])
