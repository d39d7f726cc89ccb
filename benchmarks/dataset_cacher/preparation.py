"""What preparing a dataset costs, beside everybody else's way and beside the limit, in one run on one machine.

    ./pants package components/dataset-cacher:dataset-cacher
    python3.11 -m benchmarks.dataset_cacher.preparation --work DIRECTORY [--peers PYTHON]... [--json]

20,000 conversations and a BPE of 32k tokens (`corpus.py`), cut at 4,096 tokens. Each way runs in a process of its own,
and rounds are interleaved. What is compared is CPU seconds, in each round, and the median of the rounds is given: ours
of the whole process, imports included; everybody else's from the moment its libraries are imported and its tokenizer is
loaded. So ours is given a second time like for like: less its start, which is preparing 50 rows in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.dataset_cacher.corpus import CONVERSATIONS_FILE, CORPUS_FILE, ROWS, TOKENIZER_DIRECTORY, Corpus

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = ROOT / "dist/tunewright-dataset-cacher.pex"

MAX_LENGTH_TOKENS = 4096
LEAST_TOKENS = 17_000_000
LARGE_ROWS = 200_000
TRIAL_ROWS = 50
"""Rows on which every way is tried first: one that does not run here is left out, and the others are still measured."""

HITS = 20
SAMPLE_SECONDS = 0.25
"""Between two looks at the memory of a way's processes."""

ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
              "FASTOKENS_BPE_THREADS": "1"}  # fmt: skip
SETTINGS: dict[str, Mapping[str, str]] = {"one thread": ONE_THREAD, "default threads": {}}

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_MODE": "disabled",
           "AXOLOTL_DO_NOT_TRACK": "1"}  # fmt: skip

OURS = "ours"
WITHOUT_START = "ours, without its start"
RAW_WAYS = ("tokenizers", "fastokens")
"""Run by the interpreter that ours runs by, with its libraries."""

PEER_WAYS = {
    "transformers": "transformers",
    "open-instruct": "transformers",
    "open-instruct-prefixes": "transformers",
    "trl": "trl",
    "axolotl": "axolotl",
}
"""Run by the first of the peers' interpreters that has this library."""

LETTERS = {"transformers": "(a)", "tokenizers": "(b)", "fastokens": "(c)", "trl": "(d)", "axolotl": "(e)",
           "open-instruct": "(f)", "open-instruct-prefixes": "(f')"}  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """What a process cost, as its parent sees it."""

    wall_seconds: float
    cpu_seconds: float
    peak_mebibytes: float
    """Of all its processes together: by the kernel for one alone, sampled for several."""

    stdout: str


@dataclass(frozen=True)
class Run:
    """One run of one way."""

    wall_seconds: float
    cpu_seconds: float
    """What is compared: ours of the whole process, a peer's of its work."""

    process_cpu_seconds: float
    """Of the whole process, imports and start-up included."""

    peak_mebibytes: float
    rows: int
    tokens: int
    trained_tokens: int
    disk_bytes: int
    ids_sha256: str | None


@dataclass(frozen=True)
class Installed:
    """What is compared, and how it is called."""

    ours: tuple[str, ...]
    """The command `dataset-cacher`."""

    python: tuple[str, ...]
    """An interpreter with ours' libraries."""

    variables: Mapping[str, str]
    """For that interpreter."""

    peers: Mapping[str, str]
    """For each of the peers' ways that can run here, its interpreter."""


def spend(command: Sequence[str], variables: Mapping[str, str]) -> Spent:
    """Run `command` to its end; CPU and memory are its own and its children's. Raises RuntimeError where it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON} | dict(variables)
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
        with sampled_memory(process.pid) as sampled:
            _, status, usage = os.wait4(process.pid, 0)
            wall_seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            said = stderr.read().decode(errors="replace")[-3000:]
            raise RuntimeError(f"{' '.join(command[:4])} ...: exit code {process.returncode}\n{said}")
        peak_mebibytes = max([usage.ru_maxrss, *sampled]) / 1024  # both count in KiB
        return Spent(wall_seconds, usage.ru_utime + usage.ru_stime, peak_mebibytes, stdout.read().decode())


@contextmanager
def sampled_memory(pid: int) -> Iterator[list[int]]:
    """The memory of `pid` and all below it, shared pages counted once, in KiB, now and then until the context ends.

    Only while there are any below it: the kernel tells the peak of one process without being asked, and to ask holds
    that process up, as all its pages are looked at.
    """
    samples: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            pids = list(_tree(pid))
            if len(pids) > 1:
                samples.append(sum(map(_proportional_kibibytes, pids)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _tree(pid: int) -> Iterator[int]:
    """`pid` and its children and theirs, as far as they still are there."""
    yield pid
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        for child in _text_of(Path(f"/proc/{pid}/task/{task}/children")).split():
            yield from _tree(int(child))


def _proportional_kibibytes(pid: int) -> int:
    lines = _text_of(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _text_of(path: Path) -> str:
    """Empty where the process has ended meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""


