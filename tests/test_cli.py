"""The command line on the toy model, from outside: arguments in, text and exit codes out."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score
from typer.testing import CliRunner, Result

from blackbox_delta import __version__
from blackbox_delta._cli_files import written
from blackbox_delta.backends.fake import FakeBackend
from blackbox_delta.cli import app
from blackbox_delta.errors import BackendError
from blackbox_delta.settings import PARTS, Settings
from blackbox_delta.tasks import load_task, sample_test
from blackbox_delta.types import Example, Json, ScoreRequest, Scores, Sink

PROGRAM = [sys.executable, "-c", "from blackbox_delta.cli import main; main()"]
GREAT = ["great", "good", "wonderful", "love", "best", "fun"]
BAD = ["terrible", "awful", "boring", "worst", "hate", "poor"]
OTHER = ["the", "a", "is", "was", "it", "this", "movie", "film", "story", "and", "with", "you"]
LIKE_A_TERMINAL = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
WORDS = "positive=great,negative=terrible"


def sentences(count: int, rng: random.Random) -> list[Json]:
    """Labelled lines, ``count`` a class, with more words of their class than of the other."""
    rows = []
    for _ in range(count):
        for label, own in (("positive", GREAT), ("negative", BAD)):
            words = [*rng.sample(own, 2), *rng.sample(OTHER, 5), rng.choice(GREAT + BAD)]
            rows.append({"text": " ".join(rng.sample(words, len(words))), "label": label})
    return rows


def write_lines(path: Path, rows: Iterable[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsets what makes every stream look like a terminal."""
    for name in LIKE_A_TERMINAL:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    write_lines(folder / "train.jsonl", sentences(20, rng))
    write_lines(folder / "test.jsonl", sentences(25, rng))
    return folder


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)


def tune(data: Path, *more: object, words: str = WORDS) -> Result:
    """A small run; what stands in ``more`` counts if an option is given twice."""
    small: list[object] = ["--dimension", 20, "--shots", 4, "--budget", 6, "--seed", 13]
    if not {"--delta", "--settings"}.intersection(more):  # others may have no such tokens
        small += ["--soft-tokens", 3]
    return run("tune", "--model", "fake", "--data", data, "--label-words", words, *small, *more)


