"""What can go wrong in the node, and whose fault it is.

NodeError
├── InputError              the image's fault: the job is rejected, its reason kept and shown
│   └── CodecError          a codec gave up, which it also does without memory: asked twice
├── DecoderError            the film's or the machine's: tried again, so many times
├── ConfigError             the administrator's: every fault of the file at once, with its line
├── EncodingError           ours: a result object that would not be conformant
├── InspectionError         the installation's: dciodvfy is there and does not judge
└── DeliveryError           the peer's; see its two kinds
    ├── TransientError      try again later: unreachable, busy, out of resources
    └── PermanentError      do not try again: refused for what it is
"""


class NodeError(Exception):
    """Base of every error raised by this package."""


class InputError(NodeError):
    """This image cannot be analysed; the message says why, without patient data."""


class CodecError(InputError):
    """A codec could not decode the pixels, or died of them; it says so of a machine's want too."""


class DecoderError(NodeError):
    """Decoding was ended from outside, for want of memory or time: whose fault is not known."""


class ConfigError(NodeError):
    """The configuration cannot be used; the message lists every fault."""


class EncodingError(NodeError):
    """A result object failed its self-check."""


class InspectionError(NodeError):
    """A result object could not be judged by dciodvfy; our own check found no fault in it."""


class DeliveryError(NodeError):
    """A destination did not take a result."""


class TransientError(DeliveryError):
    """The destination may take the same result later."""


class PermanentError(DeliveryError):
    """The destination will not take this result, however often it is sent."""