_NOT_PASSED_ON = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TUNEWRIGHT_HOME", *ONE_THREAD)


@contextmanager
def scratch_directory(work: Path) -> Iterator[Path]:
    """An empty directory on the disk of `work`, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=work) as name:
        yield Path(name)


def write_experiment(directory: Path, corpus: Corpus, chat_template: str) -> Path:
    """The experiment that prepares `corpus`."""
    path = directory / "experiment.toml"
    if path.exists():  # a file that is written again is another one: a hit would have to read everything
        return path
    path.write_text(
        f"""schema = 1
name = "benchmark"

[model]
name_or_path = {json.dumps(str(corpus.tokenizer))}
chat_template = {json.dumps(chat_template)}

[dataset]
max_length_tokens = {MAX_LENGTH_TOKENS}
[[dataset.mix]]
source = {json.dumps(str(corpus.conversations))}
""",
        encoding="utf-8",
    )
    return path


class Bench:
    """Runs ways on corpora."""

    def __init__(self, installed: Installed, work: Path, chat_template: str) -> None:
        self._installed = installed
        self._work = work
        self._chat_template = chat_template
        said = spend([*installed.ours, "--version"], installed.variables).stdout
        self.versions = {OURS: said.strip()}

    def can_run(self, way: str) -> bool:
        """Whether an interpreter is there for it."""
        return way in (OURS, *RAW_WAYS, *self._installed.peers)

    def corpus(self, rows: int) -> Corpus:
        """The corpus of so many rows, made by ours' interpreter: this process stays small, see `run`."""
        command = [*self._installed.python, "-m", "benchmarks.dataset_cacher.corpus"]
        spend([*command, "--work", str(self._work), "--rows", str(rows)], self._installed.variables)
        return Corpus(self._work / f"corpus-{rows}" / CONVERSATIONS_FILE, self._work / TOKENIZER_DIRECTORY)

    def run(self, way: str, corpus: Corpus, variables: Mapping[str, str]) -> Run:
        """One run, from nothing. A child's peak memory is at least its parent's: this one has imported nothing."""
        with scratch_directory(self._work) as scratch:
            if way == OURS:
                return self._run_ours(corpus, scratch, variables)
            return self._run_peer(way, corpus, scratch, variables)

    def prepare(self, corpus: Corpus, directory: Path, variables: Mapping[str, str]) -> tuple[Spent, dict[str, Any]]:
        """Ours, with its caches in `directory`. Gives its answer too."""
        experiment = write_experiment(directory, corpus, self._chat_template)
        arguments = ["prepare", str(experiment), "--cache-root", str(directory / "caches"), "--json"]
        if variables == ONE_THREAD:
            arguments += ["--processes", "1"]
        spent = spend([*self._installed.ours, *arguments], {**self._installed.variables, **variables})
        answer: dict[str, Any] = json.loads(spent.stdout)
        return spent, answer

    def _run_ours(self, corpus: Corpus, scratch: Path, variables: Mapping[str, str]) -> Run:
        spent, answer = self.prepare(corpus, scratch, variables)
        read = self._answer_of("read-ours", self._installed.python, corpus, Path(answer["path"]), variables)[1]
        return Run(
            spent.wall_seconds,
            spent.cpu_seconds,
            spent.cpu_seconds,
            spent.peak_mebibytes,
            **{name: read[name] for name in _COUNTS},
        )

    def _run_peer(self, way: str, corpus: Corpus, scratch: Path, variables: Mapping[str, str]) -> Run:
        python = self._installed.python if way in RAW_WAYS else (self._installed.peers[way],)
        spent, answer = self._answer_of(way, python, corpus, scratch, variables)
        self.versions[way] = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
        return Run(
            answer["work_wall_seconds"],
            answer["work_cpu_seconds"],
            spent.cpu_seconds,
            spent.peak_mebibytes,
            **{name: answer[name] for name in _COUNTS},
        )

    def _answer_of(
        self, way: str, python: Sequence[str], corpus: Corpus, output: Path, variables: Mapping[str, str]
    ) -> tuple[Spent, dict[str, Any]]:
        paths = {"--conversations": corpus.conversations, "--tokenizer": corpus.tokenizer, "--output": output}
        arguments = [text for name, path in paths.items() for text in (name, str(path))]
        own = self._installed.variables if way in (*RAW_WAYS, "read-ours") else {}
        spent = spend(
            [*python, "-m", "benchmarks.dataset_cacher.ways", way, *arguments],
            {"HF_HOME": str(output / "hf"), **OFFLINE, **own, **variables},
        )
        answer: dict[str, Any] = json.loads(spent.stdout.splitlines()[-1])
        return spent, answer


