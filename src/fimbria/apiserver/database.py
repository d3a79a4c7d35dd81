"""The SQLite file below the store: rows in, rows out.

Opened exclusively, in WAL mode with synchronous=FULL: what `write` returned from is on disk. It
runs in the store's thread; everything else is called before that thread has work.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from fimbria.apiserver.entry import Entry, Event, decode, make_entry
from fimbria.apiserver.resources import BY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    resource TEXT, namespace TEXT, name TEXT, body BLOB, PRIMARY KEY (resource, namespace, name));
CREATE TABLE IF NOT EXISTS history (rv INTEGER PRIMARY KEY, resource TEXT, type TEXT, body BLOB);
CREATE INDEX IF NOT EXISTS history_of ON history (resource, rv);
CREATE TABLE IF NOT EXISTS floors (resource TEXT PRIMARY KEY, rv INTEGER);
"""
_INSERT = "INSERT INTO history VALUES (?, ?, ?, ?)"
_UPSERT = "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)"
_DELETE = "DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?"


class Database:
    """Objects and their history in one file."""

    def __init__(self, path: Path) -> None:
        """Open or create the file (mode 0600). Raises sqlite3.Error, ValueError or OSError."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.connection = sqlite3.connect(
            path, timeout=0.2, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except (sqlite3.Error, ValueError):
            self.connection.close()
            raise

    def _prepare(self) -> None:
        execute = self.connection.execute
        # One server per file: the lock is held for as long as the connection is open.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise ValueError(f"written by another version (schema {version}, not {SCHEMA_VERSION})")
        self.connection.executescript(_SCHEMA)
        execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def objects(self) -> Iterator[Entry]:
        """All objects of kinds that this version knows."""
        for key, body in self.connection.execute("SELECT resource, body FROM objects"):
            if resource := BY_KEY.get(key):
                yield make_entry(resource, decode(body), body)

    def history(self) -> Iterator[tuple[str, Entry]]:
        """The kept changes, oldest first: their types and what they led to."""
        rows = self.connection.execute("SELECT resource, type, body FROM history ORDER BY rv")
        for key, change, body in rows:
            if resource := BY_KEY.get(key):
                yield change, make_entry(resource, decode(body), body)

    def floors(self) -> dict[str, int]:
        """Kind → version up to which its history has been dropped."""
        return dict(self.connection.execute("SELECT resource, rv FROM floors"))

    def revision(self) -> int:
        """The newest version that was given."""
        (newest,) = self.connection.execute("SELECT max(rv) FROM history").fetchone()
        return newest or 0

    def write(self, events: Iterable[Event], trims: list[tuple[str, int]]) -> None:
        """Commit changes, and drop history up to (kind, version); all or nothing.

        Raises sqlite3.Error.
        """
        database = self.connection
        database.execute("BEGIN IMMEDIATE")
        try:
            for event in events:
                entry = event.entry
                key = entry.resource.key
                database.execute(_INSERT, (entry.rv, key, event.type, entry.raw))
                if event.type == "DELETED":
                    database.execute(_DELETE, (key, entry.namespace, entry.name))
                else:
                    database.execute(_UPSERT, (key, entry.namespace, entry.name, entry.raw))
            for key, floor in trims:
                database.execute("DELETE FROM history WHERE resource = ? AND rv <= ?", (key, floor))
                database.execute("INSERT OR REPLACE INTO floors VALUES (?, ?)", (key, floor))
            database.execute("COMMIT")
        except sqlite3.Error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file, and let go of its lock."""
        self.connection.close()
