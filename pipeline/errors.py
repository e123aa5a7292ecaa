"""What can go wrong in the pipeline, and whose fault it is.

PipelineError
├── FilmError           the image's fault: reject it, do not try again
│   └── UnlikeTrainingError   it is a picture, but of nothing that the model has learnt
├── DatasetError        the training data's fault: names the rows
├── ModelError          the installation's fault: a weights folder that cannot be used
└── ShortageError       the moment's fault: memory, file handle or device is wanting; try again
"""


class PipelineError(Exception):
    """Base of every error raised by this package."""


class FilmError(PipelineError):
    """This image cannot be analysed, whoever tries and however often."""


class UnlikeTrainingError(FilmError):
    """The picture lies outside what the model knows: whatever it would say is withheld."""


class DatasetError(PipelineError):
    """The manifest or its archives cannot be used; the message names the rows."""


class ModelError(PipelineError):
    """The model folder is missing, damaged or of a form this program does not know."""


class ShortageError(PipelineError):
    """The machine lacked memory, a file handle or its device; the same work may pass later."""
