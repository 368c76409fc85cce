"""Engine: vLLM for real on tiny random models."""

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from croco import chat, dataset, engine, rows, sample, shards

QUESTIONS = [[{"role": "user", "content": f"Question {number}"}] for number in range(3)]


def test_an_answer_that_was_aborted_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="found finish_reason 'abort'; expected stop or length"):
        engine._completion(SimpleNamespace(text="ja", token_ids=(1,), finish_reason="abort"))


def test_importing_the_engine_imports_no_library_that_is_slow() -> None:
    code = "import sys, croco.engine; print(*{'torch', 'vllm', 'transformers'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.engine
def test_a_service_named_vllm_in_the_cluster_does_not_stop_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PORT", "tcp://10.0.0.1:8000")

    engine.settings(512)

    assert "VLLM_PORT" not in os.environ


def test_keys_of_stored_answers_and_verdicts_are_as_they_were() -> None:
    fields = {"n": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 4096, "seed": None}
    assert dataclasses.asdict(engine.Sampling()) == fields


@pytest.mark.engine
def test_a_generator_then_a_classifier_live_in_one_process(tmp_path: Path) -> None:
    generator = engine.load_generator(str(tiny.policy(tmp_path / "policy")))
    prompts = [chat.prompt_ids(generator.tokenizer, question) for question in QUESTIONS]
    sampling = [engine.Sampling(64, temperature=1.0, max_tokens=24, seed=1000 * number) for number in range(3)]

    answers = generator(prompts, sampling)

    assert [len(texts) for texts in answers] == [64, 64, 64]
    assert generator(prompts[::-1], sampling[::-1]) == answers[::-1], "the order of a batch changed an answer"
    assert generator(prompts[1:2], sampling[1:2]) == answers[1:2], "the rest of a batch changed an answer"
    seventh = engine.Sampling(1, temperature=1.0, max_tokens=24, seed=1007)
    assert generator(prompts[1:2], [seventh]) == [[answers[1][7]]], "answer i has not the seed of the prompt plus i"
    assert len({answer.text for answer in answers[0]}) > 50
    for answer in (answer for texts in answers for answer in texts):
        assert (answer.token_ids[-1] == generator.tokenizer.eos_token_id) == (answer.finish_reason == "stop")
        assert len(answer.token_ids) == 24 or answer.finish_reason == "stop"
        assert tiny.END not in answer.text
    generated = sum(len(answer.token_ids) for texts in answers for answer in texts)
    assert generator.tokens_out == 2 * generated + sum(len(a.token_ids) for a in [*answers[1], answers[1][7]])
    assert generator.tokens_in == 2 * sum(map(len, prompts)) + 2 * len(prompts[1])
    greedy = generator(prompts, [engine.Sampling(max_tokens=8)] * 3)
    assert greedy == generator(prompts, [engine.Sampling(max_tokens=8)] * 3)
    assert generator([], []) == []

    del generator
    reward = str(tiny.reward(tmp_path / "reward"))
    classifier = engine.load_classifier(reward)
    conversations = [
        chat.conversation_ids(classifier.tokenizer, question, answer.text)
        for question, texts in zip(QUESTIONS, answers, strict=True)
        for answer in texts[:8]
    ]
    rewards = classifier(conversations)

    assert rewards == pytest.approx(engine.plain_rewards(reward, None, conversations), abs=1e-4)
    assert classifier(conversations[::-1]) == pytest.approx(rewards[::-1], abs=1e-5)
    assert max(rewards) - min(rewards) > 0.1
    assert max(rewards) > 1, "a sigmoid was left on"
    assert classifier([]) == []
    assert classifier.max_model_len == engine.context(reward) == tiny.CONTEXT
    assert classifier.tokens_in == 2 * sum(map(len, conversations))


@pytest.mark.engine
def test_another_process_with_other_batches_writes_the_same_text_and_nothing_to_stdout(
    tmp_path: Path, dataset_of: Callable[..., Path]
) -> None:
    policy = tiny.policy(tmp_path / "policy")
    prompts = dataset_of(
        "prompts",
        [
            {"prompt_id": str(number), "language": "da", "messages": question, "split": "train"}
            for number, question in enumerate(QUESTIONS)
        ],
    )
    command = f"-m croco sample --prompts {prompts} --model {policy} --out {tmp_path / 'one'} --shard-prompts 1"
    decoding = "--n 64 --temperature 1 --top-p 1 --top-k 0 --max-tokens 24"
    one = subprocess.run(
        [sys.executable, *command.split(), *decoding.split()], capture_output=True, text=True, check=False
    )
    assert (one.returncode, one.stdout) == (0, ""), one.stderr
    config = sample.SampleConfig(n=64, temperature=1.0, top_p=1.0, top_k=0, max_tokens=24)

    two = sample.run(prompts=[prompts], model=str(policy), out=tmp_path / "two", config=config)

    key = [(name, "ascending") for name in rows.CONTRACTS["samples"].key]
    first, second = (dataset.read(tmp_path / name, "samples").sort_by(key) for name in ("one", "two"))
    assert first.equals(second)
    assert len(dataset.load_manifest(tmp_path / "one").files) == len({shards.bucket_of(name, 4) for name in "012"}) > 1
    assert len(two.files) == 1


@pytest.mark.engine
@pytest.mark.parametrize("labels", [1, 2])
def test_a_model_without_a_reward_head_is_refused(tmp_path: Path, labels: int) -> None:
    folder = tiny.policy(tmp_path / "model") if labels == 2 else tiny.reward(tmp_path / "model")
    config = folder / "config.json"
    config.write_text(
        re.sub(r'"architectures": \[[^]]*\]', '"architectures": ["Qwen3ForCausalLM"]', config.read_text())
    )

    with pytest.raises(
        ValueError, match=rf"found \['Qwen3ForCausalLM'\] with {labels} labels; expected a reward model"
    ):
        engine.load_classifier(str(folder))
