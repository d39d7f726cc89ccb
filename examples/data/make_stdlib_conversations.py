"""Make `stdlib.jsonl`: conversations about Python's standard library, out of its docstrings.

A question about a module, a class, a method or a function, and its documentation as the answer; some go on with another
name of the same module, the call's arguments, a summary. The same Python version gives the same bytes.

    python examples/data/make_stdlib_conversations.py --output examples/data/stdlib.jsonl
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import platform
import random
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

SEED = 17
MIN_ANSWER_CHARACTERS = 40
MAX_ANSWER_CHARACTERS = 1500
MAX_CONVERSATION_CHARACTERS = 1700
MAX_TURNS = 4
MAX_CONVERSATIONS_PER_MODULE = 60

# Only modules that can be imported anywhere without effect, and that every build of Python has.
MODULES = """
    abc argparse array ast asyncio base64 bdb binascii bisect builtins calendar cmath cmd code codecs codeop
    collections collections.abc colorsys compileall concurrent.futures configparser contextlib contextvars copy
    copyreg csv dataclasses datetime decimal difflib dis doctest email email.charset email.encoders email.generator
    email.header email.headerregistry email.message email.parser email.policy email.utils enum filecmp fileinput
    fnmatch fractions ftplib functools gc getopt gettext glob graphlib gzip heapq hmac html html.parser http
    http.client http.cookiejar http.cookies http.server imaplib importlib importlib.abc importlib.machinery
    importlib.metadata importlib.resources importlib.util inspect io ipaddress itertools json json.decoder
    json.encoder keyword linecache locale logging logging.config logging.handlers mailbox math mimetypes
    modulefinder netrc numbers operator optparse os os.path pathlib pdb pickle pickletools pkgutil platform plistlib
    poplib pprint profile pstats py_compile pyclbr pydoc queue quopri random re reprlib runpy sched secrets
    selectors shelve shlex shutil smtplib socketserver stat statistics string struct subprocess symtable sysconfig
    tabnanny tarfile tempfile textwrap threading time timeit tokenize tomllib trace traceback tracemalloc types
    typing unicodedata unittest unittest.mock urllib.error urllib.parse urllib.request urllib.robotparser uuid venv
    warnings wave weakref webbrowser wsgiref.handlers wsgiref.headers wsgiref.simple_server wsgiref.util
    wsgiref.validate xml.dom xml.dom.minidom xml.dom.pulldom xml.etree.ElementTree xml.sax xml.sax.handler
    xml.sax.saxutils xml.sax.xmlreader xmlrpc.client xmlrpc.server zipapp zipfile zipimport zlib zoneinfo
"""

# Addresses of objects, and paths and hosts that have no place in a data set.
UNWANTED = re.compile(r"\b0x[0-9a-f]{6,}|/(?:usr|home|root|tmp|opt|var|etc)\b|py(?:pi\.|thonhosted)", re.IGNORECASE)

SYSTEM_MESSAGES = (
    "You are a helpful assistant for Python programmers.",
    "You answer questions about Python's standard library with its documentation.",
    "You are a patient teacher of Python. Answer from the documentation.",
)
FIRST_QUESTIONS = {
    "module": (
        "What is the module `{name}` for?",
        "Tell me about Python's `{name}` module.",
        "What does `{name}` offer?",
    ),
    "class": ("What is the class `{name}`?", "What is `{name}` for?", "Explain the class `{name}`."),
    "method": ("What does the method `{name}` do?", "Explain `{name}`.", "How does `{name}` work?"),
    "function": ("What does `{name}` do?", "Explain the function `{name}`.", "How do I use `{name}`?"),
    "property": ("What is the attribute `{name}`?", "What does `{name}` hold?"),
}
NEXT_QUESTIONS = (
    "And `{name}`?",
    "What about `{name}`?",
    "Thanks. What does `{name}` do?",
    "And what is `{name}` for?",
)
ARGUMENTS_QUESTIONS = ("What arguments does it take?", "How is it called?", "What is its signature?")
SUMMARY_QUESTIONS = ("Can you say that in one sentence?", "In short?")
MEMBERS_QUESTIONS = ("Which methods does it have?", "What are its public methods?")

Message = dict[str, str]


@dataclass(frozen=True)
class Subject:
    """Something a question can be about."""

    name: str
    """As a programmer writes it: `textwrap.fill`."""

    kind: str
    """A key of FIRST_QUESTIONS."""

    documentation: str
    signature: str | None
    """The call with its arguments, where Python knows them."""

    members: tuple[str, ...] = ()
    """Of a class: its public methods."""


def documentation_of(thing: Any) -> str | None:
    """The docstring of `thing`, cut at a paragraph where it is long; None where it is no use as an answer."""
    text = thing.__doc__
    if not isinstance(text, str):
        return None
    text = inspect.cleandoc(text).strip()
    if len(text) > MAX_ANSWER_CHARACTERS:
        text = first_paragraphs(text)
    return text if len(text) >= MIN_ANSWER_CHARACTERS and not UNWANTED.search(text) else None


def first_paragraphs(text: str) -> str:
    """The paragraphs of `text` that fit an answer; the last of them does not announce what was cut off."""
    paragraphs = text[: text.rfind("\n\n", 0, MAX_ANSWER_CHARACTERS) + 1].strip().split("\n\n")
    while paragraphs and paragraphs[-1].endswith(":"):
        paragraphs.pop()
    return "\n\n".join(paragraphs).strip()


def signature_of(name: str, thing: Any) -> str | None:
    """The call of `thing`, without `self`; None where Python does not know it or it holds a value of this machine."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    try:
        text = f"{name}{signature.replace(parameters=parameters)}"
    except ValueError:
        return None
    return None if len(text) > 200 or "<" in text or "environ(" in text or UNWANTED.search(text) else text


