"""Make `preferences.jsonl`: pairs of a right and a wrong answer, out of the conversations in `stdlib.jsonl`.

The chosen answer is the one of the conversation. The rejected one is the answer to another question, or the right one
cut off in the middle or with its words in disorder. The same conversations give the same bytes.

    python examples/data/make_preferences.py --output examples/data/preferences.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 17
NUM_PAIRS = 200
MIN_ANSWER_CHARACTERS = 80
MAX_ANSWER_CHARACTERS = 500
MIN_ANSWER_WORDS = 8
MAX_PROMPT_CHARACTERS = 600
FLAWS = {"of_another_question": 50, "cut_off": 25, "in_disorder": 25}
"""What is wrong with rejected answers, and how often in a hundred."""

Message = dict[str, str]


@dataclass(frozen=True)
class Question:
    """A question of a conversation, with what was said before it, and its answer."""

    id: str
    prompt: tuple[Message, ...]
    answer: str


def questions_of(row: dict[str, Any]) -> Iterator[Question]:
    """The questions of a conversation whose prompt and answer are neither too short nor too long."""
    messages = row["messages"]
    for number, message in enumerate(messages):
        prompt, answer = messages[:number], message["content"]
        is_short = sum(len(one["content"]) for one in prompt) <= MAX_PROMPT_CHARACTERS
        fits = MIN_ANSWER_CHARACTERS <= len(answer) <= MAX_ANSWER_CHARACTERS
        fits = fits and len(set(answer.split(" "))) >= MIN_ANSWER_WORDS
        if message["role"] == "assistant" and is_short and fits:
            yield Question(f"{row['id']}-{number}", tuple(prompt), answer)


def flawed(question: Question, flaw: str, others: list[Question], choose: random.Random) -> str:
    """A wrong answer to `question`."""
    if flaw == "of_another_question":
        return choose.choice([one.answer for one in choose.sample(others, 8) if one.answer != question.answer])
    words = question.answer.split(" ")
    if flaw == "cut_off":
        return " ".join(words[: max(1, len(words) // 3)])
    disordered = words[:]
    while disordered == words:
        choose.shuffle(disordered)
    return " ".join(disordered)


def make_pairs(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One pair for each of some of the conversations."""
    choose = random.Random(SEED)
    questions = [list(questions_of(row)) for row in rows]
    everything = [question for several in questions for question in several]
    for several in choose.sample([one for one in questions if one], NUM_PAIRS):
        question = choose.choice(several)
        (flaw,) = choose.choices(list(FLAWS), weights=list(FLAWS.values()))
        rejected = flawed(question, flaw, everything, choose)
        yield {
            "id": question.id,
            "flaw": flaw,
            "prompt": list(question.prompt),
            "chosen": [{"role": "assistant", "content": question.answer}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }


def main() -> None:
    """Write the file and say what is in it."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=here / "stdlib.jsonl", help="conversations")
    parser.add_argument("--output", type=Path, default=here / "preferences.jsonl", help="file to write")
    arguments = parser.parse_args()
    with arguments.input.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    pairs = sorted(make_pairs(rows), key=lambda pair: str(pair["id"]))
    content = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs).encode()
    arguments.output.write_bytes(content)
    flaws = ", ".join(f"{count} {flaw}" for flaw, count in sorted(Counter(pair["flaw"] for pair in pairs).items()))
    print(f"{len(pairs)} pairs, {len(content) / 1e3:.0f} kB; rejected answers: {flaws}")


if __name__ == "__main__":
    main()
