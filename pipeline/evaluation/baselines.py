"""Maps that need no edit: what ours must beat, on the same films.

Planes are [side, side] float32, larger is more abnormal.
"""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.classifier import Classifier
from pipeline.evaluation.localisation import Truth, others
from pipeline.evaluation.statistics import Groups
from pipeline.models import Autoencoder
from pipeline.segmenter import Segmenter
from pipeline.types import Image


def uniform(side: int) -> Image:
    """Every pixel alike: its AUPRC is the prevalence."""
    return np.ones((side, side), np.float32)


def centre(side: int) -> Image:
    """A Gaussian in the middle of the film, its SD a quarter of the side."""
    axis = (np.arange(side) + 0.5) / side - 0.5
    line = np.exp(-0.5 * (axis / 0.25) ** 2)
    return np.asarray(np.outer(line, line), np.float32)


def mean_of_others(truths: Sequence[Truth], groups: Groups, index: int) -> Image:
    """Where the lesions of films of all other patients lie, on the mean: knows no film at all."""
    return np.asarray(np.mean([truths[i] for i in others(groups, index)], axis=0), np.float32)


@torch.inference_mode()
def reconstruction_error(autoencoder: Autoencoder, x: torch.Tensor) -> Image:
    """|x - D(E(x))| of one film [1, 1, h, w] in -1 .. 1: what the autoencoder cannot say."""
    error = (x - autoencoder.decode(autoencoder.encode(x))).abs() / 2
    plane: Image = error[0, 0].cpu().numpy()
    return plane


@torch.inference_mode()
def grad_cam(classifier: Classifier, x: torch.Tensor) -> Image:
    """The classifier's saliency for "abnormal" of one film [1, 1, h, w] in -1 .. 1."""
    plane: Image = classifier.saliency(x.cpu())[0].numpy()
    return plane


@torch.inference_mode()
def segmented(segmenter: Segmenter, x: torch.Tensor) -> Image:
    """The probability of a lesion that a plain segmenter gives one film [1, 1, h, w]."""
    plane: Image = segmenter(x.cpu())[0, 0].sigmoid().numpy()
    return plane
