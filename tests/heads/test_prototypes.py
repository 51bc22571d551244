import numpy as np
import pytest

from blackbox_delta.heads.prototypes import Spheres, distances, radii_of, unit_rows

LABELS = [
    pytest.param([0, 1, 2] * 4, id="balanced"),
    pytest.param([0] * 9 + [1] * 2 + [2] * 3, id="unbalanced"),
    pytest.param([0] * 4 + [2] * 3 + [1], id="a-single-example"),
]


def plain_spheres(x: np.ndarray, y: np.ndarray) -> dict[int, tuple[np.ndarray, float]]:
    """Centre and spread of each class, word by word."""
    found = {}
    for k in np.unique(y):
        centre = x[y == k].mean(axis=0)
        found[int(k)] = centre, float(np.mean([np.linalg.norm(row - centre) for row in x[y == k]]))
    return found


@pytest.mark.parametrize("labels", LABELS)
def test_leave_one_out_equals_spheres_without_the_example(labels) -> None:
    y = np.array(labels)
    x = np.random.default_rng(0).normal(size=(len(y), 7))
    away, radii = Spheres.of(x, y, 3).held_out()
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        spheres = plain_spheres(x[others], y[others])
        counts = np.bincount(y[others], minlength=3)
        spread = np.array([spheres[k][1] if k in spheres else 0.0 for k in range(3)])
        np.testing.assert_allclose(radii[i], radii_of(spread, counts), atol=1e-12)
        for k, (centre, _) in spheres.items():
            assert away[i, k] == pytest.approx(np.linalg.norm(x[i] - centre))


def test_one_example_has_the_mean_radius_of_the_others() -> None:
    assert radii_of(np.array([2.0, 0.0, 4.0]), np.array([5, 1, 2])).tolist() == [2.0, 3.0, 4.0]
    assert radii_of(np.array([0.0, 0.0]), np.array([1, 1])).tolist() == [0.0, 0.0]


def test_distances_are_euclidean() -> None:
    rng = np.random.default_rng(1)
    x, centres = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    expected = np.linalg.norm(x[:, None] - centres, axis=2)
    np.testing.assert_allclose(distances(x, centres), expected)
    np.testing.assert_allclose(distances(x, x).diagonal(), 0.0, atol=1e-7)


def test_rows_of_no_length_stay_so() -> None:
    found = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1.0, 0.0, 1e-6])
