"""Check real models and say how it went: `python -m real_models.run [--all | NAME...]`.

Without names it takes the sixty of `public.txt`. Each library gets one process; a model that exceeds its time is ended
with the process and the rest goes on in a new one. The exit code is 0 where every verdict is as expected.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import IO

from real_models import zoo
from real_models.expected import disagreement
from real_models.measure import Row
from real_models.table import ALL, SIXTY, as_markdown, as_text, by_library, outcome, put_between

IMPORT_SECONDS = 120


def main() -> int:
    options = parse()
    rows = []
    flags = [f"--{flag}" for flag in ("smoke", "published") if getattr(options, flag)]
    for row in measured(chosen(options), options.timeout, flags):
        rows.append(row)
        print(as_text(row, row.error if options.smoke else disagreement(row)), flush=True)
    wrong = [row for row in rows if (row.error if options.smoke else disagreement(row))]
    print(rates(rows, wrong))
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if options.markdown:
        markers, table = (ALL, by_library(rows)) if options.all else (SIXTY, as_markdown(rows))
        put_between(Path(options.markdown), *markers, f"{table}\n\n{rates(rows, wrong)}")
    return 1 if wrong else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m real_models.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every model on the list")
    parser.add_argument("--smoke", action="store_true", help="only build, and one plain forward and backward pass")
    parser.add_argument(
        "--published",
        action="store_true",
        help="at the size of zoo/published.py, which the small ones are held against",
    )
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="for one model")
    parser.add_argument("--json", metavar="FILE", help="write the rows")
    parser.add_argument(
        "--markdown", metavar="FILE", help="write the table, of --all a summary, between the markers of this page"
    )
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[str]:
    known = list(zoo.PUBLISHED) if options.published else zoo.names()
    names: list[str] = options.names or (known if options.all or options.published else zoo.public_names())
    unknown = sorted(set(names) - set(known))
    if unknown:
        sys.exit(f"not on the list{' of published sizes' * options.published}: {', '.join(unknown)}")
    return names


def measured(names: list[str], timeout: float, flags: Sequence[str] = ()) -> Iterator[Row]:
    """The row of each name, in order; models of one library share a worker."""
    for _, group in groupby(names, zoo.library):
        left = list(group)
        while left:
            for row in one_worker(left, timeout, flags):
                left.remove(row.name)
                yield row


def one_worker(names: list[str], timeout: float, flags: Sequence[str]) -> Iterator[Row]:
    """Rows as they come, up to the first model that runs out of time or takes the process with it."""
    command = [sys.executable, "-m", "real_models.measure", *flags, *names]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    worker = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert worker.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=pump, args=(worker.stdout, lines), daemon=True).start()
    running = names[0]
    try:
        for _ in range(2 * len(names)):
            line = lines.get(timeout=timeout + (IMPORT_SECONDS if running == names[0] else 0))
            if not line:
                yield Row(running, error=f"the process ended with exit code {worker.wait()}")
                return
            answer = json.loads(line)
            if "started" in answer:
                running = answer["started"]
            else:
                yield Row(**answer)
    except queue.Empty:
        yield Row(running, error=f"more than {timeout:g} seconds", seconds=timeout)
    finally:
        worker.kill()
        worker.wait()


def pump(source: IO[str], lines: "queue.Queue[str]") -> None:
    """Move lines into a queue, which can be waited for with a limit; an empty line says that the source has ended."""
    for line in source:
        lines.put(line)
    lines.put("")


def rates(rows: list[Row], wrong: list[Row]) -> str:
    count = Counter(outcome(row) for row in rows)
    seconds = sum(row.seconds for row in rows)
    said = ", ".join(f"{number} {verdict}" for verdict, number in count.most_common())
    return f"{len(rows)} models in {seconds:.0f} s: {said}; {len(rows) - len(wrong)} as expected, {len(wrong)} not."


if __name__ == "__main__":
    sys.exit(main())
