"""Make `sums-train.jsonl` and `sums-test.jsonl`: all sums of two digits, as questions and worked answers.

python examples/data/make_sums.py --to examples/data
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

SEED = 17
NUM_TESTED = 20


def make_row(first: int, second: int) -> dict[str, str]:
    """A sum, worked, with its result after `####` as in GSM8K."""
    answer = first + second
    return {"question": f"What is {first} + {second}?", "answer": f"{first} + {second} = {answer}\n#### {answer}"}


def make_rows() -> list[dict[str, str]]:
    """The 100 sums, in an order that the seed decides."""
    rows = [make_row(first, second) for first in range(10) for second in range(10)]
    random.Random(SEED).shuffle(rows)
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """One object per line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="A directory.")
    to, rows = parser.parse_args().to, make_rows()
    write(to / "sums-test.jsonl", rows[:NUM_TESTED])
    write(to / "sums-train.jsonl", rows[NUM_TESTED:])


if __name__ == "__main__":
    main()
