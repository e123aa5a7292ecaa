"""Words that rows hold: those from outside, such as a peer's error comment, made fit to be kept."""

OURS = "not analysed: a fault of ours"
"""How a decision begins that is no judgement of its film, whose file stays therefore."""


def legible(text: str) -> str:
    """`text` without what PostgreSQL or UTF-8 cannot hold: NUL and lone surrogates.

    A peer pads its error comments as it likes. Were the row refused for that, the delivery would
    stay SENDING, lapse, and be sent again for ever.
    """
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