_COUNTS = ("rows", "tokens", "trained_tokens", "disk_bytes", "ids_sha256")


def measure_ways(bench: Bench, ways: Sequence[str], rows: int, repeats: int, setting: str) -> dict[str, Any]:
    """Every way, `repeats` times, in rounds; what ours takes to start, and what it takes without."""
    corpus, few = bench.corpus(rows), bench.corpus(TRIAL_ROWS)
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    starts: list[float] = []
    for number in range(repeats):
        starts.append(bench.run(OURS, few, SETTINGS[setting]).cpu_seconds)
        for way in ways:
            run = bench.run(way, corpus, SETTINGS[setting])
            runs[way].append(run)
            say(f"{setting}, round {number + 1} of {repeats}, {way}: {run.cpu_seconds:.2f} CPU s")
    whole = [run.cpu_seconds for run in runs[OURS]]
    without = [seconds - start for seconds, start in zip(whole, starts, strict=True)]
    return {
        "ways": {way: medians_of(ran) for way, ran in runs.items()},
        "ratios": ratios_of(runs, whole),
        "start_cpu_seconds": round(statistics.median(starts), 3),
        "without_start": {"cpu_seconds": round(statistics.median(without), 3), "ratios": ratios_of(runs, without)},
    }


def measure_size(bench: Bench, work: Path, rows: int, hits: int) -> dict[str, Any]:
    """Peak memory of a preparation of so many rows, then the seconds of finding it again."""
    corpus = bench.corpus(rows)
    with scratch_directory(work) as scratch:
        spent, _ = bench.prepare(corpus, scratch, {})
        say(f"{rows:,} rows: {spent.cpu_seconds:.2f} CPU s, {spent.peak_mebibytes:.0f} MiB")
        found = []
        for _ in range(hits + 1):  # one to warm up
            hit, answer = bench.prepare(corpus, scratch, {})
            assert answer["hit"], "a second preparation was no hit"
            found.append(hit)
    return {
        "rows": rows,
        "cpu_seconds": spent.cpu_seconds,
        "wall_seconds": spent.wall_seconds,
        "peak_mebibytes": spent.peak_mebibytes,
        "hit_wall_seconds": statistics.median(hit.wall_seconds for hit in found[1:]),
        "hit_cpu_seconds": statistics.median(hit.cpu_seconds for hit in found[1:]),
    }


