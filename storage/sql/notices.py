"""What the node says of itself."""

from datetime import datetime

from sqlalchemy import select, update

from storage import engine
from storage.jobs import Notice
from storage.schema import notices
from storage.sql.database import Database, insert_once


class Notices(Database):
    """The last notice of each name."""

    def post(self, name: str, text: str, now: datetime) -> None:
        """See JobStore."""
        same = select(notices).where(notices.c.name == name)
        with engine.writing(self._engine) as db:
            if db.execute(same).first() is None:
                insert_once(db, notices, {"name": name, "text": text, "at": now}, same)
            db.execute(update(notices).where(notices.c.name == name).values(text=text, at=now))

    def notice(self, name: str) -> Notice | None:
        """See JobStore."""
        found = self._rows(select(notices).where(notices.c.name == name))
        return Notice(at=found[0]["at"], text=found[0]["text"]) if found else None
