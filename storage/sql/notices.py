"""What the node says of itself."""

from datetime import datetime

from sqlalchemy import Connection, select, update

from storage import engine
from storage.jobs import Notice
from storage.schema import notices
from storage.sql.database import Database, insert_once


class Notices(Database):
    """The last notice of each name."""

    def post(self, name: str, text: str, now: datetime) -> None:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            _post_once(db, name, text, now)
            db.execute(update(notices).where(notices.c.name == name).values(text=text, at=now))

    def post_once(self, name: str, text: str, now: datetime) -> str:
        """See JobStore."""
        with engine.writing(self._engine) as db:
            return _post_once(db, name, text, now)

    def notice(self, name: str) -> Notice | None:
        """See JobStore."""
        found = self._rows(select(notices).where(notices.c.name == name))
        return Notice(at=found[0]["at"], text=found[0]["text"]) if found else None


def _post_once(db: Connection, name: str, text: str, now: datetime) -> str:
    same = select(notices).where(notices.c.name == name)
    if db.execute(same).first() is None:
        insert_once(db, notices, {"name": name, "text": text, "at": now}, same)
    return str(db.execute(same).mappings().one()["text"])
