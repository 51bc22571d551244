"""Runs on a real server that are killed again and again, and end as if nothing had happened."""

from __future__ import annotations

import io
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from nursery import Nursery
from recorder import Asked, Recorder, told_in_journal

from blackbox_delta.artifact import ARRAYS_NAME, JSON_NAME
from blackbox_delta.errors import JournalError
from blackbox_delta.history import read_history
from blackbox_delta.journal import export
from blackbox_delta.report import time_free
from blackbox_delta.runs import HISTORY_NAME, JOURNAL_NAME, RESULT_NAME, read_result
from blackbox_delta.types import Json

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

#: In turn.
RECIPES = ("search", "auto")
KILLS = 20
KILLS_A_RUN = 4
#: Runs that are held against calm ones, in which the server answered everything.
COMPARED = 4
LABELS = {"good": ("great", "lovely", "superb"), "bad": ("dull", "awful", "clumsy")}
NOUNS = ("film", "book", "song", "meal", "hotel", "play", "game", "tour", "show", "novel")
SETTINGS = {
    "--template": "A {text} thing.{soft} It was {label}",
    "--label-words": "good=great,bad=terrible",
    "--shots": 4,
    "--soft-tokens": 2,
    "--dimension": 6,
    "--budget": 12,
    "--max-test": 8,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short texts, all different, so that every question on the wire is."""
    folder = tmp_path_factory.mktemp("data")
    texts = [(f"{word} {n}", label) for label in LABELS for word in LABELS[label] for n in NOUNS]
    random.Random(0).shuffle(texts)
    for name, part in (("train", texts[:40]), ("test", texts[40:])):
        lines = [json.dumps({"text": text, "label": label}) for text, label in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def recorder(vllm: str) -> Iterator[Recorder]:
    pytest.importorskip("tokenizers")
    recorder = Recorder(vllm, classes=len(LABELS))
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def common(recorder: Recorder, data: Path, model_files: Path) -> list[object]:
    """What all command lines have in common."""
    # A folder is opened faster than the packaged file, whose tokenizer has to be rebuilt.
    server = ["--base-url", recorder.url, "--model", "smollm2", "--embeddings", model_files]
    return ["tune", *server, "--data", data, *(each for pair in SETTINGS.items() for each in pair)]


@pytest.fixture(scope="module")
def nursery(common: list[object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    folder = tmp_path_factory.mktemp("nursery")
    nursery = Nursery(folder / "log", Run(folder / "run", common, seed=0).command)
    yield nursery
    nursery.close()


@dataclass
class Run:
    """A run and what of it is known to be in the journal.

    Attributes:
        folder: Its folder.
        common: The beginning of its command line.
        seed: Makes it a run of its own.
        kept: How often each pair's answer was in its journal when it was last looked at.
        tests: The pairs of the test part, a few of which are asked twice on purpose.
    """

    folder: Path
    common: list[object]
    seed: int
    kept: Counter[Asked] = field(default_factory=Counter)
    tests: set[Asked] = field(default_factory=set)

    @property
    def command(self) -> list[object]:
        """Goes on, if it was started already."""
        recipe = RECIPES[self.seed % len(RECIPES)]
        own = ["--out", self.folder, "--seed", self.seed, "--recipe", recipe]
        small = ["--population", 5] if recipe == "search" else []
        return [*self.common, *own, *small, "--resume"]

    def look(self, recorder: Recorder) -> int:
        """Checks what was asked since the last look, and reads the journal.

        Returns:
            How many pairs are in it.
        """
        again = [pair for pair in recorder.drain() if self.kept[pair] >= self._most(pair)]
        assert not again, f"{len(again)} answers were in the journal and were asked for again"
        lines = self.replies()
        told = [(recorder.source(told_in_journal(line)), line["purpose"]) for line in lines]
        self.kept = Counter(pair for pair, _ in told)
        self.tests = {pair for pair, purpose in told if purpose == "test"}
        assert all(count <= self._most(pair) for pair, count in self.kept.items())
        return len(lines)

    def _most(self, pair: Asked) -> int:
        return 2 if pair in self.tests else 1

    def replies(self) -> list[Json]:
        """The journal; nothing before there is one."""
        written = io.StringIO()
        path = self.folder / JOURNAL_NAME
        if path.exists() and path.stat().st_size:
            try:
                export(path, written)
            except JournalError:
                # Killed while it was being made: SQLite finds an empty file when it goes on.
                assert not self.kept
        return [json.loads(line) for line in written.getvalue().splitlines()]

    def ending(self) -> tuple[Json, list[Json], bytes, bytes]:
        """What a finished run leaves behind, times aside."""
        result = read_result(self.folder)
        assert result is not None
        history = [time_free(record) for record in read_history(self.folder / HISTORY_NAME)]
        artifact = [(self.folder / name).read_bytes() for name in (JSON_NAME, ARRAYS_NAME)]
        return time_free(result), history, artifact[0], artifact[1]


class Trigger:
    """Has a command killed a moment after so many events on the wire."""

    def __init__(self, nursery: Nursery, events: int, seconds: float) -> None:
        self._nursery, self._left, self._seconds = nursery, events, seconds
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        if not events:
            self._start()

    def event(self) -> None:
        with self._lock:
            self._left -= 1
            if not self._left:
                self._start()

    def disarm(self) -> None:
        with self._lock:
            self._left = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer.join()

    def _start(self) -> None:
        self._timer = threading.Timer(self._seconds, self._nursery.kill)
        self._timer.start()


def killed(run: Run, nursery: Nursery, recorder: Recorder, rng: random.Random) -> bool:
    """Starts or resumes a run and kills it; whether it was still running then."""
    trigger = Trigger(nursery, rng.randrange(9), rng.choice([0.0, rng.uniform(0, 0.1)]))
    recorder.on_event = trigger.event
    code = nursery.run(run.command)
    trigger.disarm()
    recorder.settle()
    assert code in (0, -9), nursery.log.read_text()[-2000:]
    return code == -9


def test_killed_at_random_moments_it_pays_nothing_twice_and_ends_alike(
    nursery: Nursery, recorder: Recorder, common: list[object], tmp_path: Path
) -> None:
    rng = random.Random(20)
    kills, counts, compared = 0, [], 0
    for seed in range(1, 1 + 2 * KILLS // KILLS_A_RUN):
        run = Run(tmp_path / str(seed), common, seed)
        recorder.drain()
        for _ in range(KILLS_A_RUN):
            if not killed(run, nursery, recorder, rng):
                break
            kills += 1
            counts.append(run.look(recorder))
            assert not (run.folder / RESULT_NAME).exists()
        assert nursery.run(run.command) == 0, nursery.log.read_text()[-2000:]
        total = run.look(recorder)
        calm = Run(tmp_path / f"{seed}-calm", common, seed)
        assert nursery.run(calm.command) == 0
        assert not recorder.failures
        calm_total = calm.look(recorder)
        if any(each.ending()[0]["lost_queries"] for each in (run, calm)):
            continue  # the server let requests lie for longer than a client waits
        assert calm_total == total, (run.ending()[0], calm.ending()[0])
        assert calm.kept == run.kept
        assert calm.ending() == run.ending()
        compared += 1
        if kills >= KILLS and compared >= COMPARED:
            break
    assert kills >= KILLS
    assert compared >= COMPARED
    assert len(set(counts)) >= 4, "the kills fell into different stages"
