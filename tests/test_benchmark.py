"""Benchmark: the data sets chosen, EuroEval's records read, local data sets checked, and EuroEval itself, offline."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from croco import dataset, models, rows
from croco.benchmark import BenchmarkConfig, account, choose, run, weights
from croco.benchmark_datasets import LocalDataset, as_on_the_hub, read_local
from croco.benchmark_records import Record, Score, find, parse_line, read_lines
from croco.benchmark_worker import Job, Keeper, Notes
from croco.languages import LANGUAGES
from croco.store import open_store
from croco.suites import PAPER, SUITES
from croco.toy import euroeval as toy_euroeval
from croco.toy.world import NOUNS, RUDE, TEST

# What EuroEval 16.11.0 and 17.7.0 wrote of the same model on the same data (times and library versions left out).
RECORD_16: dict[str, Any] = {
    "dataset": "toy-tone-en",
    "task": "classification",
    "languages": ["en"],
    "model": "model-1",
    "results": {
        "raw": [
            {"mcc": 0.14666666666666667, "macro_f1": 0.5733333333333333},
            {"mcc": 0.1259881576697424, "macro_f1": 0.5607843137254902},
            {"mcc": 0.1308525335766877, "macro_f1": 0.5652830188679245},
        ],
        "total": {
            "test_mcc": 13.450245263769892,
            "test_mcc_se": 1.2234525326641912,
            "test_macro_f1": 56.646688864224934,
            "test_macro_f1_se": 0.7194440159324393,
        },
    },
    "num_model_parameters": -1,
    "generative_type": "instruction_tuned",
    "few_shot": True,
    "validation_split": False,
    "euroeval_version": "16.11.0",
}
RECORD_17: dict[str, Any] = {
    "schema_version": "0.2.1",
    "evaluation_id": "toy-tone-en/model-1/1795215228",
    "model_info": {
        "name": "model-1",
        "id": "model-1",
        "additional_details": {"generative": "true", "generative_type": "instruction_tuned"},
    },
    "eval_library": {
        "name": "euroeval",
        "version": "17.7.0",
        "additional_details": {
            "dataset": "toy-tone-en",
            "languages": '["en"]',
            "task": "classification",
            "few_shot": "true",
            "validation_split": "false",
            "raw_results": '[{"mcc": 0.14666666666666667, "macro_f1": 0.5733333333333333, "failed_instances": []}, '
            '{"mcc": 0.1259881576697424, "macro_f1": 0.5607843137254902, "failed_instances": []}, '
            '{"mcc": 0.1308525335766877, "macro_f1": 0.5652830188679245, "failed_instances": []}]',
        },
    },
    "evaluation_results": [
        {
            "evaluation_name": "test_mcc",
            "source_data": {"dataset_name": "toy-tone-en"},
            "score_details": {
                "score": 13.450245263769892,
                "details": {"num_failed_instances": "0.0"},
                "uncertainty": {
                    "confidence_interval": {
                        "lower": 12.2267927311057,
                        "upper": 14.673697796434084,
                        "confidence_level": 0.95,
                    },
                    "num_samples": 3,
                },
            },
        },
        {
            "evaluation_name": "test_macro_f1",
            "source_data": {"dataset_name": "toy-tone-en"},
            "score_details": {
                "score": 56.646688864224934,
                "details": {"num_failed_instances": "0.0"},
                "uncertainty": {
                    "confidence_interval": {
                        "lower": 55.927244848292496,
                        "upper": 57.36613288015737,
                        "confidence_level": 0.95,
                    },
                    "num_samples": 3,
                },
            },
        },
    ],
}


def record(benchmark: str, *metrics: str) -> Record:
    scores = [Score(metric, 50.0, 1.0, [49.0, 50.0, 51.0]) for metric in metrics]
    return Record(benchmark, "model-1", "classification", "test", "instruction_tuned", scores)


def notes(unknown: list[str] | None = None, failed: dict[str, str] | None = None) -> Notes:
    return Notes(unknown=unknown or [], failed=failed or {})


def write_local(folder: Path, *entries: dict[str, Any], data: list[tuple[str, str]] | None = None) -> Path:
    """`folder` with these local data sets added, each with `data` as its three splits."""
    folder.mkdir(exist_ok=True)
    with (folder / "datasets.jsonl").open("a") as index:
        index.writelines(json.dumps(entry) + "\n" for entry in entries)
    for entry in entries:
        (folder / entry["name"]).mkdir(exist_ok=True)
        for split in ("train", "val", "test"):
            with (folder / entry["name"] / f"{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *(data or [("sun", "good"), ("rain", "bad")])])
    return folder


def weather(name: str = "weather-gl", language: str = "gl", **changes: Any) -> dict[str, Any]:
    entry = {"name": name, "language": language, "task": "classification", "labels": ["good", "bad"]}
    return {**entry, "prompt": "Good or bad: {text}", **changes}


def reading(name: str = "rain-da", language: str = "gl", **changes: Any) -> dict[str, Any]:
    entry = {"name": name, "language": language, "task": "reading-comprehension", "prompt": "{text} {question}"}
    return {**entry, **changes}


def question(context: str, asked: str, *answers: str) -> dict[str, Any]:
    return {"context": context, "question": asked, "answers": list(answers)}


def write_questions(folder: Path, entry: dict[str, Any], questions: list[Any]) -> Path:
    """`folder` with this data set of reading comprehension added."""
    (folder / entry["name"]).mkdir(parents=True, exist_ok=True)
    with (folder / "datasets.jsonl").open("a") as index:
        index.write(json.dumps(entry) + "\n")
    for split in ("train", "val", "test"):
        text = "".join(json.dumps(one) + "\n" for one in questions)
        (folder / entry["name"] / f"{split}.jsonl").write_text(text)
    return folder


# the table


def test_the_papers_data_sets_are_61_in_11_languages_and_44_in_the_seven_main_ones() -> None:
    assert set(PAPER) == {"da", "nl", "en", "fr", "de", "it", "es", "no", "sv", "pt", "fi"} < set(LANGUAGES)
    assert len({name for names in PAPER.values() for name in names}) == sum(map(len, PAPER.values())) == 61
    assert len(choose(BenchmarkConfig(), [])[0]) == 44


def test_the_references_two_wrong_names_are_corrected() -> None:
    assert "multi-wiki-qa-pt" in PAPER["pt"] and "multi-wiki-qa-sv" not in PAPER["pt"]
    assert "tydiqa-fi" in PAPER["fi"] and "tidyqa-fi" not in PAPER["fi"]


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_has_each_data_set_once_in_a_language_we_know(name: str) -> None:
    suite = SUITES[name]
    assert set(suite) < set(LANGUAGES)
    assert len({one for names in suite.values() for one in names}) == sum(map(len, suite.values()))


@pytest.mark.engine
def test_the_official_suite_of_the_installed_version_is_its_own_list() -> None:
    """Read where EuroEval keeps it, in a process of its own, because its import changes the process."""
    program = (
        "import json, euroeval.dataset_configs as d; from euroeval.data_models import DatasetConfig as C; "
        "print(json.dumps([(c.name, [l.code for l in c.languages]) for c in vars(d).values() "
        "if isinstance(c, C) and not c.unofficial and c.name != 'speed']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ours, found = SUITES["official-16.11"], dict[str, set[str]]()
    for name, codes in json.loads(done.stdout.splitlines()[-1]):
        for code in {{"nb": "no", "nn": "no"}.get(code, code).split("-")[0] for code in codes}:
            found.setdefault(code, set()).add(name)
    assert {code: set(names) for code, names in ours.items()} == {code: found[code] for code in ours}


# what is run


def test_a_language_without_data_set_is_left_out_for_a_named_reason() -> None:
    chosen, without = choose(BenchmarkConfig(languages=("fi", "gl", "cy")), [])
    assert chosen == {"tydiqa-fi": "fi", "include-fi": "fi", "hellaswag-fi": "fi"}
    assert without == {"gl": "no_euroeval_data_set", "cy": "no_euroeval_data_set"}


def test_another_suite_has_other_data_sets() -> None:
    chosen, _ = choose(BenchmarkConfig(languages=("fi",), suite="official-17.7"), [])
    assert "multi-ifeval-fi" in chosen and "include-fi" not in chosen and len(chosen) == 8


def test_no_data_set_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no data set for gl, ga, mt, cy"):
        choose(BenchmarkConfig(languages=("gl", "ga", "mt", "cy")), [])


def test_local_data_sets_replace_the_papers_and_names_mix_both(tmp_path: Path) -> None:
    local = read_local(write_local(tmp_path / "data", weather(), weather("weather-da", "da")))
    assert choose(BenchmarkConfig(languages=("gl", "fi")), local) == (
        {"weather-gl": "gl"},
        {"fi": "no_local_data_set"},
    )
    config = BenchmarkConfig(languages=("gl", "fi", "da"), names=("tydiqa-fi", "weather-gl"))
    assert choose(config, local) == ({"tydiqa-fi": "fi", "weather-gl": "gl"}, {"da": "not_named"})


def test_a_name_outside_the_languages_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found \['dala'\]"):
        choose(BenchmarkConfig(languages=("fi",), names=("tydiqa-fi", "dala")), [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ("xx",)}, "found 'xx'"),
        ({"languages": ()}, "one or more codes"),
        ({"names": ("dala", "dala")}, "each once"),
        ({"suite": "official"}, "found 'official'; expected one of paper, official-16.11, official-17.7"),
        ({"iterations": 1}, "found 1; expected 2 or more"),
        ({"max_failed": 1.0}, "found 1.0"),
    ],
)
def test_a_config_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkConfig(**changes)


# what came out


def test_every_benchmark_asked_for_is_done_or_counted_under_a_reason() -> None:
    chosen = {"dala": "da", "danwic": "da", "ifeval-da": "da", "squad": "en"}
    table, counts = account(
        chosen,
        {"gl": "no_euroeval_data_set"},
        {"dala": record("dala", "mcc", "macro_f1")},
        notes(["danwic"], {"squad": "x"}),
    )
    assert [(row["benchmark"], row["metric"]) for row in table] == [("dala", "mcc"), ("dala", "macro_f1")]
    assert counts == [
        dataset.Count("benchmark scores", "da", 2, 2),
        dataset.Count("benchmarks", "da", 3, 1, {"not_for_this_kind_of_model": 1, "not_in_this_euroeval": 1}),
        dataset.Count("benchmarks", "en", 1, 0, {"failed": 1}),
        dataset.Count("benchmarks", "gl", 1, 0, {"no_euroeval_data_set": 1}),
    ]


def test_rows_obey_the_contract() -> None:
    table, _ = account({"dala": "da"}, {}, {"dala": record("dala", "mcc")}, notes())
    assert rows.conform(table, "benchmarks").to_pylist() == [
        {
            "benchmark": "dala",
            "task": "classification",
            "language": "da",
            "metric": "mcc",
            "score": 50.0,
            "half_width_95": 1.0,
            "iterations": [49.0, 50.0, 51.0],
            "split": "test",
        }
    ]


@pytest.mark.parametrize("line", [RECORD_16, RECORD_17], ids=["EuroEval 16", "EuroEval 17"])
def test_records_of_both_versions_are_read_alike(line: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n" + json.dumps(line))  # as version 16 writes it: an empty line first, none at the end
    found = parse_line(read_lines(path)["toy-tone-en"], "here")
    assert (found.benchmark, found.model) == ("toy-tone-en", "model-1")
    assert (found.task, found.split, found.generative_type) == ("classification", "test", "instruction_tuned")
    mcc, macro_f1 = found.scores
    assert (mcc.metric, mcc.score, mcc.half_width_95) == ("mcc", 13.450245263769892, pytest.approx(1.2234525326641912))
    assert mcc.iterations == pytest.approx([14.666666666666667, 12.59881576697424, 13.08525335766877])
    assert (macro_f1.metric, macro_f1.half_width_95) == ("macro_f1", pytest.approx(0.7194440159324393))


def test_the_half_width_is_not_taken_for_a_standard_error() -> None:
    # iterations 10, 20, 30: standard deviation 10, standard error 10/sqrt(3) = 5.7735, half width 1.96 times that
    totals = {"test_f1": 20.0, "test_f1_se": 11.316065}
    raw = [{"f1": 10.0}, {"f1": 20.0}, {"f1": 30.0}]  # SQuAD's F1 comes from 0 to 100
    line = {**RECORD_16, "results": {"raw": raw, "total": totals}, "validation_split": True}
    found = parse_line(json.dumps(line), "here")
    assert found.split == "validation"
    assert found.scores == [Score("f1", 20.0, 11.316065, [10.0, 20.0, 30.0])]
    totals["test_f1_se"] = 5.773503
    with pytest.raises(ValueError, match=r"here: .*1\.96 standard errors"):
        parse_line(json.dumps(line), "here")


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert read_lines(path) == {}
    for broken in ("{", "{}", "5", "[]", '{"schema_version": "0.2.1"}'):
        path.write_text(json.dumps(RECORD_16) + "\n" + broken)
        with pytest.raises(ValueError, match=r"results.jsonl:2: found .*; expected a record of EuroEval 16 or 17"):
            read_lines(path)


# what is kept


@pytest.mark.parametrize("form", ["\n{0}", "{0}\n"], ids=["EuroEval 16", "EuroEval 17"])
def test_each_record_is_kept_once_when_euroeval_has_appended_it(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store, places = open_store(tmp_path / "store"), {"vejr-\u00e6": "a.json", "toy-tone-en": "b.json"}
    job = Job(0, "model-1", places, None, True, 3, True, True, store.location)
    keeper = Keeper(job, store, {"chat_template_sha256": "00"})
    keeper.keep()
    with Path("results.jsonl").open("a") as file:
        for name in places:
            line = json.dumps(RECORD_16 | {"dataset": name}, ensure_ascii=False)
            file.write(form.format(line))
            file.flush()
            keeper.spent[name] = {"seconds": 2.0}
            keeper.keep()
            assert store.read(places[name]) == {"line": line, "chat_template_sha256": "00", "seconds": 2.0}
            store.remove(places[name])  # it is not put again
    assert not list(store.entries())


def test_a_record_of_another_model_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results.jsonl").write_text(json.dumps(RECORD_16))
    job = Job(0, "model-2", {"toy-tone-en": "a.json"}, None, True, 3, True, True, "store")
    with pytest.raises(ValueError, match="found a record of model-1; expected one of model-2"):
        Keeper(job, open_store("store"), {}).keep()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"line": json.dumps(RECORD_16 | {"model": "model-2"})}, "found model-2 on toy-tone-en; expected model-1 on"),
        ({"line": json.dumps(RECORD_16 | {"dataset": "toy"})}, "found model-1 on toy; expected model-1 on toy-tone-en"),
        ({"line": "{"}, "a.json: found JSONDecodeError"),
        (None, "a.json: damaged"),
    ],
)
def test_a_stored_record_that_is_of_no_use_is_not_taken(
    content: dict[str, str] | None, message: str, tmp_path: Path
) -> None:
    store = open_store(tmp_path)
    assert find(store, {"toy-tone-en": "a.json"}, "model-1") == {}
    store.write("a.json", {"line": json.dumps(RECORD_16)})
    assert find(store, {"toy-tone-en": "a.json"}, "model-1").keys() == {"toy-tone-en"}
    if content:
        store.write("a.json", content)
    else:
        (tmp_path / "a.json").write_text("{")
    with pytest.warns(UserWarning, match=message):
        assert find(store, {"toy-tone-en": "a.json"}, "model-1") == {}


# models


def test_only_a_whole_model_in_safetensors_is_taken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        weights(tmp_path)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "chat_template.jinja"):
        (tmp_path / name).touch()
    assert [file.name for file in weights(tmp_path)] == ["chat_template.jinja", "config.json", "model.safetensors"]
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="found an adapter; expected a whole model"):
        weights(tmp_path)


def test_data_sets_that_were_changed_since_their_revision_was_noted_are_refused(tmp_path: Path) -> None:
    folder = write_local(tmp_path / "data", weather())
    noted = models.pin(str(folder), data=True)
    (folder / "weather-gl" / "test.csv").write_text("text,label\nsun,bad\n")
    with pytest.raises(ValueError, match=f"data: found sha256:.*; expected {noted}"):
        run(model="any", datasets=folder, datasets_revision=noted, out=tmp_path / "out")


def test_a_data_set_is_another_when_its_rows_or_its_declaration_are(tmp_path: Path) -> None:
    def sha256(name: str, rows: list[tuple[str, str]] | None = None, **changes: Any) -> str:
        [one] = read_local(write_local(tmp_path / name, weather(**changes), data=rows))
        return one.sha256

    assert sha256("a") == sha256("b")
    other = [sha256("c", rows=[("sun", "bad")]), sha256("d", prompt="How is {text}?"), sha256("e", examples=1)]
    assert len({sha256("f"), *other}) == 4


# local data sets


def test_a_local_data_set_is_read_with_its_defaults(tmp_path: Path) -> None:
    folder = write_local(tmp_path / "data", weather(words={"good": "bo"}))
    assert read_local(folder) == [
        LocalDataset(
            name="weather-gl",
            language="gl",
            task="classification",
            labels=("good", "bad"),
            prompt="Good or bad: {text}",
            words={"good": "bo", "bad": "bad"},
            examples=0,
            files={split: folder / "weather-gl" / f"{split}.csv" for split in ("train", "val", "test")},
        )
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (weather(labels=["good"]), "two labels or more"),
        (weather(labels=["Good", "bad"]), "expected a list of names of lower-case letters"),
        (weather(labels=["1", "2"]), "expected a list of names of lower-case letters"),
        (weather(labels=[["good"], "bad"]), "expected a list of names of lower-case letters"),
        (weather(labels="good"), "expected a list of names of lower-case letters"),
        (weather(words={"good": ["bo"]}), "expected lower-case text"),
        (weather(words=["good"]), "and words for them"),
        (weather(language=["gl"]), r"found language \['gl'\]; expected text"),
        (weather(task={}), r"found task \{\}; expected text"),
        (weather(prompt=["{text}"]), "found prompt .*; expected text"),
        (weather(prompt="{text"), "expected '}' before end of string"),
        (weather(examples=True), "found examples True"),
        (weather(words={"fine": "bo"}), "and words for them"),
        (weather(words={"good": "Bo"}), "expected lower-case text"),
        (weather(words={"good": "bad"}), "expected each once"),
        (weather(task="summarization"), "found task 'summarization'"),
        (weather(task="multiple-choice", words={"good": "bo"}), "expected none for multiple-choice"),
        (weather(prompt="Good or bad?"), r"expected \{text\} in it"),
        (weather(prompt="{text.__class__}"), r"expected \{text\} in it"),
        (weather(prompt="{text} {label}"), r"at most \{labels_str\}"),
        (weather(examples=-1), "found examples -1"),
        (weather(language="xx"), "found 'xx'"),
        (weather("Weather GL"), "found name 'Weather GL'"),
        (weather("../weather"), "found name '../weather'"),
        (weather(metric="f1"), "expected an object of"),
        (weather("first"), "found the name 'first' again"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_line(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_local(tmp_path / "data", weather("first"))
    with (folder / "datasets.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    with pytest.raises(ValueError, match=rf"datasets.jsonl:2: .*{message}"):
        read_local(folder)


def test_malformed_json_is_refused_with_its_line(tmp_path: Path) -> None:
    folder = write_local(tmp_path / "data", weather())
    (folder / "datasets.jsonl").write_text(json.dumps(weather()) + '\n\n{"name":\n')
    with pytest.raises(ValueError, match=r"datasets.jsonl:3: "):
        read_local(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nsun,good\nrain,wet\n", ":3: found label 'wet'; expected one of"),
        ("text,label\nsun\n", ":2: found label None"),
        ("text,label\n ,good\n", ":2: found no text"),
        ("text,label\nsun, and rain,good\n", ":2: found more than two cells"),
        ("label,text\ngood,sun\n", r":1: found columns \['label', 'text'\]"),
        ("text,label\n", ": found no row"),
        ("", ":1: found columns None"),
        ("text,label\nsun,good\n" + "s" * 131_073 + ",good\n", ":3: found field larger than field limit"),
        ("s" * 131_073, ":1: found field larger than field limit"),
        ("text,label\nsun,good\nr\0ain,bad\n", ":3: found a NUL character"),
        (b"text,label\nsun,good\nr\xe6n,bad\n", ":3: found bytes that are not UTF-8"),
    ],
)
def test_a_wrong_row_is_refused_with_file_and_line(content: str | bytes, message: str, tmp_path: Path) -> None:
    folder = write_local(tmp_path / "data", weather())
    (folder / "weather-gl" / "test.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"test.csv{message}"):
        read_local(folder)


def test_a_multiple_choice_text_spells_the_right_choice_out(tmp_path: Path) -> None:
    entry = weather(task="multiple-choice", labels=["a", "b"], prompt="{text}")
    read_local(write_local(tmp_path / "data", entry, data=[("Sun? a. good b. bad", "a")]))
    with pytest.raises(ValueError, match=r"train.csv:2: found no choice 'b\. ' in the text"):
        read_local(write_local(tmp_path / "wrong", entry, data=[("Sun? a. good", "b")]))


def test_questions_are_read_without_labels(tmp_path: Path) -> None:
    folder = write_questions(tmp_path, reading(examples=1), [question("Sun in Rome.", "Where?", "Rome", "in Rome")])
    [found] = read_local(folder)
    assert (found.task, found.labels, found.words, found.examples) == ("reading-comprehension", (), {}, 1)
    assert found.files["val"] == folder / "rain-da" / "val.jsonl"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (reading(labels=["a", "b"]), "expected an object of .* and, if wanted, examples"),
        (reading(words={"a": "b"}), "expected an object of"),
        (reading(prompt="{text}"), r"expected \{text\} and \{question\} in it"),
        (reading(prompt="{text} {question} {labels_str}"), "and nothing else"),
    ],
)
def test_a_wrong_declaration_of_questions_is_refused(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"datasets.jsonl:1: .*{message}"):
        read_local(write_questions(tmp_path, entry, [question("Sun in Rome.", "Where?", "Rome")]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (question("Sun in Rome.", "Where?", "rome"), r"found answers \['rome'\]; expected what stands in the context"),
        (question("Sun in Rome.", "Where?"), r"found answers \[\]; expected a list"),
        (question("Sun in Rome.", "Where?", "Rome", " "), "found ' '; expected text"),
        (question(" ", "Where?", "Rome"), "found ' '; expected text"),
        (question("Sun in Rome.", "", "Rome"), "found ''; expected text"),
        (question("Sun in \ud800.", "Where?", "Sun"), "expected text"),
        ({**question("Sun in Rome.", "Where?"), "answers": "Rome"}, "found answers 'Rome'; expected a list"),
        (
            {**question("Sun in Rome.", "Where?", "Rome"), "id": 1},
            "expected an object of context, question and answers",
        ),
        (["Sun in Rome."], "expected an object of context, question and answers"),
    ],
)
def test_a_wrong_question_is_refused_with_file_and_line(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"train.jsonl:2: .*{message}"):
        read_local(write_questions(tmp_path, reading(), [question("Sun in Rome.", "Where?", "Rome"), row]))


def test_questions_lie_for_euroeval_as_its_own_do_on_the_hub(tmp_path: Path) -> None:
    import datasets

    days = question("Rain on 2026-01-02, sun on 2026-01-03.", "When was sun?", "2026-01-03")  # a date stays text
    [local] = read_local(write_questions(tmp_path / "data", reading(), [days]))
    folder = as_on_the_hub(local, tmp_path / "hub")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "val", "test"}
    assert loaded["val"].to_list() == [{"id": "0", **days, "answers": {"answer_start": [27], "text": ["2026-01-03"]}}]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"datasets.jsonl: found no file"):
        read_local(tmp_path)
    folder = write_local(tmp_path / "data", weather())
    (folder / "weather-gl" / "val.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"val.csv: found no file"):
        read_local(folder)
    (folder / "datasets.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="found no data set"):
        read_local(folder)


# the toy world's data sets


def test_the_toy_data_sets_are_valid_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        toy_euroeval.write(tmp_path / name, seed=0)
    local = read_local(tmp_path / "one")
    assert [data.name for data in local] == [
        f"toy-{kind}-{language}" for language in ("en", "de", "fr", "es") for kind in ("tone", "topic")
    ]
    same = [
        file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()
        for data in local
        for file in data.files.values()
    ]
    assert all(same) and len(same) == 24


def test_the_toy_labels_are_true_and_their_nouns_held_out(tmp_path: Path) -> None:
    toy_euroeval.write(tmp_path, seed=1)
    for data in read_local(tmp_path):
        with data.files["test"].open(newline="", encoding="utf-8") as file:
            cases = list(csv.DictReader(file))
        assert len(cases) == 64 and {case["label"] for case in cases} == set(data.labels)
        held_out = {NOUNS[noun][data.language] for noun in TEST}
        for case in cases:
            assert any(noun in case["text"] for noun in held_out)
            if data.task == "classification":
                rude = any(remark in case["text"] for remark in RUDE[data.language])
                assert case["label"] == ("rude" if rude else "kind")
            else:
                sentence, choices = case["text"].split(" a. ")
                options = dict(zip("ab", choices.split(" b. "), strict=True))
                assert options[case["label"]] in sentence.rstrip(".").split()


# EuroEval itself


def offline() -> list[str]:
    """Command prefix for an empty network namespace, where this machine lets us make one."""
    tools = shutil.which("unshare") and shutil.which("ip")
    if not tools or subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        return []
    return ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def teach(folder: Path, answers: dict[str, str]) -> None:
    """Train the tiny model in `folder` until it gives each prompt its answer, as EuroEval asks: after an <s>."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in answers.items()]
    start = tokenizer.convert_tokens_to_ids(["<s>"])
    prompts = [
        start + tokenizer.apply_chat_template(c[:1], add_generation_prompt=True, return_dict=False) for c in chats
    ]
    whole = [start + tokenizer.apply_chat_template(c, return_dict=False) for c in chats]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        for prompt, ids in zip(prompts, whole, strict=True):
            labels = [-100] * len(prompt) + ids[len(prompt) :]
            model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


