"""Cells of the tables that commands print."""

from rich.text import Text

from storage.words import legible


def as_text(cell: object) -> Text:
    """What peers sent is text: neither markup nor what a terminal obeys."""
    return Text(legible(str(cell)))
