"""Prepare: what becomes a prompt, what is dropped for which reason, and what is refused."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from croco import dataset, prepare, rows, sources
from croco.prepare import PrepareConfig

Row = dict[str, Any]


def chat(*turns: str, **columns: Any) -> Row:
    """chat("user: hello", "assistant: hi") -> a row of a source."""
    pairs = [turn.split(": ", 1) for turn in turns]
    return {"messages": [{"role": role, "content": content} for role, content in pairs], **columns}


def prepared(*data: Row, **config: Any) -> tuple[list[Row], dataset.Count]:
    def records() -> Iterator[tuple[str, Row]]:
        return ((f"row {at}", row) for at, row in enumerate(data))

    prompts, (count,), _ = prepare.prepare(records, PrepareConfig(**config))
    return prompts, count


def lines(path: Path, *data: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in data))
    return path


def read(path: Path) -> list[tuple[str, Any]]:
    records, _ = sources.open_source(str(path), None, prepare.COLUMNS)
    return list(records())


def test_a_prompt_is_every_turn_up_to_the_last_users_and_the_answer_after_it_the_reference() -> None:
    row = chat(
        "system: Be brief.", "user: Hi", "assistant: Hello!", "user: And?", "assistant: Well.",
        source_dataset="FLAN", domain="Other", id="7",
    )  # fmt: skip
    (prompt,), count = prepared(row, eval_share=0)
    messages = row["messages"][:4]
    assert prompt == {
        "prompt_id": rows.prompt_id_of(messages),
        "language": "en",
        "messages": messages,
        "reference": "Well.",
        "source_dataset": "FLAN",
        "domain": "Other",
        "split": "train",
    }
    assert count == dataset.Count("prompts", "en", 1, 1)


def test_a_prompt_without_an_answer_has_no_reference() -> None:
    (prompt,), _ = prepared(chat("user: Hi"))
    assert (prompt["reference"], prompt["domain"], prompt["source_dataset"]) == (None, None, None)


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("tools", {"messages": [{"role": "user", "content": "Hi", "functions": "[{}]"}]}),
        ("tools", {"messages": [{"role": "assistant", "content": None, "function_calls": "f()"}]}),
        ("tools", chat("user: Hi", tools=[{"name": "f"}])),
        ("tools", chat("user: Hi", "assistant: f()", "environment: 3", "assistant: 3")),
        ("tools", chat("user: Hi", "assistant: f()", "tool: 3", "assistant: 3")),
        ("null_content", {"messages": [{"role": "user", "content": None}]}),
        ("null_content", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant"}]}),
        ("empty_content", chat("user: Hi", "assistant: ")),
        ("empty_content", chat("user:  \n\t")),
        ("not_unicode", chat("user: half \ud83d")),
        ("no_user_turn", chat("system: Be brief.", "assistant: Hello!")),
        ("turn_order", chat("assistant: Hello!", "user: Hi")),
        ("turn_order", chat("user: Hi", "user: Hi?")),
        ("turn_order", chat("user: Hi", "assistant: Hello!", "assistant: Hello?")),
        ("turn_order", chat("user: Hi", "system: Be brief.")),
        ("over_long", chat("system: 12345", "user: 123456")),
    ],
)
def test_an_unusable_row_is_dropped_for_its_reason(reason: str, row: Row) -> None:
    _, count = prepared(row, chat("user: 1234567890", "assistant: However long the answer is."), max_chars=10)
    assert count == dataset.Count("prompts", "en", 2, 1, {reason: 1})


def test_empty_tool_fields_are_no_tools() -> None:
    row = chat("user: Hi", functions=None)
    row["messages"][0] |= {"functions": "[]", "function_calls": None}
    prompts, _ = prepared(row)
    assert prompts[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_of_duplicates_the_first_is_kept_and_equal_is_what_reads_the_same() -> None:
    full_width = "".join(chr(ord(c) + 0xFEE0) for c in "Hello")
    data = [f"user: {text}" for text in ("Hello you", " hello \n YOU", f"{full_width} you", "Hello, you")]
    prompts, count = prepared(*map(chat, data), chat("system: Hello you", "user: Hello you"))
    contents = {prompt["messages"][0]["content"] for prompt in prompts}
    assert contents == {"Hello you", "Hello, you"}
    assert count == dataset.Count("prompts", "en", 5, 3, {"duplicate": 2})


def test_strata_get_their_share_by_largest_remainder() -> None:
    # 10 of 101: A 500/101 = 4 rest 96, B 300/101 = 2 rest 98, C 210/101 = 2 rest 8; the two left go to B and A
    assert prepare.quotas({"A": 50, "B": 30, "C": 21}, 10) == {"A": 5, "B": 3, "C": 2}
    assert prepare.quotas({"B": 1, "A": 1, None: 1}, 2) == {"B": 0, "A": 1, None: 1}, "ties by name, null first"
    assert prepare.quotas({"A": 2, "B": 1}, 3) == prepare.quotas({"A": 2, "B": 1}, 9) == {"A": 2, "B": 1}


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 500), min_size=1), st.integers(1, 3000))
def test_quotas_are_exact_and_within_one_of_proportional(sizes: dict[str, int], count: int) -> None:
    total = sum(sizes.values())
    quotas = prepare.quotas(sizes, count)
    assert sum(quotas.values()) == min(count, total)
    for name, size in sizes.items():
        assert 0 <= quotas[name] <= size
        assert abs(quotas[name] - size * min(count, total) / total) < 1


def test_the_draw_is_stratified_exact_seeded_and_in_order_of_prompt_id() -> None:
    data = [chat(f"user: {domain}{n}", domain=domain) for domain, size in (("A", 50), ("B", 30)) for n in range(size)]
    prompts, count = prepared(*data, count=16)
    ids = [prompt["prompt_id"] for prompt in prompts]
    assert Counter(prompt["domain"] for prompt in prompts) == {"A": 10, "B": 6}
    assert ids == sorted(ids)
    assert count == dataset.Count("prompts", "en", 80, 16, {"not_sampled": 64})
    assert prepared(*reversed(data), count=16)[0] == prompts, "whatever the order of the source"
    assert prepared(*data, count=16, seed=1)[0] != prompts
    larger = {prompt["prompt_id"] for prompt in prepared(*data, count=40)[0]}
    assert larger > set(ids), "a larger draw holds the smaller one"


def test_the_split_is_by_hash_of_the_prompt() -> None:
    prompts, _ = prepared(*(chat(f"user: {n}") for n in range(400)), eval_share=0.25)
    splits = {prompt["prompt_id"]: prompt["split"] for prompt in prompts}
    assert splits == {i: "eval" if rows.fraction_of("split", i) < 0.25 else "train" for i in splits}
    assert 60 < Counter(splits.values())["eval"] < 140


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"conversation": []}, "found no messages"),
        ({"messages": None}, "found messages None"),
        ({"messages": []}, r"found messages \[\]"),
        ({"messages": ["Hi"]}, "found a turn with role None"),
        ([1, 2], "found no messages"),
        (chat("user: Hi", "human: Hi"), "found a turn with role 'human'; expected system, user, assistant"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, r"found content \['Hi'\]; expected text"),
        (chat("user: Hi", domain=3), "found domain 3; expected text or null"),
    ],
)
def test_a_row_that_is_no_conversation_is_refused_by_line(tmp_path: Path, row: Any, found: str) -> None:
    path = lines(tmp_path / "chats.jsonl", chat("user: Hi"), row)
    with pytest.raises(ValueError, match=rf"chats.jsonl:2: {found}"):
        prepare.run(source=str(path), out=tmp_path / "out")


def test_malformed_json_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": []}\n\n{"messages": [}\n')
    with pytest.raises(ValueError, match=r"chats.jsonl:3: found malformed JSON \(Expecting value, column 15\)"):
        read(path)
    path.write_bytes(b'{}\n{"a": "\xff"}\n')
    with pytest.raises(ValueError, match=r"chats.jsonl:2: found bytes that are not UTF-8"):
        read(path)
    array = tmp_path / "chats.json"
    array.write_text("[\n{},\n{]\n")
    with pytest.raises(ValueError, match=r"chats.json:3: found malformed JSON"):
        read(array)


def test_jsonl_json_array_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    data = [chat("user: Hi\u2028there", "assistant: Hello!", domain="A"), chat("user: Où?", domain="B")]
    jsonl = lines(tmp_path / "chats.jsonl", *data)
    jsonl.write_bytes(b"\xef\xbb\xbf" + jsonl.read_bytes().replace(b"\n", b"\r\n\r\n"))
    array, parquet = tmp_path / "chats.json", tmp_path / "chats.parquet"
    array.write_text(json.dumps(data, indent=1, ensure_ascii=False))
    pq.write_table(pa.Table.from_pylist([{**row, "id": "7"} for row in data]), parquet)
    assert read(jsonl) == [(f"{jsonl}:1", data[0]), (f"{jsonl}:3", data[1])]
    assert read(array) == [(f"{array}: item 1", data[0]), (f"{array}: item 2", data[1])]
    assert read(parquet) == [(f"{parquet}: row 0", data[0]), (f"{parquet}: row 1", data[1])]


def test_a_file_that_is_not_there_or_not_what_it_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.jsonl: found no file; expected JSONL, a JSON array, Parquet"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match=r"chats.parquet: found .*; expected Parquet"):
        read(lines(tmp_path / "chats.parquet", {}))
    with pytest.raises(ValueError, match=r"revision: found 'main' with the local file"):
        sources.open_source(str(lines(tmp_path / "chats.jsonl")), "main", ())


def test_run_writes_prompts_and_says_where_they_came_from(tmp_path: Path) -> None:
    data = [
        chat("user: What do you know about cats?", domain="A"),
        chat("user: Was weißt du über Katzen?", domain="A"),
        chat("user: Tell me something about dogs.", "assistant: ", domain="B"),
        chat("user: How do wolves live?"),
    ]
    path = lines(tmp_path / "chats.jsonl", *data)
    manifest = prepare.run(source=str(path), out=tmp_path / "out", config=PrepareConfig(count=3))
    table = dataset.read(tmp_path / "out", "prompts")
    assert sorted(turns[0]["content"] for turns in table["messages"].to_pylist()) == sorted(
        data[at]["messages"][0]["content"] for at in (0, 1, 3)
    )
    assert manifest.counts == [dataset.Count("prompts", "en", 4, 3, {"empty_content": 1})]
    assert manifest.metrics == {
        "source": {"id": "chats.jsonl", "sha256": dataset.sha256_file(path)},
        "domains": [
            {"domain": None, "read": 1, "usable": 1, "chosen": 1},
            {"domain": "A", "read": 2, "usable": 2, "chosen": 2},
            {"domain": "B", "read": 1, "usable": 0, "chosen": 0},
        ],
        "language_fidelity": {"en": pytest.approx(2 / 3)},
    }
    assert not manifest.warnings


def test_too_small_a_source_gives_all_it_has_and_a_warning(tmp_path: Path) -> None:
    path = lines(tmp_path / "chats.jsonl", chat("user: Hi"))
    with pytest.warns(UserWarning, match="found 1 usable rows; expected 20000; all of them are kept"):
        manifest = prepare.run(source=str(path), out=tmp_path / "out")
    assert len(manifest.warnings) == 1


def test_a_source_without_a_usable_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    path = lines(tmp_path / "chats.jsonl", chat("user: "))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"found no prompts.*\{'empty_content': 1\}"):
        prepare.run(source=str(path), out=tmp_path / "out")


@pytest.mark.parametrize("wrong", [{"count": 0}, {"max_chars": 0}, {"eval_share": 1.0}, {"eval_share": -0.1}])
def test_a_config_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"found.*{next(iter(wrong.values()))}"):
        PrepareConfig(**wrong)