def kind_of(thing: Any, inside_class: bool) -> str | None:
    """Which questions fit `thing`; None for values and other things without documentation of their own."""
    if inspect.isclass(thing):
        return "class"
    if isinstance(thing, property):
        return "property"
    if inspect.isroutine(thing):
        return "method" if inside_class else "function"
    return None


def subject_of(name: str, thing: Any, inside_class: bool = False) -> Subject | None:
    """`thing` as a subject, where it is a documented function, class, method or property."""
    kind = kind_of(thing, inside_class)
    documentation = documentation_of(thing) if kind else None
    if kind is None or documentation is None:
        return None
    if documentation.startswith(f"{name.rpartition('.')[2]}(") and "\n" not in documentation:
        return None  # what a dataclass writes about itself: only its arguments
    members = tuple(public_members(thing)) if kind == "class" else ()
    return Subject(name, kind, documentation, signature_of(name, thing), members)


def public_members(cls: type) -> Iterator[str]:
    """Names of the methods that `cls` defines itself and documents, sorted."""
    for name, member in sorted(vars(cls).items()):
        if not name.startswith("_") and inspect.isroutine(member) and member.__doc__:
            yield name


def public_names(module: ModuleType) -> list[str]:
    """What `module` offers, sorted: `__all__`, or else the public names that were defined in it."""
    if hasattr(module, "__all__"):
        names = [name for name in module.__all__ if hasattr(module, name)]
    else:
        names = [name for name, thing in vars(module).items() if getattr(thing, "__module__", None) == module.__name__]
    return sorted(name for name in set(names) if not name.startswith("_"))


def subjects_of(module_name: str) -> Iterator[Subject]:
    """Everything worth a question in one module: itself, its functions, its classes and their methods."""
    module = importlib.import_module(module_name)
    if documentation := documentation_of(module):
        yield Subject(module_name, "module", documentation, None)
    prefix = "" if module_name == "builtins" else f"{module_name}."
    for name in public_names(module):
        thing = getattr(module, name)
        if subject := subject_of(prefix + name, thing):
            yield subject
        if inspect.isclass(thing):
            yield from filter(None, class_subjects(prefix + name, thing))


def class_subjects(prefix: str, cls: type) -> Iterator[Subject | None]:
    """The methods and properties that `cls` defines itself."""
    for name, member in sorted(vars(cls).items()):
        if name.startswith("_"):
            continue
        thing = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        yield subject_of(f"{prefix}.{name}", thing, inside_class=not inspect.isclass(thing))


def without_repeats(subjects: Iterable[Subject], seen: set[str]) -> Iterator[Subject]:
    """`subjects` whose documentation was not in `seen` yet: many methods only repeat their base class."""
    for subject in subjects:
        if subject.documentation not in seen:
            seen.add(subject.documentation)
            yield subject