@pytest.mark.engine
def test_euroeval_gives_a_model_that_is_always_right_100_however_often_it_is_killed_without_network_or_cuda_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny

    choices = [("sun? a. good b. bad", "a"), ("rain? a. good b. bad", "b")]
    facts = [("Sun in Rome.", "Where?", "Rome"), ("Rain in Oslo.", "What?", "Rain")]
    multiple = weather("choice-en", "en", labels=["a", "b"], task="multiple-choice", prompt="{text}")
    galician = weather(words={"good": "bo", "bad": "malo"}, examples=2)
    folder = write_local(tmp_path / "data", multiple, data=choices * 4)
    write_local(folder, galician, data=[("sun", "good"), ("rain", "bad")] * 4)
    write_questions(folder, reading(language="da"), [question(*fact) for fact in facts] * 4)
    model = tiny.policy(tmp_path / "model")
    teach(model, {**dict(choices), **{f"{context} {asked}": answer for context, asked, answer in facts}})
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-m", "croco", "benchmark", "--model", str(model), "--datasets", str(folder)]
    command += ["--languages", "en", "gl", "da", "cy", "--store", str(tmp_path / "store")]
    alone: dict[str, Any] = {
        "env": {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_none"},
        "cwd": Path(__file__).parent.parent,
    }
    store = open_store(tmp_path / "store")
    killed = subprocess.Popen(
        [*offline(), *command, "--out", str(tmp_path / "killed")], **alone, start_new_session=True
    )
    while killed.poll() is None and not list(store.entries()):
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)  # all of its processes, as when a pod ends
    assert killed.wait() == -signal.SIGKILL
    [first] = store.entries("shards/benchmark/")

    subprocess.run([*offline(), *command, "--out", str(tmp_path / "out")], **alone, check=True)
    found = dataset.read(tmp_path / "out", "benchmarks").to_pylist()
    assert [(row["benchmark"], row["language"], row["metric"]) for row in found] == [
        ("choice-en", "en", "mcc"),
        ("choice-en", "en", "accuracy"),
        ("weather-gl", "gl", "mcc"),
        ("weather-gl", "gl", "macro_f1"),
        ("rain-da", "da", "f1"),
        ("rain-da", "da", "em"),
    ]
    right = [row for row in found if row["language"] != "gl"]
    assert [(row["score"], row["half_width_95"]) for row in right] == [(100.0, 0.0)] * 4
    assert all(row["split"] == "test" and len(row["iterations"]) == 3 for row in found)
    manifest = dataset.verify(tmp_path / "out")
    assert dataset.Count("benchmarks", "cy", 1, 0, {"no_local_data_set": 1}) in manifest.counts
    assert manifest.metrics["generative_type"] == ["instruction_tuned"]
    [ran_with] = manifest.metrics["ran_with"]
    assert ran_with["dtype"] == "float32" and ran_with["max_model_len"] == tiny.CONTEXT and ran_with["seed"] == 4242
    assert (ran_with["temperature"], ran_with["device"], ran_with["tensor_parallel_size"]) == (0.0, "cpu", 1)
    assert manifest.models["policy"].keys() == {"id", "sha256", "chat_template_sha256"}
    assert before == {file.name: file.read_bytes() for file in model.iterdir()}
    assert not list((tmp_path / "home").iterdir())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"manifest.json", "part-00000.parquet"}

    new, done, computed, _ = manifest.ledger  # what the killed run has done is not done again
    assert [(row.language, row.shards_computed, row.shards_reused) for row in manifest.ledger] == [
        ("da", 1, 0),
        ("en", 0, 1),
        ("gl", 1, 0),
        (None, 0, 0),
    ]
    assert store.find(first.name) == first
    assert done.seconds > done.run_seconds == 0
    assert all(row.seconds == row.run_seconds > 0 for row in (new, computed))
    # each question is asked once (EuroEval remembers answers), after the <s> that it finds in the vocabulary; a byte is
    # a token, and so is a turn's mark; the answer is a letter and a mark
    asked = [len(f"<s>^user\n{question}^\n^assistant\n") for question, _ in choices]
    assert (done.tokens_in, done.tokens_out) == (sum(asked), 4)

    config = BenchmarkConfig(languages=("en", "gl", "da", "cy"))
    with pytest.warns(UserWarning, match="cy: 1 benchmarks not run: no_local_data_set"):
        whole = run(model=str(model), datasets=folder, out=tmp_path / "whole", config=config)
    assert (whole.digest, whole.counts, whole.metrics, whole.models, whole.warnings) == (
        manifest.digest,
        manifest.counts,
        manifest.metrics,
        manifest.models,
        manifest.warnings,
    )
    assert {file.name for file in (tmp_path / "whole").iterdir()} == {"manifest.json", "part-00000.parquet"}

    second = tiny.policy(tmp_path / "second", seed=1)  # never taught
    with pytest.warns(UserWarning, match="cy: 1 benchmarks not run: no_local_data_set"):
        other = run(model=str(second), datasets=folder, out=tmp_path / "other", config=config)
    beside = dataset.read(tmp_path / "other", "benchmarks").to_pylist()
    keys = ("benchmark", "task", "language", "metric", "split")
    assert [[row[key] for key in keys] for row in beside] == [[row[key] for key in keys] for row in found]
    wrong = [row for row in beside if row["language"] != "gl"]
    assert all(row["score"] < 100 and len(row["iterations"]) == 3 for row in wrong)
    assert other.metrics["ran_with"] == whole.metrics["ran_with"]
    policies = [one.models["policy"] for one in (whole, other)]
    assert policies[0]["chat_template_sha256"] == policies[1]["chat_template_sha256"]
    assert policies[0]["sha256"] != policies[1]["sha256"]

    monkeypatch.setattr(sys, "executable", "/none")  # from here on no process can be started

    def again(name: str, **changes: Any) -> dataset.Manifest:
        arguments = {"model": str(model), "datasets": folder, "store": str(tmp_path / "store"), "config": config}
        return run(**{**arguments, **changes, "out": tmp_path / f"again-{name}"})

    with pytest.warns(UserWarning, match="cy: 1 benchmarks not run: no_local_data_set"):
        restored = again("restored")  # from the result
    assert (restored.digest, restored.metrics) == (whole.digest, whole.metrics)
    assert [row.shards_reused for row in restored.ledger] == [1, 1, 1, 0]
    english = BenchmarkConfig(languages=("en",))
    shutil.copytree(tmp_path / "store", tmp_path / "again-own" / "unfinished")
    shutil.copy(tmp_path / "killed" / "unfinished.json", tmp_path / "again-own")
    for name, changes in {"part": {}, "own": {"store": None}}.items():  # from a record, in the store or the directory
        part = again(name, config=english, **changes)
        assert dataset.read(tmp_path / f"again-{name}", "benchmarks").to_pylist() == found[:2]
        assert part.models == whole.models and [row.shards_reused for row in part.ledger] == [1, 0]
    for name, changes in {
        "iterations": {"config": BenchmarkConfig(languages=("en",), iterations=4)},
        "prompts": {"config": BenchmarkConfig(languages=("en",), few_shot=False)},
        "model": {"model": str(second)},
        "data": {"datasets": write_local(tmp_path / "new", {**multiple, "examples": 1}, data=choices * 4)},
    }.items():
        with pytest.raises(FileNotFoundError, match="/none"):
            again(name, **changes)


@pytest.mark.engine
def test_a_child_that_fails_ends_the_stage(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")  # no tokenizer
    folder = write_local(tmp_path / "data", weather())
    config = BenchmarkConfig(languages=("gl",))
    with pytest.raises(RuntimeError, match="found exit status 1"):
        run(model=str(tmp_path / "model"), datasets=folder, out=tmp_path / "out", config=config)
    assert not (tmp_path / "out" / dataset.MANIFEST).exists()
