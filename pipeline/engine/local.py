"""The engine in this process: its own GPU or CPU."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline import shortage, weights
from pipeline.engine.base import Request
from pipeline.explainer import Explainer
from pipeline.types import Attribution


class LocalEngine:
    """Loads a model folder onto a device of this process and explains one film at a time."""

    def __init__(self, folder: Path, device: str = "auto", threads: int = 0) -> None:
        """Load the model; `threads` 0 leaves torch's own choice.

        Raises:
            ModelError: the folder or the device cannot be used.
            ShortageError: memory, file handles or the device are wanting now.
        """
        if threads:
            torch.set_num_threads(threads)
        # Same input, same map, bit for bit: no algorithm chosen by timing, none that races.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        # TF32 keeps ten bits of a product: another device would not agree within 1e-4.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._model = weights.load(folder, weights.choose_device(device))
        self._explainer = Explainer(self._model)

    @property
    def model_digest(self) -> str:
        """The digest of the model in use."""
        return self._model.digest

    @shortage.told("the film was not analysed")
    def explain(self, requests: Sequence[Request]) -> list[Attribution]:
        """One attribution a request, in order; see `Engine.explain`."""
        return [
            self._explainer.explain(r.film, r.mode, r.seed, r.target, r.unlike) for r in requests
        ]

    def close(self) -> None:
        """The model is let go, and its device memory with it."""
        del self._explainer, self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
