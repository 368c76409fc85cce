"""Local: pipelines run on this machine, loops, caching and all."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest
from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components.prepare import prepare
from croco import dataset
from pipelines import local


@dsl.component(base_image="none", install_kfp_package=False)
def make(number: int, things: Output[Dataset], size: Optional[int] = None, word: Optional[str] = "default") -> None:  # noqa: UP045
    import sys
    from pathlib import Path

    print("  5%|#    | 1/20", file=sys.stderr)
    Path(things.path).write_text(f"{number} {word} {size}")


@dsl.component(base_image="none", install_kfp_package=False)
def check(things: Input[Dataset], wanted: str) -> None:
    from pathlib import Path

    found = Path(things.path).read_text()
    if found != wanted:
        raise ValueError(f"things: found {found!r}; expected {wanted!r}")


@dsl.pipeline(name="small")
def small(wanted: str, number: int = 3, word: Optional[str] = None) -> Dataset:  # noqa: UP045
    made = make(number=number, word=word).set_display_name("Make things").set_retry(5, "60s")
    check(things=made.outputs["things"], wanted=wanted).set_display_name("Check").set_retry(5, "60s")
    return made.outputs["things"]


@dsl.component(base_image="none", install_kfp_package=False)
def look(number: int) -> NamedTuple("Found", revision=str, size=int):
    return (f"r{number}", number)


@dsl.component(base_image="none", install_kfp_package=False)
def share_out(codes: list[str]) -> list[dict[str, str]]:
    return [{"languages": code, "group": str(place)} for place, code in enumerate(codes)]


@dsl.component(base_image="none", install_kfp_package=False)
def work(languages: str, group: str, revision: str, size: int, done: Output[Dataset], word: str = "default") -> None:
    from pathlib import Path

    if languages == "xx":
        raise ValueError(f"languages: found {languages!r}")
    Path(done.path).write_text(f"{languages} {group!r} {revision} {size!r} {word}")


@dsl.component(base_image="none", install_kfp_package=False)
def measure(done: Input[Dataset], size: int, length: Output[Dataset]) -> None:
    from pathlib import Path

    Path(length.path).write_text(f"{len(Path(done.path).read_text())} {size}")


@dsl.component(base_image="none", install_kfp_package=False)
def collect(done: Input[list[Dataset]], lengths: Input[list[Dataset]], all: Output[Dataset], mark: str = "") -> None:
    from pathlib import Path

    Path(all.path).write_text("\n".join([Path(part.path).read_text() for part in [*done, *lengths]] + [mark]))


@dsl.pipeline(name="fanned")
def fanned(codes: list[str], number: int = 7, word: Optional[str] = None, mark: str = "") -> Dataset:  # noqa: UP045
    looked = look(number=number).set_display_name("Look").set_caching_options(False)
    shares = share_out(codes=codes).set_display_name("Share out")
    with dsl.ParallelFor(shares.output, name="work") as share:
        worked = work(
            languages=share.languages,
            group=share.group,
            revision=looked.outputs["revision"],
            size=looked.outputs["size"],
            word=word,
        )
        worked.set_display_name("Work").set_retry(5, "60s")
        measured = measure(done=worked.outputs["done"], size=looked.outputs["size"]).set_display_name("Measure")
    collected = collect(
        done=dsl.Collected(worked.outputs["done"]), lengths=dsl.Collected(measured.outputs["length"]), mark=mark
    )
    return collected.set_display_name("Collect").outputs["all"]


def run(pipeline: Any, parameters: Mapping[str, Any], out: Path, cache: Path | None = None) -> tuple[str, list[str]]:
    """(text of the pipeline's output, lines on the screen)."""
    screen = io.StringIO()
    outputs = local.run(pipeline, parameters, out, screen, cache)
    return Path(outputs["Output"].path).read_text(), screen.getvalue().splitlines()


def test_a_run_has_a_line_a_task_and_leaves_its_artifacts(tmp_path: Path) -> None:
    text, lines = run(small, {"wanted": "3 default None"}, tmp_path / "run")
    assert text == "3 default None"
    assert [line.split("  ")[0] for line in lines] == ["Make things", "Check"]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Executing task 'make'" in log and "1/20" not in log and "\x1b" not in log


def test_a_failed_task_is_not_retried_and_says_why(tmp_path: Path) -> None:
    screen = io.StringIO()
    with pytest.raises(RuntimeError, match=r"Check: failed; all it printed is in .*log.txt"):
        local.run(small, {"wanted": "4 ducks", "word": "ducks"}, tmp_path / "run", screen)
    first, second = screen.getvalue().splitlines()
    assert first.startswith("Make things") and first.endswith(" s")
    assert second.startswith("Check") and second.endswith(
        "failed: ValueError: things: found '3 ducks None'; expected '4 ducks'"
    )
    assert (tmp_path / "run" / "log.txt").read_text().count("Executing task 'check'") == 1


def test_a_loop_gives_each_task_its_share_and_what_other_tasks_found(tmp_path: Path) -> None:
    text, lines = run(fanned, {"codes": ["da", "de"]}, tmp_path / "run")
    assert text.splitlines() == ["da '0' r7 7 default", "de '1' r7 7 default", "19 7", "19 7"]
    assert [(line.split()[0], line.split(" s")[-1].strip()) for line in lines[2:]] == [
        ("Work", "da"), ("Measure", "da"), ("Work", "de"), ("Measure", "de"), ("Collect", ""),
    ]  # fmt: skip


@dsl.component(base_image="none", install_kfp_package=False)
def decide(number: int) -> bool:
    return number > 2


@dsl.pipeline(name="choosing")
def choosing(number: int) -> Dataset:
    made = make(number=number).set_display_name("Make things")
    decided = decide(number=number).set_display_name("Decide")
    with dsl.If(decided.output == True, name="good"):  # noqa: E712 - kfp reads the comparison
        check(things=made.outputs["things"], wanted="3 default None").set_display_name("Check")
    return make(number=5).after(decided).set_display_name("Finish").outputs["things"]


@pytest.mark.parametrize(("number", "checked"), [(3, True), (2, False)])
def test_a_task_behind_a_condition_runs_only_where_it_holds(number: int, checked: bool, tmp_path: Path) -> None:
    screen = io.StringIO()
    outputs = local.run(choosing, {"number": number}, tmp_path / "run", screen)
    titles = [line.split("  ")[0] for line in screen.getvalue().splitlines()]
    assert ("Check" in titles) == checked and {"Make things", "Decide", "Finish"} <= set(titles)
    assert Path(outputs["Output"].path).read_text() == "5 default None"


def test_a_task_that_fails_in_a_loop_is_named_with_its_share(tmp_path: Path) -> None:
    screen = io.StringIO()
    with pytest.raises(RuntimeError, match=r"^Work: failed; all it printed is in"):
        local.run(fanned, {"codes": ["xx", "de"]}, tmp_path / "run", screen)
    lines = screen.getvalue().splitlines()
    assert lines[2].startswith("Work") and lines[2].endswith("s  xx  failed: ValueError: languages: found 'xx'")
    assert not any(line.startswith("Collect") for line in lines)
    assert (tmp_path / "run" / "log.txt").read_text().count("Executing task 'work'") == 2


def test_with_a_cache_only_what_changed_runs_again(tmp_path: Path) -> None:
    def states(name: str, **parameters: Any) -> tuple[str, dict[str, set[str]]]:
        text, lines = run(fanned, {"codes": ["da", "de"], **parameters}, tmp_path / name, tmp_path / "cache")
        found: dict[str, set[str]] = {}
        for line in lines:
            found.setdefault(line.split("  ")[0], set()).add("cached" if " cached" in line else "run")
        return text, found

    first, all_run = states("first")
    assert all_run == {title: {"run"} for title in ("Look", "Share out", "Work", "Measure", "Collect")}
    again, same = states("again")
    assert again == first
    assert same == {title: {"run" if title == "Look" else "cached"} for title in all_run}
    marked, changed = states("marked", mark="new")
    assert marked == first + "new"
    assert [title for title, state in changed.items() if state == {"run"}] == ["Look", "Collect"]
    _, renewed = states("renewed", number=8)
    assert [title for title, state in renewed.items() if state == {"cached"}] == ["Share out"]


def test_progress_is_shown_in_place_on_a_terminal() -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    console = local.Console(screen, io.StringIO(), {"sample": "Sample answers"})
    for line in ["12:00:00.000 - INFO - Executing task '\x1b[96msample\x1b[0m'\n", "    sample:  5%|#    |", " 1/20\n"]:
        console.write(line)
    assert screen.getvalue().split("\r\x1b[K")[1:] == ["Sample answers  ", "Sample answers  sample:  5%|#    | 1/20"]


@dsl.pipeline(name="prepare-alone")
def prepare_alone(source: str, count: int) -> Dataset:
    return prepare(source=source, count=count).outputs["prompts"]


def test_a_component_runs_its_stage_without_network_or_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    source = tmp_path / "chats.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"What do you know about number {i}?"}]} for i in range(5)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    outputs = local.run(prepare_alone, {"source": str(source), "count": 3}, tmp_path / "run", io.StringIO())
    prompts = Path(outputs["Output"].path)
    assert dataset.read(prompts, "prompts").num_rows == 3
    output = json.loads((prompts.parent / "executor_output.json").read_text())
    metrics = output["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert metrics["rows"] == 3 and metrics["dropped/prompts/not_sampled"] == 2


def test_tasks_of_one_name_in_two_graphs_have_titles_and_folders_of_their_own(tmp_path: Path) -> None:
    def graph(name: str) -> Any:
        @dsl.pipeline(name=name)
        def inner(number: int, wanted: str) -> Dataset:
            made = make(number=number).set_display_name(f"Make {name}")
            check(things=made.outputs["things"], wanted=wanted).set_display_name(f"Check {name}")
            return made.outputs["things"]

        return inner

    graphs = [graph("first"), graph("second")]

    @dsl.pipeline(name="outer")
    def outer() -> Dataset:
        things = [made(number=number, wanted=f"{number} default None") for number, made in enumerate(graphs)]
        check(things=things[0].output, wanted="0 default None").set_display_name("Check the first")
        return things[1].output

    screen = io.StringIO()
    outputs = local.run(outer, {}, tmp_path, screen)
    assert Path(outputs["Output"].path).read_text() == "1 default None"
    titles = sorted(line.partition("  ")[0] for line in screen.getvalue().splitlines())
    assert titles == ["Check first", "Check second", "Check the first", "Make first", "Make second"]
