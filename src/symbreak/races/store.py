"""Finished runs in one SQLite file: committed chunk by chunk, each run once, for one setup.

Several races may write to one store. What a race is about to train it claims first; a race that dies stops beating, and
its claims lapse. Should two train the same cell after all (one was stopped for longer than LAPSE), the first to finish
is kept. A committed run survives the death of the process at any moment, and of the machine as far as its disk keeps
what it says it wrote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from symbreak.races.errors import StoreError
from symbreak.races.grid import Cell
from symbreak.races.work import Run, Setup

FORMAT = 1
BEAT, LAPSE = 2.0, 20.0  # seconds between beats, and without one until a race counts as dead
PATIENCE = 60.0  # seconds to wait for another race's commit

SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
  scheme TEXT, seed INTEGER, eta REAL, scale REAL, record TEXT NOT NULL, PRIMARY KEY (scheme, seed, eta, scale));
CREATE TABLE IF NOT EXISTS claims (
  scheme TEXT, seed INTEGER, eta REAL, scale REAL, owner TEXT NOT NULL, PRIMARY KEY (scheme, seed, eta, scale));
CREATE TABLE IF NOT EXISTS owners (owner TEXT PRIMARY KEY, host TEXT, pid INTEGER, beat REAL NOT NULL);
"""
CELL = "scheme = ? AND seed = ? AND eta = ? AND scale = ?"


