"""Who trains the chunks: this process, other processes, a Dask cluster, or any concurrent.futures.Executor."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from typing import Any

from symbreak.errors import SymbreakError
from symbreak.races import batched
from symbreak.races.errors import WorkersError
from symbreak.races.grid import Cell, whole
from symbreak.races.work import Run, Work

TRIES = 3  # for a chunk whose worker dies
AHEAD = 2  # chunks handed out a worker: one at work, one waiting
UNANSWERED = 10  # seconds to wait for a scheduler


@dataclass(frozen=True)
class Chunk:
    """Cells that are trained side by side, and how many such chunks whoever trains them is likely to be given after."""

    cells: tuple[Cell, ...]
    later: int = 0


def train(work: Work, chunks: Iterator[Chunk], plain: str | None, workers: Any = None) -> Iterator[list[Run]]:
    """Finished chunks as they come.

    Args:
        work: what and how.
        chunks: asked for one at a time, when somebody is free.
        plain: why runs go one by one, or None.
        workers: None, a number of processes, "dask://host:port", or an Executor.
    Raises:
        WorkersError: workers that cannot be reached, that go away, or an argument that is none of these.
    """
    if workers is None:
        for chunk in chunks:
            yield _one(work, chunk, plain)
    elif isinstance(workers, Executor):
        yield from _spread(work, chunks, plain, workers, AHEAD * _width(workers))
    elif isinstance(workers, str):
        yield from _dask(work, chunks, plain, workers)
    else:
        yield from _processes(work, chunks, plain, whole("workers", workers))


def complain(workers: Any) -> None:
    """Refuse what cannot be workers, before any work.

    Raises:
        WorkersError: an address that is none.
        RaceError: a number below 1.
    """
    if isinstance(workers, str):
        host, _, port = workers.removeprefix("dask://").rpartition(":")
        if not workers.startswith("dask://") or not host or not port.isdigit():
            raise WorkersError(f"workers={workers!r}: expected a number of processes, or dask://host:port.")
    elif workers is not None and not isinstance(workers, Executor):
        whole("workers", workers)


def _one(work: Work, chunk: Chunk, plain: str | None) -> list[Run]:
    return batched.run(work, chunk.cells, plain=plain, later=chunk.later)


def _width(executor: Executor) -> int:
    return int(getattr(executor, "_max_workers", None) or os.cpu_count() or 1)


def how_many(workers: Any) -> int:
    """Workers that share the runs, as far as can be told without asking them."""
    if isinstance(workers, Executor):
        return _width(workers)
    return int(workers) if isinstance(workers, int) and not isinstance(workers, bool) else 1 if workers is None else 4


def _spread(
    work: Work, chunks: Iterator[Chunk], plain: str | None, executor: Executor, ahead: int, *, take_back: bool = True
) -> Iterator[list[Run]]:
    """Keep a few chunks in flight. A chunk that raises ends the race; those in flight are taken back."""
    waiting: dict[Future[list[Run]], Chunk] = {}
    try:
        while True:
            while len(waiting) < ahead:
                chunk = next(chunks, None)
                if chunk is None:
                    break
                with _lost(), _deaf():
                    waiting[executor.submit(_one, work, chunk, plain)] = chunk
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                with _lost():
                    runs = future.result()
                del waiting[future]
                yield runs
    finally:
        for future in waiting if take_back else ():
            future.cancel()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; ours alone is to act on it, so others are begun with it blocked.

    A signal in the meantime is not lost: it comes when the block is lifted.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no masks to inherit
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except (SymbreakError, KeyboardInterrupt):
        raise
    except (BrokenExecutor, CancelledError, OSError) as err:
        raise WorkersError(
            f"the workers went away ({type(err).__name__}). Everything they had finished is kept."
        ) from err
    except Exception as err:
        if type(err).__module__.split(".")[0] in ("distributed", "dask"):
            raise WorkersError(
                f"the Dask cluster gave up a chunk ({type(err).__name__}: {err}). Everything finished is kept."
            ) from err
        if type(err).__name__ == "PicklingError" or "pickle" in str(err):
            raise WorkersError(
                f"the race cannot be sent to workers: {err}. Name the factory as file.py:factory, and losses, metrics "
                "and schedules by module-level functions."
            ) from err
        raise


def _processes(work: Work, chunks: Iterator[Chunk], plain: str | None, count: int) -> Iterator[list[Run]]:
    """Our own processes. One that dies breaks the pool: what was in flight is tried again in a new one."""
    share = max(1, (os.cpu_count() or 1) // count)
    pending = _Again(chunks)
    with _lost():  # before there is a pool: Python 3.11 hangs when it closes one that could not send
        pickle.dumps(work)
    while True:
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_settle, initargs=(share,))
        try:
            # The pool takes back what is left. Done here, its thread would trip over what is cancelled when a process
            # dies: until Python 3.12 it then shows a traceback of its own.
            for runs in _spread(work, pending, plain, pool, AHEAD * count, take_back=False):
                pending.finished(runs)
                yield runs
            return
        except WorkersError as err:
            if not isinstance(err.__cause__, BrokenExecutor) or not pending.again():
                raise
        except (KeyboardInterrupt, GeneratorExit):  # what is done is kept; a chunk under way would hold up the end
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Again:
    """Chunks that remembers which are not finished, and hands those out anew, TRIES times at most."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self.chunks, self.out, self.retry, self.lives = chunks, dict[frozenset[Cell], Chunk](), list[Chunk](), TRIES

    def __iter__(self) -> _Again:
        return self

    def __next__(self) -> Chunk:
        chunk = self.retry.pop(0) if self.retry else next(self.chunks)
        self.out[frozenset(chunk.cells)] = chunk
        return chunk

    def finished(self, runs: Sequence[Run]) -> None:
        self.out.pop(frozenset(run.cell for run in runs), None)
        self.lives = TRIES

    def again(self) -> bool:
        self.retry, self.lives = list(self.out.values()), self.lives - 1
        return self.lives > 0