def result_of(folder: Path) -> Json:
    """A run's report without its times."""
    report = json.loads((folder / "result.json").read_text())
    return {name: value for name, value in report.items() if not name.endswith("seconds")}


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    done = tune(data, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


def spend(*_: object, **__: object) -> Scores:
    raise AssertionError("a query was spent")


def failed(done: Result) -> str:
    """The one block that an error leaves: a sentence, no traceback, nothing on stdout."""
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    assert not done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error: ") == 1
    return done.stderr.split("Error: ")[1].strip()


# ------------------------------------------------------------------ help and start-up


def test_every_command_explains_itself_without_loading_torch() -> None:
    script = """
import sys
from typer.testing import CliRunner
from blackbox_delta.cli import app
for command in ([], ["tune"], ["compare"], ["eval"], ["predict"], ["demo"]):
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage: " in done.output, done.output
heavy = {"torch", "transformers", "sklearn", "scipy", "cma", "nevergrad", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def test_the_help_shows_every_setting_with_its_default() -> None:
    done = CliRunner().invoke(app, ["tune", "--help"], env={"COLUMNS": "200"})
    # Some build servers make the help colourful.
    lines = ESCAPES.sub("", done.output).splitlines()
    rows = {line.split()[1]: line for line in lines if "│ --" in line}
    for name, field in Settings.model_fields.items():
        row = rows["--set" if name == "delta_settings" else "--" + name.replace("_", "-")]
        if field.default is not None:
            assert f"[default: {field.default}]" in row


def test_the_help_names_all_parts_that_can_be_left_out() -> None:
    done = CliRunner().invoke(app, ["tune", "--help"], env={"COLUMNS": "300"})
    [row] = [line for line in ESCAPES.sub("", done.output).splitlines() if "│ --without" in line]
    assert ", ".join(PARTS) in row


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout == f"blackbox-delta {__version__}\n"


def test_a_line_that_cannot_be_read_is_a_usage_error() -> None:
    assert run("tune", "--model", "fake").exit_code == 2
    assert run("tune", "--model", "fake", "--data", ".", "--shots", "many").exit_code == 2
    assert run("tune", "--model", "fake", "--data", ".", "--seeds", 0).exit_code == 2


# ------------------------------------------------------------------ the round trip


def test_tune_reports_what_it_wrote_down(data: Path, tmp_path: Path) -> None:
    done = tune(data, "--out", tmp_path / "run", "--max-test", 30)
    report = result_of(tmp_path / "run")
    assert report["test_n"] == 30
    for name, key in (("untuned", "untuned"), ("calibrated", "baseline"), ("tuned", "test")):
        accuracy, f1 = report[f"{key}_accuracy"], report[f"{key}_macro_f1"]
        assert re.search(rf"^\s*{name}\s+{accuracy:.3f}\s+{f1:.3f}\s*$", done.stdout, re.MULTILINE)
    assert report["verdict"] in done.stdout
    assert f"Next: blackbox-delta predict {tmp_path / 'run'} FILE" in done.stdout


@pytest.mark.parametrize(
    "own",
    [
        {"recipe": "auto", "without": "search, anchors", "max_queries_per_example": 3},
        {"recipe": "search", "population": 6, "objective": "hinge"},
    ],
    ids=lambda own: own["recipe"],
)
def test_tune_passes_every_setting_on(own: Json, data: Path, tmp_path: Path) -> None:
    given = {
        **own,
        "shots": 5,
        "seed": 7,
        "budget": "40 calls",
        "template": "{text} {soft:4} It was {label}",
        "soft_tokens": 3,
        "soft_init": "zero",
        "dimension": 12,
        "subspace": "uniform",
        "scale": 0.5,
        "optimizer": "random",
        "head": "plain",
        "max_test": 9,
        "price_in": 0.25,
        "price_out": 1.5,
        "delta": "soft-prompt",
    }
    options = [part for name, it in given.items() for part in ("--" + name.replace("_", "-"), it)]
    done = tune(data, *options, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    words = {"positive": "great", "negative": "terrible"}
    told = {**given, "label_words": words, "delta_settings": None, "subspace_from": None}
    assert written == {**Settings().model_dump(), **told}
    others = {"without", "max_queries_per_example", "population", "objective"} - set(own)
    assert set(told) | others == set(Settings.model_fields)


def test_settings_come_from_a_file_and_options_win(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        """
        recipe = "search"
        delta = ["soft-prompt"]
        shots = 5
        population = 6
        budget = "40 calls"
        label_words = {positive = "good", negative = "bad"}
        """
    )
    options = ["--settings", file, "--shots", 4, "--seed", 0]
    done = run("tune", "--model", "fake", "--data", data, *options, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    words = {"positive": "good", "negative": "bad"}
    expected = Settings(
        recipe="search", shots=4, population=6, budget="40 calls", label_words=words
    )
    assert settings == expected.model_dump()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("shots = 0", "settings.toml: shots = 0"),
        ("shot = 4", "settings.toml: there is no setting 'shot'"),
        ("shots =", "are no TOML"),
        ('delta = "lora"\ndelta_settings = {depth = 2}', "lora has no setting 'depth'"),
        (None, "settings.toml cannot be read"),
    ],
)
def test_a_settings_file_that_makes_no_sense_is_refused(
    data: Path, tmp_path: Path, written: str | None, said: str
) -> None:
    file = tmp_path / "settings.toml"
    if written is not None:
        file.write_text(written)
    assert said in failed(tune(data, "--settings", file))


def test_set_adds_to_what_a_settings_file_says_of_the_delta(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('delta = "lora"\ndelta_settings = {rank = 2}\n')
    done = tune(data, "--settings", file, "--set", "delta.depth=3")
    assert "lora has no setting 'depth'" in failed(done)
    assert "fake takes no lora" in failed(tune(data, "--settings", file, "--set", "lora.rank=0"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--delta", "lora", "--set", "delta.rank=2"], "fake takes no lora; it takes soft-prompt"),
        (["--set", "delta.rank=2"], "soft-prompt has no setting 'rank'; it has none"),
        (["--delta", "lora", "--set", "rank"], "write it as in --set delta.rank=4"),
        (["--delta", "lora", "--set", "lora.depth=2"], "lora has no setting 'depth'"),
        (["--delta", "lora", "--set", "ia3.targets=k"], "about ia3, but the delta is 'lora'"),
        (
            ["--delta", "hat"],
            "there is no delta 'hat'; choose among soft-prompt, deep-prompt, prefix, lora",
        ),
        (["--delta", "lora+lora"], "names a kind twice"),
        (["--delta", "lora", "--delta", "lora"], "names a kind twice"),
        (
            ["--delta", "soft-prompt", "--delta", "deep-prompt", "--set", "soft-prompt.x=1"],
            "soft-prompt has no setting 'x'",
        ),
        (["--delta", "lora,bitfit", "--recipe", "auto"], "stages are for the recipe 'search'"),
    ],
)
def test_deltas_that_make_no_sense_are_refused(data: Path, options: list[str], said: str) -> None:
    done = tune(data, "--recipe", "search", *options)
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())


def test_without_a_folder_nothing_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(data.iterdir())
    monkeypatch.chdir(data)
    done = tune(data)
    assert done.exit_code == 0, done.output
    assert "Nothing was kept; add --out RUN" in done.stdout
    assert sorted(data.iterdir()) == before


def test_eval_finds_the_accuracy_of_the_run(data: Path, finished: Path) -> None:
    done = run("eval", finished, "--data", data)
    assert done.exit_code == 0, done.output
    report = result_of(finished)
    assert f"{report['test_n']} examples" in done.stdout
    assert re.search(rf"accuracy\s+{report['test_accuracy']:.3f}\s", done.stdout)


def test_eval_draws_the_sample_that_tune_drew(data: Path, tmp_path: Path) -> None:
    tune(data, "--out", tmp_path / "run", "--max-test", 17)
    done = run("eval", tmp_path / "run", "--data", data, "--max-test", 17)
    accuracy = result_of(tmp_path / "run")["test_accuracy"]
    assert "17 examples" in done.stdout
    assert re.search(rf"accuracy\s+{accuracy:.3f}\s", done.stdout)


def test_eval_scores_all_of_a_single_file(data: Path, finished: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    renamed = [{"review": row["text"], "mood": row["label"]} for row in rows]
    file = write_lines(tmp_path / "all.jsonl", renamed)
    columns = ["--text-column", "review", "--label-column", "mood"]
    named = run("eval", finished, "--data", file, *columns)
    assert named.stdout == run("eval", finished, "--data", data).stdout
    assert "no column 'text'" in failed(run("eval", finished, "--data", file))


def test_predict_answers_every_text_in_order(data: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    done = run("predict", finished, data / "test.jsonl", "--output", output)
    assert done.exit_code == 0, done.output
    assert not done.stdout
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == [row["text"] for row in rows]
    for answer in answers:
        assert list(answer) == ["text", "label", "probabilities"]
        shares = answer["probabilities"]
        assert answer["label"] == max(shares, key=shares.__getitem__)
        assert sum(shares.values()) == pytest.approx(1)
    truth, found = [row["label"] for row in rows], [answer["label"] for answer in answers]
    assert accuracy_score(truth, found) == result_of(finished)["test_accuracy"]


def test_predict_reads_plain_lines_and_json_lines_from_stdin(finished: Path) -> None:
    plain = run("predict", finished, stdin="a great film ☺\nan awful film\n")
    as_json = '{"text": "a great film ☺"}\n{"text": "an awful film"}\n'
    assert plain.stdout == run("predict", finished, "-", stdin=as_json).stdout
    answers = [json.loads(line) for line in plain.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["a great film ☺", "an awful film"]
    assert [answer["label"] for answer in answers] == ["positive", "negative"]


def test_pairs_keep_both_texts(tmp_path: Path) -> None:
    rows = [
        {"first": row["text"], "second": "a review", "label": row["label"]}
        for row in sentences(20, random.Random(1))
    ]
    file = write_lines(tmp_path / "pairs.jsonl", rows)
    columns = ["--text-column", "first", "--pair-column", "second"]
    done = tune(file, "--out", tmp_path / "run", *columns)
    assert done.exit_code == 0, done.output
    assert "8 training examples are too few to estimate the accuracy from" in done.stdout
    answers = run("predict", tmp_path / "run", file, *columns).stdout.splitlines()
    first = json.loads(answers[0])
    assert list(first) == ["text", "text_pair", "label", "probabilities"]
    assert first["text_pair"] == "a review"


def test_auto_is_the_default_and_says_what_each_part_gave(data: Path, finished: Path) -> None:
    report = result_of(finished)
    assert report["recipe"] == "auto"
    assert report["chosen"] == "views"
    done = tune(data, "--out", finished, "--resume")
    shown = done.stdout.split("Cost: ")[0]
    assert re.search(
        rf"Kept: {len(report['views'])} views? behind an anchored head; an answer takes "
        rf"{report['queries_per_answer']} quer(y|ies)\.",
        shown,
    )
    for part in report["parts"]:
        assert part["part"] in shown
    queries = [int(number) for number in re.findall(r" (\d+) +[\d,]+ +[01]\.\d+ +\d", shown)]
    assert sum(queries) == report["queries"]
    assert "what each further query of an answer buys".lower() in shown.lower()


def test_an_answer_takes_no_more_queries_than_allowed(data: Path, tmp_path: Path) -> None:
    done = tune(data, "--out", tmp_path / "run", "--max-queries-per-example", 1)
    assert done.exit_code == 0, done.output
    assert "Kept: 1 view behind an anchored head; an answer takes 1 query." in done.stdout
    assert "further query" not in done.stdout
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    said = run("predict", tmp_path / "run", stdin="".join(f"{row['text']}\n" for row in rows))
    truth = [row["label"] for row in rows]
    found = [json.loads(line)["label"] for line in said.stdout.splitlines()]
    assert accuracy_score(truth, found) == result_of(tmp_path / "run")["test_accuracy"]


def test_the_former_recipe_is_there_by_name(data: Path, tmp_path: Path) -> None:
    done = tune(data, "--recipe", "search", "--budget", 65, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    report = result_of(tmp_path / "run")
    assert report["recipe"] == "search"
    assert report["generations"] == 3
    assert "λ = 20, d = 20, cma-diagonal" in done.stderr
    assert "generation 3: best loss" in done.stderr
    assert "views" not in done.output


def test_a_dry_run_bounds_what_auto_spends(data: Path, finished: Path) -> None:
    done = tune(data, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "the run costs at most:" in done.stdout
    found, bound = result_of(finished), re.search(r"tuning +\d+ +(\d+) ", done.stdout)
    assert bound is not None
    assert found["queries"] <= int(bound[1]) <= 6 * 8
    together = re.search(r"together +\d+ +([\d,]+) ", done.stdout)
    assert together is not None
    most = int(together[1].replace(",", ""))
    assert found["queries"] + found["test_queries"] <= most
    assert "Nothing was sent." in done.stdout


# ------------------------------------------------------------------ several seeds


@pytest.fixture(scope="module")
def over_seeds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("seeds") / "out"
    done = tune(data, "--seeds", 2, "--max-test", 20, "--out", out)
    assert done.exit_code == 0, done.output
    return out, done


def test_several_seeds_are_judged_together(over_seeds: tuple[Path, Result]) -> None:
    out, done = over_seeds
    report = json.loads((out / "result.json").read_text())
    assert report["seeds"] == [13, 14]
    assert "fake, 4-shot, seeds 13, 14" in done.stdout
    for seed in (13, 14):
        own = result_of(out / f"seed-{seed}")
        scores = [own[f"{key}_accuracy"] for key in ("untuned", "baseline", "test")]
        row = r"\s+".join(f"{score:.3f}" for score in scores)
        assert re.search(rf"seed {seed}\s+{row}\s", done.stdout)
        assert own["test_n"] == 20
    assert re.search(rf"mean\s.*\s{report['mean']['test_accuracy']:.3f}\s", done.stdout)
    assert f"Verdict: {report['verdict']}" in done.stdout
    assert "fake: 6 calls at most for each of 2 seeds, " in done.stderr
    assert "Seed 13, 1 of 2:" in done.stderr
    assert "Seed 14, 2 of 2:" in done.stderr


def test_the_recommended_seed_is_the_one_to_predict_with(over_seeds: tuple[Path, Result]) -> None:
    out, done = over_seeds
    folder = out / json.loads((out / "result.json").read_text())["recommended"]["folder"]
    assert f"Recommended: {folder.name}, " in done.stdout
    assert f"Next: blackbox-delta predict {folder} FILE" in done.stdout
    assert run("predict", folder, stdin="a great film").exit_code == 0
    message = failed(run("predict", out, stdin="a great film"))
    assert f"several seeds; name one of them, such as {folder}" in message


def test_eval_scores_the_sample_of_all_seeds(
    data: Path, over_seeds: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = over_seeds[0] / "seed-14"
    drawn: list[tuple[Example, ...]] = []
    found = result_of(folder)

    def sample(examples: tuple[Example, ...], seed: int, limit: int | None) -> tuple[Example, ...]:
        drawn.append(sample_test(examples, seed, limit))
        return drawn[-1]

    monkeypatch.setattr("blackbox_delta.tasks.sample_test", sample)
    done = run("eval", folder, "--data", data, "--max-test", 20)
    assert done.exit_code == 0, done.output
    test = load_task(data).test
    assert drawn.pop() == sample_test(test, 13, 20) != sample_test(test, 14, 20)
    assert re.search(rf"accuracy\s+{found['test_accuracy']:.3f}\s", done.stdout)


def test_eval_draws_with_the_own_seed_of_a_run_that_does_not_tell_the_sample_s(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(finished, run_folder)
    result = json.loads((run_folder / "result.json").read_text())
    assert result.pop("test_seed") == 13
    (run_folder / "result.json").write_text(json.dumps(result))
    seeds: list[int] = []

    def sample(examples: tuple[Example, ...], seed: int, limit: int | None) -> tuple[Example, ...]:
        seeds.append(seed)
        return sample_test(examples, seed, limit)

    monkeypatch.setattr("blackbox_delta.tasks.sample_test", sample)
    done = run("eval", run_folder, "--data", data, "--max-test", 3)
    assert done.exit_code == 0, done.output
    assert seeds == [13]


def test_seeds_are_resumed_and_may_become_more(
    data: Path, over_seeds: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = over_seeds
    assert "add --resume" in failed(tune(data, "--seeds", 2, "--max-test", 20, "--out", out))
    with monkeypatch.context() as patch:
        patch.setattr(FakeBackend, "score", spend)
        again = tune(data, "--seeds", 2, "--max-test", 20, "--out", out, "--resume")
    assert again.exit_code == 0, again.output
    assert again.stdout.splitlines()[:11] == first.stdout.splitlines()[:11]
    more = tune(data, "--seeds", 3, "--max-test", 20, "--out", out, "--resume")
    assert more.exit_code == 0, more.output
    assert "seeds 13, 14, 15" in more.stdout


def test_a_dry_run_forecasts_every_seed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tune(data, "--seeds", 3, "--dry-run", "--out", out)
    assert done.exit_code == 0, done.output
    assert not out.exists()
    assert "the runs cost at most:" in done.stdout
    rows = dict(re.findall(r"(seed \d+|together) +\d+ – (\d+) ", done.stdout))
    assert list(rows) == ["seed 13", "seed 14", "seed 15", "together"]
    *each, total = map(int, rows.values())
    assert total == sum(each)


def test_several_seeds_keep_nothing_without_a_folder(data: Path) -> None:
    done = tune(data, "--seeds", 2, "--max-test", 8, "--without", "words,demonstrations,search")
    assert done.exit_code == 0, done.output
    assert "Nothing was kept; add --out RUN" in done.stdout


# ------------------------------------------------------------------ resuming


def test_a_finished_run_is_resumed_to_the_same_report(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = tune(data, "--out", folder)
    before = result_of(folder)
    again = tune(data, "--out", folder, "--resume")
    assert again.exit_code == 0, again.output
    assert result_of(folder) == before
    assert again.stdout.splitlines()[:8] == first.stdout.splitlines()[:8]


class Interrupted(FakeBackend):
    """Presses Ctrl-C after three requests."""

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().score(request, sink)


class Failing(FakeBackend):
    def __init__(self, name: str) -> None:
        super().__init__(name, fail_at={4})


@pytest.mark.parametrize(("broken", "code"), [(Interrupted, 130), (Failing, 1)])
def test_a_stopped_run_goes_on_to_the_same_report(
    broken: type[FakeBackend],
    code: int,
    data: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("blackbox_delta.backends.fake.FakeBackend", broken)
        stopped = tune(data, "--out", folder)
    assert stopped.exit_code == code
    if code == 130:
        assert "Stopped; go on with the same command and --resume." in stopped.stderr
        assert "Error" not in stopped.stderr
    assert not (folder / "result.json").exists()
    assert "not the folder of a finished run" in failed(run("predict", folder, stdin="a film"))
    resumed = tune(data, "--out", folder, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert result_of(folder) == result_of(finished)


# ------------------------------------------------------------------ the real program


def started(data: Path, *more: object) -> subprocess.Popen[str]:
    options = ["--dimension", 20, "--soft-tokens", 3, "--shots", 4, "--recipe", "search", *more]
    command = [*PROGRAM, "tune", "--model", "fake", "--data", data, *options]
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has made them deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def test_a_pipe_gets_one_plain_line_a_generation(data: Path) -> None:
    process = started(data, "--budget", 65)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    plan, *generations, test = stderr.splitlines()
    assert test.startswith("test: ")
    assert plan.startswith("fake: 65 calls at most, 8 training and 8 development examples")
    assert [line.split(":")[0] for line in generations] == [f"generation {n}" for n in (1, 2, 3)]
    assert all(line.isprintable() for line in (stdout + stderr).splitlines())


def test_a_pipe_gets_plain_lines_about_views(data: Path) -> None:
    process = started(data, "--recipe", "auto", "--budget", 4, "--max-test", 10)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    plan, *steps = stderr.splitlines()
    assert plan.startswith("fake: 4 calls at most, 8 training examples of 2 classes; several views")
    assert steps[0].startswith("1 view: held-out loss ")
    assert " of 4 calls, " in steps[0]
    assert steps[-1].endswith("queries answered")
    assert all(line.isprintable() for line in (stdout + stderr).splitlines())


def test_ctrl_c_ends_with_one_sentence(data: Path) -> None:
    with started(data, "--budget", 1_000_000) as process:
        assert process.stderr is not None
        while "generation 1" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=120) == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "Stopped; without --out nothing was kept."


def test_a_reader_that_leaves_early_is_no_error(finished: Path, tmp_path: Path) -> None:
    many = write_lines(tmp_path / "many.jsonl", [{"text": f"film {n}"} for n in range(5000)])
    process = subprocess.Popen(
        [*PROGRAM, "predict", str(finished), str(many)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["text"] == "film 0"
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["predict", "journal"])
def test_a_full_disk_under_stdout_is_told_in_one_line(
    command: str, finished: Path, many: Path
) -> None:
    arguments = [command, str(finished), *([str(many)] if command == "predict" else [])]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, *arguments],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    message = "Error: stdout: No space left on device; free space and repeat the command"
    assert done.stderr.strip().splitlines()[-1] == message
    assert "Traceback" not in done.stderr


def test_verbose_says_more(data: Path) -> None:
    script = (
        "import logging; from blackbox_delta.cli import app; from typer.testing import CliRunner;"
        "CliRunner().invoke(app, [{flag} 'tune', '--model', 'fake', '--data', '.none']);"
        "print(logging.getLogger('blackbox_delta.api').isEnabledFor(logging.INFO))"
    )
    for flag, expected in (("", "False\n"), ("'--verbose',", "True\n")):
        command = [sys.executable, "-c", script.format(flag=flag)]
        assert subprocess.check_output(command, text=True, cwd=data) == expected


# ------------------------------------------------------------------ bad input

SEARCH: list[object] = ["--recipe", "search", "--budget", 64]
BAD_OPTIONS: dict[str, tuple[list[object], str]] = {
    "no such data": (["--data", "nowhere"], "no such file or folder: nowhere"),
    "no such model": (["--model", "./nowhere"], "no such model folder"),
    "no such column": (["--text-column", "words"], "no column 'words'"),
    "too few examples": (["--shots", 99], "largest --shots that works is 20"),
    "empty label word": (["--label-words", "positive=,negative=bad"], "'positive' is empty"),
    "same label words": (["--label-words", "positive=x,negative=x"], "same word 'x'"),
    "unknown label": (["--label-words", "good=x,negative=y"], "no such label as: good"),
    "garbled label words": (["--label-words", "great"], "write LABEL=WORD"),
    "no text field": (["--template", "{soft} It was {label}"], "{text}"),
    "no label field": (["--template", "{text}{soft}"], "{label}"),
    "unknown field": (["--template", "{text} {mood} {label}"], "{mood}"),
    "small budget": ([*SEARCH, "--budget", 10], "budget of 10 calls is too small"),
    "small budget of auto": (["--budget", "7 queries"], "budget of 7 queries is too small"),
    "garbled budget": (["--budget", "much"], "budget 'much' cannot be read"),
    "unknown optimizer": ([*SEARCH, "--optimizer", "adam"], "'adam'"),
    "unknown optimizer of auto": (["--optimizer", "adam"], "'adam'"),
    "unknown head": (["--head", "neck"], "'neck'"),
    "unknown objective": ([*SEARCH, "--objective", "fun"], "'fun'"),
    "unknown recipe": (
        ["--recipe", "magic"],
        "recipe = 'magic': input should be 'auto' or 'search",
    ),
    "unknown part": (["--without", "luck"], "there is no part 'luck'"),
    "no such texts": (["--unlabeled", "nowhere.jsonl"], "nowhere.jsonl"),
    "no queries": (["--max-queries-per-example", 0], "max_queries_per_example = 0"),
    "too few examples for all seeds": (["--seeds", 3, "--shots", 99], "largest --shots"),
    "unknown subspace": (["--subspace", "cauchy"], "'cauchy'"),
    "no shots": (["--shots", 0], "shots = 0"),
    "resume without out": (["--resume"], "add --out RUN"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_one_clear_error(case: str, data: Path) -> None:
    options, expected = BAD_OPTIONS[case]
    assert expected in failed(tune(data, *options))


@pytest.mark.parametrize("case", sorted(set(BAD_OPTIONS) - {"resume without out"}))
def test_bad_options_leave_no_folder_behind(case: str, data: Path, tmp_path: Path) -> None:
    failed(tune(data, "--out", tmp_path / "run", *BAD_OPTIONS[case][0]))
    assert not (tmp_path / "run").exists()


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    rows = [{"text": f"good {n}", "label": "positive"} for n in range(20)]
    message = failed(tune(write_lines(tmp_path / "one.jsonl", rows)))
    assert "at least two classes" in message


def test_a_folder_that_holds_a_run_is_not_overwritten(data: Path, finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.iterdir()}
    assert "add --resume" in failed(tune(data, "--out", finished))
    message = failed(tune(data, "--out", finished, "--resume", "--seed", 14))
    assert "another run" in message
    assert "seed" in message
    assert "run of one seed" in failed(tune(data, "--out", finished, "--resume", "--seeds", 2))
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("artifact.json", cut),
        ("artifact.safetensors", flip),
        ("artifact.safetensors", Path.unlink),
        ("result.json", cut),
    ],
)
def test_a_damaged_run_is_refused(
    name: str, damage: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    for part in ("artifact.json", "artifact.safetensors", "result.json"):
        (tmp_path / part).write_bytes((finished / part).read_bytes())
    assert run("predict", tmp_path, stdin="a film").exit_code == 0
    damage(tmp_path / name)
    assert name in failed(run("predict", tmp_path, stdin="a film"))


def test_the_wrong_model_is_refused(data: Path, finished: Path) -> None:
    message = failed(run("eval", finished, "--data", data, "--model", "fake:other"))
    assert "fingerprint" in message


def test_bad_texts_are_refused(finished: Path, tmp_path: Path) -> None:
    assert "empty" in failed(run("predict", finished, stdin='{"text": " "}\n'))
    assert "empty" in failed(run("predict", finished, stdin=""))
    assert "nowhere.jsonl" in failed(run("predict", finished, tmp_path / "nowhere.jsonl"))


def test_an_output_that_cannot_be_written_costs_no_query(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "score", spend)
    done = run("predict", finished, "--output", tmp_path / "no" / "answers.jsonl", stdin="a film")
    assert "cannot be written" in failed(done)


class BreaksDown(FakeBackend):
    """The toy model until it is asked about a certain text."""

    at = "film 200"

    def score(self, request: ScoreRequest, sink: Sink | None = None) -> Scores:
        if any(self.at in str(prompt) for prompt in request.prompts):
            raise BackendError("the model broke down")
        return super().score(request, sink)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "many.jsonl", [{"text": f"film {n}"} for n in range(300)])


def test_an_output_is_replaced_once_it_is_whole(
    finished: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, partial = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.partial"
    output.write_text("precious\n")
    output.chmod(0o600)
    command = ["predict", finished, many, "--output", output]
    with monkeypatch.context() as patch:
        patch.setattr("blackbox_delta.backends.fake.FakeBackend", BreaksDown)
        done = run(*command)
    assert "the model broke down" in failed(done)
    assert f"What was answered is in {partial}." in done.stderr
    assert output.read_text() == "precious\n"
    lines = partial.read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [f"film {n}" for n in range(128)]
    assert run(*command, "--cache", tmp_path / "cache").exit_code == 0
    assert output.read_text().startswith(partial.read_text())
    assert len(output.read_text().splitlines()) == 300
    assert output.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".*"))


def test_what_an_earlier_failure_left_is_never_replaced(
    finished: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    output, cache = tmp_path / "link", tmp_path / "cache"
    output.symlink_to(tmp_path / "there" / "answers.jsonl")
    partial = tmp_path / "there" / "answers.jsonl.partial"
    command = ["predict", finished, many, "--output", output]
    monkeypatch.setattr("blackbox_delta.backends.fake.FakeBackend", BreaksDown)
    failed(run(*command))
    left = partial.read_text()
    # Fails earlier than the first time, and would leave less.
    monkeypatch.setattr(BreaksDown, "at", "film 1")
    with monkeypatch.context() as patch:
        patch.setattr(FakeBackend, "score", spend)
        message = " ".join(failed(run(*command)).split())
    assert f"{partial} is there already: it holds what was answered before" in message
    assert "rename or remove it, or add --cache FILE" in message
    # A cache keeps what is answered, so that the same command goes on as often as it takes.
    for _ in range(2):
        assert "the model broke down" in failed(run(*command, "--cache", cache))
    assert partial.read_text() == left
    partial.unlink()
    monkeypatch.setattr(BreaksDown, "at", "film 200")
    failed(run(*command))
    assert partial.read_text() == left


def test_what_another_command_left_meanwhile_is_not_replaced_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, partial = tmp_path / "answers", tmp_path / "answers.partial"

    def interrupted() -> None:
        with written(output, keep=True) as stream:
            stream.write("mine\n")
            partial.write_text("theirs\n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert partial.read_text() == "theirs\n"
    [left] = set(tmp_path.iterdir()) - {partial}
    assert left.read_text() == "mine\n"
    assert f"What was answered is in {left}." in capsys.readouterr().err


def test_nothing_is_left_of_an_output_without_answers(
    finished: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackbox_delta.backends.fake.FakeBackend", BreaksDown)
    monkeypatch.setattr(BreaksDown, "at", "film 1")
    failed(run("predict", finished, many, "--output", tmp_path / "answers.jsonl"))
    assert list(tmp_path.iterdir()) == [many]


def test_an_output_behind_a_link_is_replaced_and_the_link_stays(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "answers.jsonl")
    assert run("predict", finished, "--output", link, stdin="a film\n").exit_code == 0
    assert link.is_symlink()
    assert len((tmp_path / "there" / "answers.jsonl").read_text().splitlines()) == 1


def test_a_device_is_written_to_and_not_replaced(finished: Path) -> None:
    done = run("predict", finished, "--output", "/dev/null", stdin="a film\n")
    assert done.exit_code == 0, done.output
    assert not Path("/dev/null").is_file()


def test_an_output_never_destroys_what_is_read(
    finished: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "score", spend)
    link, cache = tmp_path / "link", tmp_path / "cache"
    link.hardlink_to(many)
    before = {path: path.read_bytes() for path in [many, *finished.iterdir()]}
    for output in (many, link, tmp_path / ".." / tmp_path.name / "many.jsonl"):
        message = failed(run("predict", finished, many, "--output", output))
        assert "is the input itself" in message
    for output, said in ((cache, "is the cache itself"), (f"{cache}-wal", "belongs to the cache")):
        message = failed(run("predict", finished, many, "--cache", cache, "--output", output))
        assert said in message
    for name in ("run.json", "result.json", "artifact.safetensors", "journal.sqlite-wal"):
        message = failed(run("predict", finished, many, "--output", finished / name))
        assert "is part of a run" in message
    assert {path: path.read_bytes() for path in [many, *finished.iterdir()]} == before


def test_an_output_with_too_long_a_name_is_one_clear_error(finished: Path) -> None:
    done = run("predict", finished, "--output", "x" * 300, stdin="a film\n")
    assert "cannot be written: File name too long" in failed(done)


def test_data_without_a_test_part_is_not_scored(finished: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", sentences(3, random.Random(2)))
    assert "no test part" in failed(run("eval", finished, "--data", tmp_path))
