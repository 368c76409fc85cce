"""Translation: the stage against the procedure of the paper's released code, in messages a second; text for text.

Both translate the same conversations of the toy world (a question and an answer each) with the same weights, in
float32 and greedily, from files to files; engines are started before. A tenth of all messages has the text of an
earlier one. Every message is one paragraph: of several, ours would send each alone, and they could differ.

The translator is the toy world's, made to cost what a real one costs where that decides: `SHARED` tokens stand before
each text, as TranslateGemma's template has its instructions there (their embeddings are zero; the toy still translates,
if not always as without them), and its MLPs are padded with zeros to `WIDTH`, which changes no word.

The reference (vllm_translate.py): every message of every conversation, in the file's order, a language after the other;
Infomaniak's delimited string, rendered as text; a first pass that counts every prompt's tokens; max_num_seqs=1024,
temperature 0, max_tokens 8192, and vLLM's defaults for the rest; JSON lines in and out. It differs in what a CPU
refuses or would only wait for: 1 GiB of KV memory instead of a share of a GPU's, no compilation, no parallel ranks; and
in float32, for vLLM's default is to make bfloat16 of it, whose rounding would change words.

vLLM shares a prompt's prefix by whole blocks, by default. A block has 16 tokens on a GPU but 128 on a CPU, where the
reference shares nothing therefore. So its procedure runs in our engine too: what is left over that, holds on a GPU.
The limit is arithmetic: all tokens of the reference over those that cannot be spared, a language's shared tokens once
and each distinct text and its translation.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from bench.measuring import Figure, Result, Setting, against, turns
from croco import chat, dataset, engine, prepare, translate, translator
from croco.engine import Generator
from croco.prepare import PrepareConfig
from croco.toy import build, world
from croco.translate import TranslateConfig

SHARED = 80
"""Tokens before a text that all of a language have (ours: about what TranslateGemma's instructions have)."""
WIDTH = 4096
"""Of the MLPs; the toy's own is 384."""
INSTRUCTION = "<|instruction|>"
TEMPLATE = (
    "{% set fields = messages[0]['content'].split('<<<') %}"
    f"{{{{ '{INSTRUCTION}' * {SHARED} }}}}"
    "{% for field in fields[1:3] %}{{ '<|' + field.split('>>>')[1] + '|>' }}{% endfor %}"
    "{{ fields[3].removeprefix('text>>>') + '<|end|><|assistant|>' }}"
)
"""Infomaniak's format, for the toy."""
LANGUAGES = ("de", "fr")
Messages = list[dict[str, str]]


def conversations(number: int, seed: int = 0) -> list[Messages]:
    """Distinct questions with answers, of which each fifth is an earlier one's: a tenth of all messages."""
    rng = random.Random(seed)
    questions = [question.render("en") for question in build.every_question(world.TRAIN)]
    answers: list[str] = []
    while len(answers) < number:
        answer = world.draw_answer(rng, rng.choice(world.TRAIN)).render("en")
        if answer not in answers:
            answers.append(answer)
    answers[4::5] = answers[3::5][: len(answers[4::5])]
    turns = zip(rng.sample(questions, number), answers, strict=True)
    return [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in turns]


def padded(toy: Path, out: Path) -> Path:
    """The toy translator with shared tokens before each text and wide MLPs."""
    import torch
    from transformers import Qwen3ForCausalLM

    tokenizer, model = chat.load_tokenizer(str(toy)), Qwen3ForCausalLM.from_pretrained(toy)
    tokenizer.add_special_tokens({"additional_special_tokens": [INSTRUCTION]})
    tokenizer.chat_template = TEMPLATE
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[-1] = 0
        for layer in model.model.layers:
            for name in ("gate_proj", "up_proj", "down_proj"):
                narrow = getattr(layer.mlp, name)
                rows, columns = (WIDTH if size != model.config.hidden_size else size for size in narrow.weight.shape)
                wide = torch.nn.Linear(columns, rows, bias=False)
                wide.weight.zero_()
                wide.weight[: narrow.out_features, : narrow.in_features] = narrow.weight
                setattr(layer.mlp, name, wide)
    model.config.intermediate_size = WIDTH
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def reference_engine(model: Path) -> Any:
    from vllm import LLM

    return LLM(str(model), max_num_seqs=1024, kv_cache_memory_bytes=2**30, enforce_eager=True, dtype="float32")


class Reference:
    """The released code's procedure with an engine."""

    def __init__(self, llm: Any, source: Path, out: Path) -> None:
        self.llm, self.tokenizer, self.source, self.out = llm, llm.get_tokenizer(), source, out
        self.requests: dict[str, list[Any]] = {}
        """Language -> what the engine said of each message in the latest call."""

    def __call__(self) -> float:
        from vllm import SamplingParams

        data = [json.loads(line) for line in self.source.read_text(encoding="utf-8").splitlines()]
        kept = [row for row in data if self.short(row)]
        for code in LANGUAGES:
            sampling = SamplingParams(temperature=0, max_tokens=8192)
            self.requests[code] = self.llm.generate(self.prompts(kept, code), sampling, use_tqdm=False)
            texts = iter(request.outputs[0].text.strip() for request in self.requests[code])
            translated = [
                {**row, "messages": [{**turn, "content": next(texts)} for turn in row["messages"]], "language": code}
                for row in kept
            ]
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in translated)
            (self.out / f"{code}.jsonl").write_text(lines, encoding="utf-8")
        return float(sum(map(len, self.requests.values())))

    def prompts(self, data: Sequence[dict[str, Any]], code: str) -> list[str]:
        asked = [translator.infomaniak(turn["content"], code) for row in data for turn in row["messages"]]
        return [self.tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in asked]

    def short(self, row: dict[str, Any]) -> bool:
        prompts = self.prompts([row], max(LANGUAGES, key=len))
        return all(len(self.tokenizer.encode(prompt)) <= 8192 for prompt in prompts)

    def translations(self) -> dict[tuple[str, str], tuple[str, str]]:
        """(language, English question) -> question and answer as the latest call wrote them."""
        read = {code: (self.out / f"{code}.jsonl").read_text(encoding="utf-8").splitlines() for code in LANGUAGES}
        rows = [(code, json.loads(line)["messages"]) for code, lines in read.items() for line in lines]
        english = [json.loads(line)["messages"][0]["content"] for line in self.source.read_text().splitlines()]
        pairs = zip(rows, english * len(LANGUAGES), strict=True)
        return {(code, asked): (turns[0]["content"], turns[1]["content"]) for (code, turns), asked in pairs}