def _settle(threads: int) -> None:
    """In a worker process: its share of the cores, so that the workers do not fight."""
    import torch

    torch.set_num_threads(threads)


def _dask(work: Work, chunks: Iterator[Chunk], plain: str | None, address: str) -> Iterator[list[Run]]:
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as err:
        raise WorkersError("a Dask cluster needs dask.distributed: pip install symbreak[dask].") from err
    try:
        client = distributed.Client(
            f"tcp://{address.removeprefix('dask://')}", timeout=UNANSWERED, set_as_default=False
        )
    except (OSError, ValueError) as err:
        raise WorkersError(f"no Dask scheduler answers at {address}: {err}. Start one with `dask scheduler`.") from err
    try:
        yield from _clustered(work, chunks, plain, client, distributed)
    finally:
        with contextlib.suppress(Exception):  # a scheduler that is gone cannot be taken leave of
            client.close(timeout=2)


def _clustered(
    work: Work, chunks: Iterator[Chunk], plain: str | None, client: Any, distributed: Any
) -> Iterator[list[Run]]:
    """Chunks on a cluster: Dask sends again what a dead worker had; a scheduler that is gone ends the race."""
    threads = {name: info["nthreads"] for name, info in client.scheduler_info(n_workers=-1)["workers"].items()}
    if not threads:
        raise WorkersError("the Dask cluster has no workers. Start some with `dask worker`.")
    if work.threads is None:  # one for each thread of Dask's, so that they do not fight
        work = dataclasses.replace(work, threads=1)
    with _lost():
        shared = client.scatter(work, broadcast=True, hash=False)
    waiting: list[Any] = []
    try:
        while True:
            while len(waiting) < AHEAD * sum(threads.values()):
                chunk = next(chunks, None)
                if chunk is None:
                    break
                waiting.append(client.submit(_one, shared, chunk, plain, pure=False, retries=TRIES - 1))
            if not waiting:
                return
            with _lost(), _connected(client), client.as_current():
                found = distributed.wait(waiting, return_when="FIRST_COMPLETED")
                done = list(found.done)
                results = [future.result() for future in done]
            waiting = [future for future in waiting if future not in done]
            yield from results
    finally:
        if waiting and client.status == "running":
            client.cancel(waiting)


@contextlib.contextmanager
def _connected(client: Any) -> Iterator[None]:
    try:
        yield
    except Exception as err:
        if isinstance(err, CancelledError) or type(err).__name__ in ("CancelledError", "FutureCancelledError"):
            raise WorkersError(
                f"the Dask scheduler went away ({client.status}). Everything finished is kept; run it again."
            ) from err
        raise