def follow_ups(subject: Subject, choose: random.Random) -> Iterator[tuple[str, str]]:
    """Questions that go on about `subject`, with their answers."""
    if subject.members and len(subject.members) <= 25 and choose.random() < 0.3:
        yield choose.choice(MEMBERS_QUESTIONS), ", ".join(f"`{name}`" for name in subject.members)
    if subject.signature and choose.random() < 0.3:
        yield choose.choice(ARGUMENTS_QUESTIONS), f"`{subject.signature}`"
    summary, _, rest = subject.documentation.partition("\n\n")
    if rest and summary.endswith(".") and len(summary) < 160 and choose.random() < 0.25:
        yield choose.choice(SUMMARY_QUESTIONS), " ".join(summary.split())


def turns_about(subject: Subject, is_first: bool, choose: random.Random) -> list[tuple[str, str]]:
    """The question about `subject`, what may follow from it, and the answers."""
    questions = FIRST_QUESTIONS[subject.kind] if is_first else NEXT_QUESTIONS
    question = choose.choice(questions).format(name=subject.name)
    return [(question, subject.documentation), *follow_ups(subject, choose)]


def conversations_of(subjects: list[Subject], choose: random.Random) -> Iterator[list[Message]]:
    """Conversations that take up `subjects` in order, each of them once."""
    position = 0
    while position < len(subjects):
        turns: list[tuple[str, str]] = []
        for _ in range(choose.choices((1, 2, 3, 4), weights=(55, 25, 12, 8))[0]):
            if position == len(subjects):
                break
            more = turns + turns_about(subjects[position], not turns, choose)
            if turns and (len(more) > MAX_TURNS or characters_of(more) > MAX_CONVERSATION_CHARACTERS):
                break
            turns, position = more[:MAX_TURNS], position + 1
        yield list(messages_of(turns, choose))


def characters_of(turns: list[tuple[str, str]]) -> int:
    """Length of all questions and answers together."""
    return sum(len(question) + len(answer) for question, answer in turns)


def messages_of(turns: list[tuple[str, str]], choose: random.Random) -> Iterator[Message]:
    """`turns` as messages; three in ten conversations open with a system message."""
    if choose.random() < 0.3:
        yield {"role": "system", "content": choose.choice(SYSTEM_MESSAGES)}
    for question, answer in turns:
        yield {"role": "user", "content": question}
        yield {"role": "assistant", "content": answer}


def make_rows() -> Iterator[dict[str, Any]]:
    """All rows, by module. Large modules give a part of their conversations, so that none takes over."""
    seen: set[str] = set()
    for module_name in sorted(MODULES.split()):
        choose = random.Random(f"{SEED}:{module_name}")
        subjects = list(without_repeats(subjects_of(module_name), seen))
        conversations = list(conversations_of(subjects, choose))
        count = min(len(conversations), MAX_CONVERSATIONS_PER_MODULE)
        for number in sorted(choose.sample(range(len(conversations)), count)):
            yield {"id": f"{module_name}-{number:03d}", "messages": conversations[number]}


def summary_of(rows: list[dict[str, Any]], size_bytes: int) -> str:
    """A few lines about what was made."""
    turns = Counter(sum(message["role"] == "user" for message in row["messages"]) for row in rows)
    systems = sum(row["messages"][0]["role"] == "system" for row in rows)
    modules = len({row["id"].rpartition("-")[0] for row in rows})
    by_turns = ", ".join(f"{count} with {number}" for number, count in sorted(turns.items()))
    return (
        f"{len(rows)} conversations about {modules} modules, {size_bytes / 1e6:.2f} MB\n"
        f"turns: {by_turns}; {systems} with a system message\n"
        f"Python {platform.python_version()}"
    )


def main() -> None:
    """Write the file and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "stdlib.jsonl", help="file to write")
    output: Path = parser.parse_args().output
    if sys.flags.optimize > 1:
        parser.error("python -OO removes the docstrings that this script reads")
    warnings.simplefilter("ignore", DeprecationWarning)
    rows = list(make_rows())
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    output.write_bytes(content)
    print(summary_of(rows, len(content)))


if __name__ == "__main__":
    main()