def staged(generator: Generator, prompts: Path, model: Path, work: Path, messages: float) -> Callable[[], float]:
    """The whole stage, with a store that has nothing of it yet; what it writes is in the newest folder of `work`."""

    def call() -> float:
        out = work / f"{len(list(work.iterdir())):03d}"
        config = TranslateConfig(LANGUAGES, format="infomaniak", max_model_len=512, output_ratio=1.0)
        with mock.patch.object(engine, "load_generator", return_value=generator):
            translate.run(prompts=prompts, model=str(model), out=out / "out", store=str(out / "store"), config=config)
        return messages

    return call


def equal(prompts: Path, ours: Path, theirs: dict[tuple[str, str], tuple[str, str]]) -> tuple[int, int]:
    """How many messages of ours are the reference's to the letter, and how many were compared: those not dropped."""
    english = {row["prompt_id"]: row["messages"][0]["content"] for row in _rows(prompts)}
    pairs = []
    for row in _rows(ours):
        question, answer = theirs[row["language"], english[row["prompt_id"]]]
        pairs += [(row["messages"][0]["content"], question)]
        pairs += [(row["reference"], answer)] if row["reference"] is not None else []
    return sum(one == other for one, other in pairs), len(pairs)


def _rows(directory: Path) -> list[dict[str, Any]]:
    return list(dataset.read(directory, "prompts").to_pylist())


def tokens(requests: Sequence[Any], shared: int) -> tuple[int, int]:
    """Tokens of one language's requests: those of all, and those that cannot be spared."""
    sizes = {tuple(r.prompt_token_ids): (len(r.prompt_token_ids), len(r.outputs[0].token_ids)) for r in requests}
    every = sum(sum(sizes[tuple(request.prompt_token_ids)]) for request in requests)
    return every, shared + sum(prompt - shared + output for prompt, output in sizes.values())


def run(setting: Setting) -> Result:
    model = padded(setting.toy / "translator", setting.work / "translator")
    source, prompts = setting.work / "english.jsonl", setting.work / "prompts"
    data = conversations(setting.of(200, 60))
    source.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in data), encoding="utf-8")
    prepare.run(source=str(source), out=prompts, config=PrepareConfig(count=len(data), eval_share=0))
    for folder in ("ours", "theirs", "same"):
        (setting.work / folder).mkdir()

    generator, messages = engine.load_generator(str(model)), 2.0 * len(data) * len(LANGUAGES)
    ours = staged(generator, prompts, model, setting.work / "ours", messages)
    theirs = Reference(reference_engine(model), source, setting.work / "theirs")
    same = Reference(generator.llm, source, setting.work / "same")

    def forget() -> None:
        generator.llm.reset_prefix_cache()
        theirs.llm.reset_prefix_cache()

    ours(), theirs()  # unmeasured: loads what identifies languages, makes the engines' buffers
    runs = turns({"ours": ours, "reference": theirs, "same engine": same}, setting.of(3, 1), before=forget)
    newest = max((setting.work / "ours").iterdir()) / "out"
    alike, compared = equal(prompts, newest, theirs.translations())
    counted = [tokens(requests, SHARED + 2) for requests in theirs.requests.values()]
    every, needed = map(sum, zip(*counted, strict=True))
    limit = every / needed
    figures = [
        against(runs, "ours", "reference", "messages a second", at_least=1.3, limit=limit),
        against(runs, "ours", "same engine", "the same, its procedure in our engine"),
        Figure("translations equal to the reference's", alike / compared, "share", at_least=1.0),
    ]
    manifest = dataset.load_manifest(newest)
    detail = {"runs": runs, "messages": messages, "compared": compared, "tokens": {"reference": every, "least": needed}}
    return Result(figures, {**detail, "counts": [asdict(count) for count in manifest.counts]})