def say(message: str) -> None:
    """To stderr, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def medians_of(runs: Sequence[Run]) -> dict[str, Any]:
    """The middle of each figure, and what depends on it. Counts are those of the first run: all runs must agree."""
    assert len({(run.rows, run.tokens, run.trained_tokens, run.ids_sha256) for run in runs}) == 1, "runs differ"
    names = ("wall_seconds", "cpu_seconds", "process_cpu_seconds", "peak_mebibytes")
    medians = {name: statistics.median(getattr(run, name) for run in runs) for name in names}
    first = asdict(runs[0])
    return {
        **{name: round(value, 3) for name, value in medians.items()},
        "cpu_seconds_spread": [round(pick(run.cpu_seconds for run in runs), 3) for pick in (min, max)],
        **{name: first[name] for name in _COUNTS},
        "tokens_per_cpu_second": round(first["tokens"] / medians["cpu_seconds"]),
        "bytes_per_token": round(first["disk_bytes"] / first["tokens"], 3) if first["disk_bytes"] else None,
    }


def ratios_of(ways: Mapping[str, Sequence[Run]], ours: Sequence[float]) -> dict[str, float]:
    """How many times `ours`, a figure for each round, goes into each other way, in CPU seconds for the same corpus.

    The median of the rounds' own ratios: a shared machine is faster in some rounds than in others, for all ways alike.
    Empty where ours is nothing: a corpus that takes no longer than to start.
    """
    if min(ours) <= 0:
        return {}
    return {
        way: round(statistics.median(run.cpu_seconds / one for run, one in zip(runs, ours, strict=True)), 3)
        for way, runs in ways.items()
        if way != OURS
    }


def targets_of(report: Mapping[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What was promised: what it is, the value, the limit, whether it is kept. Only what was measured."""
    found: list[tuple[str, float, str, bool]] = []

    def add(what: str, value: float, limit: float, is_least: bool) -> None:
        kept = value >= limit if is_least else value <= limit
        found.append((what, round(value, 3), f"{'>=' if is_least else '<='} {limit:,}", kept))

    one_thread = report["settings"].get("one thread") or next(iter(report["settings"].values()), None)
    if one_thread:
        ours = one_thread["ways"][OURS]
        if report["rows"] >= ROWS:
            add("tokens of the corpus", ours["tokens"], LEAST_TOKENS, True)
        for way, least in (("transformers", 10), ("tokenizers", 4), ("fastokens", 0.5)):
            if way in one_thread["ratios"]:
                add(f"CPU seconds of {LETTERS[way]} {way} / ours", one_thread["ratios"][way], least, True)
        like_for_like = one_thread["without_start"]["ratios"]
        if "fastokens" in like_for_like:
            what = f"CPU seconds of {LETTERS['fastokens']} fastokens / {WITHOUT_START}"
            add(what, like_for_like["fastokens"], 0.5, True)
        add("bytes a token on disk", ours["bytes_per_token"], 2.5, False)
    sizes = report["sizes"]
    if len(sizes) > 1:
        small, large = (sizes[index]["peak_mebibytes"] for index in (0, -1))
        add(f"peak memory, {sizes[-1]['rows']:,} / {sizes[0]['rows']:,} rows", large / small, 1.1, False)
    for size in sizes:
        add(f"seconds of a hit, {size['rows']:,} rows", size["hit_wall_seconds"], 0.15, False)
    return found


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As Markdown; all but the first column to the right."""
    marks = ["---", *("--:" for _ in columns[1:])]
    for cells in (columns, marks, *rows):
        print(f"| {' | '.join(cells)} |")
    print()


def print_setting(setting: str, figures: Mapping[str, Any]) -> None:
    """The ways beside each other."""
    ways, ours = figures["ways"], figures["ways"][OURS]
    columns = ("CPU s", "CPU s / ours", "wall s", "Mtokens / CPU s", "peak MiB", "bytes / token", "tokens", "trained")
    rows = [
        (
            f"{LETTERS.get(way, '')} {way}".strip(),
            f"{one['cpu_seconds']:.2f}",
            f"{one['cpu_seconds'] / ours['cpu_seconds']:.2f}",
            f"{one['wall_seconds']:.2f}",
            f"{one['tokens_per_cpu_second'] / 1e6:.2f}",
            f"{one['peak_mebibytes']:.0f}",
            f"{one['bytes_per_token'] or '-'}",
            f"{one['tokens']:,}",
            f"{one['trained_tokens']:,}" if one["trained_tokens"] else "-",
        )
        for way, one in ways.items()
    ]
    print_table((setting, *columns), [rows[0], _row_without_start(figures), *rows[1:]])
    digests = {way: one["ids_sha256"] for way, one in ways.items() if one["ids_sha256"] and way != OURS}
    equal = [way for way, digest in digests.items() if digest == ours["ids_sha256"]]
    others = [way for way in digests if way not in equal]
    print(f"ids equal to ours: {', '.join(equal) or 'none'}; other ids: {', '.join(others) or 'none'}")
    print(f"of ours, to start and to prepare {TRIAL_ROWS} rows: {figures['start_cpu_seconds']:.2f} CPU s\n")


def _row_without_start(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Ours as everybody else is measured; its memory and its files are the same."""
    ours, seconds = figures["ways"][OURS], figures["without_start"]["cpu_seconds"]
    rate = f"{ours['tokens'] / seconds / 1e6:.2f}" if seconds > 0 else "-"
    return (WITHOUT_START, f"{seconds:.2f}", f"{seconds / ours['cpu_seconds']:.2f}", "-", rate, *["-"] * 4)


def print_sizes(sizes: Sequence[Mapping[str, Any]]) -> None:
    """Memory and hits by the number of rows."""
    columns = ("rows", "CPU s", "wall s", "peak MiB", "a hit, wall s", "a hit, CPU s")
    names = (
        ("cpu_seconds", ".2f"),
        ("wall_seconds", ".2f"),
        ("peak_mebibytes", ".0f"),
        ("hit_wall_seconds", ".3f"),
        ("hit_cpu_seconds", ".3f"),
    )
    print_table(columns, [(f"{one['rows']:,}", *(f"{one[name]:{form}}" for name, form in names)) for one in sizes])


