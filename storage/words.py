"""Words from outside, such as a peer's error comment, made fit to be kept."""


def legible(text: str) -> str:
    """`text` without what PostgreSQL or UTF-8 cannot hold: NUL and lone surrogates.

    A peer pads its error comments as it likes. Were the row refused for that, the delivery would
    stay SENDING, lapse, and be sent again for ever.
    """
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
