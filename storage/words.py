"""Words that rows hold: those from outside, such as a peer's error comment, made fit to be kept."""

OURS = "not analysed: a fault of ours"
"""How a decision begins that is no judgement of its film, whose file stays therefore."""
GONE = "not analysed: the kept file is gone"
"""How one begins of a film that there is nothing of to judge."""
OWED = (OURS, GONE)
"""Neither is a film's end: it is missing until it comes again, or is decided about again."""


def legible(text: str) -> str:
    """`text` without what PostgreSQL or UTF-8 cannot hold, or a terminal would obey.

    That is NUL and other control characters, and lone surrogates. A peer pads its error comments as
    it likes. Were the row refused for that, the delivery would stay SENDING, lapse, and be sent
    again for ever.
    """
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