def print_report(report: Mapping[str, Any]) -> None:
    """Everything, for people."""
    for setting, figures in report["settings"].items():
        print_setting(setting, figures)
    if report["sizes"]:
        print_sizes(report["sizes"])
    targets = [(what, f"{value:,}", limit, "yes" if kept else "NO") for what, value, limit, kept in report["targets"]]
    print_table(("target", "value", "limit", "kept"), targets)
    for way, reason in report["left_out"].items():
        print(f"left out: {way}: {reason}")
    for way, versions in report["versions"].items():
        print(f"versions of {way}: {versions}")


def find_installed(source: str | None, peers: Sequence[str]) -> Installed:
    """Ours as it is packaged, or run from the sources by the interpreter `source`. Raises SystemExit without either."""
    found = {way: peer for peer in reversed(peers) for way, library in PEER_WAYS.items() if _has(peer, library)}
    if source:
        variables = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        return Installed((source, "-m", "tunewright.dataset_cacher.cli"), (source,), variables, found)
    if not PACKAGED.is_file():
        raise SystemExit(f"{PACKAGED}: no such file; ./pants package components/dataset-cacher:dataset-cacher")
    return Installed((str(PACKAGED),), ("env", "PEX_INTERPRETER=1", str(PACKAGED)), {}, found)


def _has(python: str, library: str) -> bool:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    return subprocess.run([python, "-c", code, library], check=False).returncode == 0


def try_ways(bench: Bench, ways: Sequence[str], rows: int) -> dict[str, str]:
    """Run each way on a few rows. Gives those that do not run here, and the last words of each."""
    corpus, failed = bench.corpus(rows), {}
    for way in ways:
        try:
            bench.run(way, corpus, SETTINGS["one thread"])
        except RuntimeError as error:
            failed[way] = str(error).strip().splitlines()[-1]
            say(f"{way}: left out: {error}")
    return failed


def measure(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    wanted = [way for way in (OURS, *RAW_WAYS, *PEER_WAYS) if way == OURS or way in arguments.ways]
    left_out = {way: "not installed" for way in wanted if not bench.can_run(way)}
    left_out |= try_ways(bench, [way for way in wanted if way not in left_out], TRIAL_ROWS)
    if OURS in left_out:
        raise SystemExit(f"ours does not run: {left_out[OURS]}")
    ways = [way for way in wanted if way not in left_out]
    settings: dict[str, Any] = {}
    for setting in arguments.settings:
        settings[setting] = measure_ways(bench, ways, arguments.rows, arguments.repeats, setting)
    report = {
        "rows": arguments.rows,
        "repeats": arguments.repeats,
        "corpus": json.loads((arguments.work / f"corpus-{arguments.rows}" / CORPUS_FILE).read_text(encoding="utf-8")),
        "settings": settings,
        "sizes": [measure_size(bench, arguments.work, rows, arguments.hits) for rows in arguments.sizes],
        "left_out": left_out,
        "versions": bench.versions,
    }
    return {**report, "targets": targets_of(report)}


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def main() -> None:
    """Measure and print tables, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="directory for corpora and scratch; corpora in it are used again")
    peers = "an interpreter with transformers, datasets, torch, trl, axolotl, or some of them; repeatable"
    add("--peers", metavar="PYTHON", action="append", default=[], help=peers)
    add("--source", metavar="PYTHON", help="run ours from the sources by this interpreter, not as it is packaged")
    add("--rows", type=int, default=ROWS, help="conversations; %(default)s")
    add("--repeats", type=int, default=3, help="rounds; %(default)s")
    every = [*RAW_WAYS, *PEER_WAYS]
    add("--ways", type=_names, default=every, metavar="NAME,...", help=f"of {', '.join(every)}; all")
    add("--settings", type=_names, default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}; all")
    add("--sizes", type=_numbers, default=[ROWS, LARGE_ROWS], help="rows for memory and hits; empty for none")
    add("--hits", type=int, default=HITS, help="runs that find the cache, of each size; %(default)s")
    add("--chat-template", default="tokenizer", help="of ours; `tokenizer` is what everybody else uses")
    add("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    arguments.work = arguments.work.absolute()
    arguments.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(find_installed(arguments.source, arguments.peers), arguments.work, arguments.chat_template)
    report = measure(bench, arguments)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print_report(report)


if __name__ == "__main__":
    main()
