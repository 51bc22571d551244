"""``tune`` on the toy model: its settings, its report, and what it leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import failed, result_of, run, tune
from sklearn.metrics import accuracy_score

from blackbox_delta.cli.settings import SETTINGS
from blackbox_delta.cli.tune import what_next
from blackbox_delta.prices import dollars
from blackbox_delta.settings import Settings
from blackbox_delta.types import Json


def test_tune_reports_what_it_wrote_down(data: Path, tmp_path: Path) -> None:
    done = tune(data, "--out", tmp_path / "run", "--max-test", 30)
    report = result_of(tmp_path / "run")
    assert report["test_n"] == 30
    for name, key in (("untuned", "untuned"), ("calibrated", "baseline"), ("tuned", "test")):
        accuracy, f1 = report[f"{key}_accuracy"], report[f"{key}_macro_f1"]
        assert re.search(rf"^\s*{name}\s+{accuracy:.3f}\s+{f1:.3f}\s*$", done.stdout, re.MULTILINE)
    assert report["verdict"] in done.stdout
    next_one = f"{what_next(report)}: blackbox-delta predict {tmp_path / 'run'} FILE"
    assert done.stdout.splitlines()[-1] == next_one


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (None, "Next"),
        ({"kind": "gain"}, "Next"),
        ({"kind": "loss"}, "To use it all the same"),
        ({"kind": "no reliable difference"}, "To use it all the same"),
    ],
)
def test_what_comes_next_does_not_contradict_the_verdict(
    comparison: Json | None, expected: str
) -> None:
    assert what_next({"comparison": comparison}) == expected


def test_an_answer_of_fewer_queries_is_had_for_nothing_as_the_run_says(
    data: Path, tmp_path: Path
) -> None:
    auto: list[object] = ["--recipe", "auto", "--budget", 10, "--max-test", 10]
    done = tune(data, *auto, "--out", tmp_path / "many")
    said = re.search(r"^Fewer queries an answer: .* --cache (\S+) what", done.stdout, re.MULTILINE)
    assert said is not None
    fewer = ["--max-queries-per-example", 2, "--cache", said[1], "--out", tmp_path / "few"]
    again = tune(data, *auto, *fewer)
    report = result_of(tmp_path / "few")
    assert report["queries_per_answer"] == 2 < result_of(tmp_path / "many")["queries_per_answer"]
    paid = report["queries"] + report["test_queries"]
    assert f"{paid} of these queries came from {said[1]} and cost nothing" in again.stdout


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
    ("option", "ranks"),
    [("delta.rank=1", (1, 1)), ("lora.rank=1", (1, 5)), ("rank=1", (1, 1))],
)
def test_set_wins_over_what_a_settings_file_says_to_one_kind(
    option: str, ranks: tuple[int, int], data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'delta = "lora+adapter"\n'
        'delta_settings = {"lora.rank" = 4, "adapter.rank" = 5, "lora.targets" = "q_proj"}\n'
    )
    plain = {name: field.default for name, field in Settings.model_fields.items()}
    given = {**plain, "delta": [], "delta_settings": [option], "settings_file": file}

    settings = SETTINGS.build(given, frozenset())

    assert settings.told("lora") == {"rank": str(ranks[0]), "targets": "q_proj"}
    assert str(settings.told("adapter")["rank"]) == str(ranks[1])


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


def test_a_dry_run_of_a_run_that_was_not_begun_holds_nothing(data: Path, tmp_path: Path) -> None:
    done = tune(data, "--out", tmp_path / "run", "--resume", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "not asked again" not in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_dry_run_says_what_the_run_holds(seeds: int, data: Path, tmp_path: Path) -> None:
    """All that a finished run asked, by its own account."""
    out = tmp_path / "run"
    prices = ["--price-in", 2, "--price-out", 0]
    options = [
        "--recipe",
        "search",
        "--budget",
        "40 calls",
        "--seeds",
        seeds,
        "--out",
        out,
        *prices,
    ]
    assert tune(data, *options).exit_code == 0
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    done = tune(data, *options, "--resume", "--dry-run")
    assert done.exit_code == 0, done.output
    runs = [result_of(path.parent) for path in out.rglob("journal.sqlite")]
    assert len(runs) == seeds
    queries = sum(found["queries"] + found["test_queries"] for found in runs)
    held = re.search(
        r"([\d,]+) of these queries .*\(([\d,]+) prompt tokens, (\S+) were", done.stdout
    )
    assert held is not None, done.stdout
    assert int(held[1].replace(",", "")) == queries
    tokens = int(held[2].replace(",", ""))
    assert held[3] == dollars(2 * tokens / 1e6)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == kept


def test_a_dry_run_refuses_the_folders_that_the_run_would(data: Path, finished: Path) -> None:
    for folder, message in ((finished, "holds a run already"), (data, "holds no run")):
        told = failed(tune(data, "--out", folder, "--dry-run"))
        assert message in " ".join(told.split())


def test_a_dry_run_says_that_it_does_not_know_the_cache(data: Path, tmp_path: Path) -> None:
    done = tune(data, "--out", tmp_path / "run", "--cache", tmp_path / "c", "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"What {tmp_path / 'c'} holds is not taken off" in done.stdout
    assert not (tmp_path / "run").exists()
