"""What a person says of a run's features: a label, a note, a bookmark; in ``labels.sqlite`` beside the index.

SQLite, because these change while pages are open, perhaps in two windows at once; the index stays read-only. Every call is
one short transaction on a connection of its own, so an instance may be shared between threads and processes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from interp.errors import InputError

VERSION = 1
WAIT_S = 10.0  # how long a writer waits for another one; a transaction takes milliseconds

_TABLE = """
CREATE TABLE labels (
    feature INTEGER PRIMARY KEY CHECK (feature >= 0),
    label TEXT NOT NULL,
    note TEXT NOT NULL,
    bookmarked INTEGER NOT NULL CHECK (bookmarked IN (0, 1))
)
"""
_READ = "SELECT feature, label, note, bookmarked FROM labels"


@dataclass(frozen=True)
class FeatureLabel:
    """What was said of one feature; empty where nothing was."""

    label: str = ""
    """A few words, shown in tables."""
    note: str = ""
    """Free text."""
    bookmarked: bool = False


class FeatureLabels:
    """Labels, notes and bookmarks of one run (``run.labels_path``). The file is made by the first change."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def get(self, feature: int) -> FeatureLabel:
        """What was said of ``feature``."""
        return self._read(f"{_READ} WHERE feature = ?", feature).get(feature, FeatureLabel())

    def all(self) -> dict[int, FeatureLabel]:
        """Every feature of which something was said, by number."""
        return self._read(f"{_READ} ORDER BY feature")

    def bookmarks(self) -> list[int]:
        """Bookmarked features, in ascending order."""
        return list(self._read(f"{_READ} WHERE bookmarked ORDER BY feature"))

    def search(self, text: str) -> list[int]:
        """Features whose label or note contains ``text`` in any case, in ascending order."""
        sought = text.casefold()
        found = self.all().items()
        return [feature for feature, said in found if sought in f"{said.label}\n{said.note}".casefold()]

    def set(
        self, feature: int, *, label: str | None = None, note: str | None = None, bookmarked: bool | None = None
    ) -> FeatureLabel:
        """Change what is given, leave the rest, and return the result. Blanks around a label or note are taken off.

        Two people changing different things of one feature at once both succeed. A feature of which nothing is left
        said is forgotten.
        """
        if feature < 0:
            raise InputError(f"no feature {feature}; features are numbered from 0")
        change = (
            None if label is None else label.strip(),
            None if note is None else note.strip(),
            None if bookmarked is None else int(bookmarked),
        )
        with self._connection(for_writing=True) as connection:
            connection.execute("INSERT OR IGNORE INTO labels VALUES (?, '', '', 0)", (feature,))
            connection.execute(
                "UPDATE labels SET label = coalesce(?, label), note = coalesce(?, note),"
                " bookmarked = coalesce(?, bookmarked) WHERE feature = ?",
                (*change, feature),
            )
            connection.execute("DELETE FROM labels WHERE label = '' AND note = '' AND NOT bookmarked")
            rows = connection.execute(f"{_READ} WHERE feature = ?", (feature,)).fetchall()
        return _labels(rows).get(feature, FeatureLabel())

    def merge(self, given: Mapping[int, FeatureLabel], *, replace: bool = False) -> int:
        """Add what others said of features, in one transaction: all of it or nothing.

        A label or note that is here already and differs stays, or gives way if ``replace``; an empty one never takes the place
        of another. Bookmarks are added. Returns of how many features a label or note differed.
        """
        n_different = 0
        with self._connection(for_writing=True) as connection:
            present = _labels(connection.execute(_READ).fetchall())
            for feature, other in given.items():
                here = present.get(feature, FeatureLabel())
                texts = [(here.label, other.label.strip()), (here.note, other.note.strip())]
                n_different += any(mine and theirs and mine != theirs for mine, theirs in texts)
                label, note = (theirs if theirs and (replace or not mine) else mine for mine, theirs in texts)
                connection.execute(
                    "INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)",
                    (feature, label, note, int(here.bookmarked or other.bookmarked)),
                )
            connection.execute("DELETE FROM labels WHERE label = '' AND note = '' AND NOT bookmarked")
        return n_different

    def _read(self, query: str, *values: int) -> dict[int, FeatureLabel]:
        if not self.path.exists():
            return {}
        with self._connection(for_writing=False) as connection:
            return _labels(connection.execute(query, values).fetchall()) if _version(connection) else {}

    @contextmanager
    def _connection(self, *, for_writing: bool) -> Iterator[sqlite3.Connection]:
        """One transaction, committed at the end or undone by an error. The schema version is checked first."""
        mode = "rwc" if for_writing else "ro"
        try:
            # Autocommit, so that the transaction begins where this says and not at the first INSERT.
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=WAIT_S, isolation_level=None
            )
        except sqlite3.OperationalError as error:
            raise InputError(
                f"the labels in '{self.path}' cannot be opened ({error}); does the folder exist?"
            ) from None
        try:
            # IMMEDIATE takes the write lock before anything is read: two writers queue instead of failing half-way.
            connection.execute("BEGIN IMMEDIATE" if for_writing else "BEGIN")
            version = _version(connection)
            if version not in (0, VERSION):
                raise InputError(f"'{self.path}' holds labels of version {version}, this program reads {VERSION}")
            if for_writing and version == 0:
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version = {VERSION}")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise InputError(f"the labels in '{self.path}' cannot be read or written: {error}") from None
        finally:
            connection.close()  # undoes what was not committed


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _labels(rows: list[tuple[int, str, str, int]]) -> dict[int, FeatureLabel]:
    return {feature: FeatureLabel(label, note, bool(bookmarked)) for feature, label, note, bookmarked in rows}
