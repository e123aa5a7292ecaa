"""What the node says of itself."""

from datetime import datetime

from storage.jobs import Notice
from storage.memory.tables import Tables, locked
from storage.words import legible


class Notices(Tables):
    """The last notice of each name."""

    @locked
    def post(self, name: str, text: str, now: datetime) -> None:
        """See JobStore."""
        self._notices[name] = Notice(at=now, text=legible(text))

    @locked
    def post_once(self, name: str, text: str, now: datetime) -> str:
        """See JobStore."""
        return self._notices.setdefault(name, Notice(at=now, text=legible(text))).text

    @locked
    def notice(self, name: str) -> Notice | None:
        """See JobStore."""
        return self._notices.get(name)