class Store:
    """An open store. Use as a context manager: claims are given back at the end.

    Args:
        path: of the file, made where there is none.
        setup: of the race; None only reads.
    Raises:
        StoreError: no store of races, of another setup or version, or a place that cannot be written.
    Example:
        >>> import tempfile
        >>> from symbreak.races._race import prepared
        >>> setup = prepared("mlp:4", "xor", steps=10).setup
        >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "runs.sqlite", setup) as store:
        ...     len(store.runs())
        0

    Source: https://sqlite.org/wal.html, https://sqlite.org/atomiccommit.html.
    """

    def __init__(self, path: Path | str, setup: Setup | None) -> None:
        self.path, self.owner, self._stop = Path(path), uuid.uuid4().hex, threading.Event()
        self._beating: threading.Thread | None = None
        if setup is None and not self.path.is_file():
            raise StoreError(f"there is no store {str(self.path)!r}.")
        with self._told():
            self.base = self._open()
            if setup is not None:
                self.base.executescript(SCHEMA)
                with self._writing() as base:
                    base.execute("INSERT OR IGNORE INTO about VALUES ('format', ?)", (str(FORMAT),))
                    base.execute("INSERT OR IGNORE INTO about VALUES ('setup', ?)", (setup.to_json(),))
        try:
            self.setup = self._read_setup()
            if setup is not None and setup != self.setup:
                raise StoreError(self._differs(setup))
        except BaseException:
            self.base.close()
            raise
        if setup is not None:
            try:
                with self._told():
                    self._beat(self.base)
            except BaseException:
                self.base.close()
                raise
            self._beating = threading.Thread(target=self._beats, daemon=True)
            self._beating.start()

    def _open(self) -> sqlite3.Connection:
        base = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        base.execute("PRAGMA busy_timeout = 60000")
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        return base

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._beating is not None:
            self._beating.join()
            with contextlib.suppress(sqlite3.Error), self._writing() as base:
                base.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))
                base.execute("DELETE FROM owners WHERE owner = ?", (self.owner,))
        self.base.close()

    # What it holds ---------------------------------------------------------------------------------------------------

    def runs(self) -> dict[Cell, Run]:
        """All finished runs."""
        from symbreak.races.result import run_from

        with self._told():
            rows = self.base.execute("SELECT record FROM runs ORDER BY rowid").fetchall()
        found = [run_from(json.loads(record)) for (record,) in rows]
        return {run.cell: run for run in found}

    def commit(self, runs: Sequence[Run]) -> None:
        """Write a chunk, all of it or nothing."""
        from symbreak.races.result import _finite

        rows = [
            (*dataclasses.astuple(run.cell), json.dumps(_finite(dataclasses.asdict(run)), allow_nan=False))
            for run in runs
        ]
        with self._told(), self._writing() as base:
            base.executemany("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?)", rows)
            base.executemany(f"DELETE FROM claims WHERE {CELL}", [row[:4] for row in rows])

    def claim(self, cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
        """Those of the cells that this race is to train now, and those another living race is at."""
        with self._told(), self._writing() as base:
            self._bury(base)
            mine: list[Cell] = []
            others: list[Cell] = []
            for cell in cells:
                row = dataclasses.astuple(cell)
                if base.execute(f"SELECT 1 FROM runs WHERE {CELL}", row).fetchone():
                    continue
                base.execute("INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?)", (*row, self.owner))
                (owner,) = base.execute(f"SELECT owner FROM claims WHERE {CELL}", row).fetchone()
                (mine if owner == self.owner else others).append(cell)
        return mine, others

    # Who is alive ----------------------------------------------------------------------------------------------------

    def _beat(self, base: sqlite3.Connection) -> None:
        row = (self.owner, socket.gethostname(), os.getpid(), time.time())
        base.execute("INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?)", row)

    def _beats(self) -> None:
        base = self._open()
        while not self._stop.wait(BEAT):
            with contextlib.suppress(sqlite3.Error):  # a full disk is the business of whoever commits
                self._beat(base)
        base.close()

    def _bury(self, base: sqlite3.Connection) -> None:
        here = socket.gethostname()
        for owner, host, pid, beat in base.execute("SELECT owner, host, pid, beat FROM owners").fetchall():
            lapsed = time.time() - beat > LAPSE
            if owner != self.owner and (lapsed or (host == here and not _lives(pid))):
                base.execute("DELETE FROM owners WHERE owner = ?", (owner,))
        base.execute("DELETE FROM claims WHERE owner NOT IN (SELECT owner FROM owners) AND owner != ?", (self.owner,))

    # Errors ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self.base.execute("BEGIN IMMEDIATE")
        try:
            yield self.base
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back by itself
                self.base.execute("ROLLBACK")
            raise
        self.base.execute("COMMIT")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as err:
            text = str(err)
            if "not a database" in text or "malformed" in text:
                raise StoreError(f"{self.path} is no store of races: {text}. Name another file.") from err
            if "full" in text or "I/O" in text:
                raise StoreError(
                    f"{self.path} cannot be written: {text}. Every committed run is kept. Make room on its disk, "
                    "or lift the limit on file sizes, and run the same command again."
                ) from err
            raise StoreError(f"{self.path} cannot be used: {text}. Every committed run is kept.") from err

    def _read_setup(self) -> Setup:
        with self._told():
            tables = {name for (name,) in self.base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"about", "runs"} <= tables:
                raise StoreError(f"{self.path} is a database, but no store of races. Name another file.")
            about = dict(self.base.execute("SELECT name, value FROM about").fetchall())
        if about.get("format") != str(FORMAT):
            raise StoreError(
                f"{self.path} is a store of format {about.get('format')}, not {FORMAT}. Name another file."
            )
        try:
            return Setup.from_json(about["setup"])
        except (KeyError, TypeError, ValueError) as err:
            raise StoreError(f"{self.path} was written by another version of symbreak. Name another file.") from err

    def _differs(self, asked: Setup) -> str:
        ours, theirs = dataclasses.asdict(asked), dataclasses.asdict(self.setup)
        rows = [f"{name} {theirs[name]!r} there, {ours[name]!r} here" for name in ours if ours[name] != theirs[name]]
        rows = [row for row in rows if not row.startswith("points ")] or rows  # they follow from the steps
        more = f", and {len(rows) - 3} more" if len(rows) > 3 else ""
        return f"{self.path} belongs to another race: {'; '.join(rows[:3])}{more}. Name another file with --store."


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_store(path: Path) -> bool:
    """Whether a file begins as SQLite's do."""
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\x00"
    except OSError:
        return False
