"""Gates: is this a chest radiograph of the kind the model knows?"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.types import Image

_SIDE = 28  # a thumbnail: lungs, heart and shoulders are there, noise and letters are not
_Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGate:
    """A Gaussian of chest-film thumbnails (probabilistic PCA: Tipping and Bishop, 1999).

    `mean` [d], `axes` [k, d] orthonormal, `variances` [k], `residual` the mean variance per
    dimension outside the axes; `limit` the distance above which a film is not believed a chest.
    """

    mean: _Vector
    axes: _Vector
    variances: _Vector
    residual: float
    limit: float

    def distance(self, plane: Image) -> float:
        """Mahalanobis distance squared per dimension of a grid film; about 1 for a usual chest."""
        x = thumbnail(plane) - self.mean
        along = self.axes @ x
        outside = float(x @ x - along @ along) / self.residual
        return (float((along**2 / self.variances).sum()) + outside) / len(x)

    def refuses(self, plane: Image) -> bool:
        """Whether the film lies farther out than the limit."""
        return self.distance(plane) > self.limit


def thumbnail(plane: Image) -> _Vector:
    """[side, side] -> [784], block means, mean 0 and SD 1: contrast and brightness do not count."""
    step = plane.shape[0] // _SIDE
    small = plane[: _SIDE * step, : _SIDE * step].reshape(_SIDE, step, _SIDE, step).mean((1, 3))
    vector = np.asarray(small.ravel(), np.float32)
    standard = (vector - vector.mean()) / (vector.std() + np.float32(1e-6))
    return np.asarray(standard, np.float32)


def fit(thumbnails: npt.NDArray[np.float32], axes: int) -> ImageGate:
    """The Gaussian of [n, d] thumbnails, without a limit yet (infinite)."""
    mean = thumbnails.mean(0)
    _, spread, directions = np.linalg.svd(thumbnails - mean, full_matrices=False)
    variances = np.asarray(spread**2 / len(thumbnails), np.float32)
    return ImageGate(
        mean=mean,
        axes=directions[:axes],
        variances=variances[:axes],
        residual=float(variances[axes:].sum() / (thumbnails.shape[1] - axes)),
        limit=float("inf"),
    )
