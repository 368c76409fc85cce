"""Judging: tokens computed by `arena`, and judgements a second, against the released code's steps with one judge.

The released side follows src/eval_marenahard.py: each question once, in one order drawn at random, its prompt (which
begins with what is asked of the judge and ends with how to reply) as text to one `LLM.generate` a language. Its flags:
512 sequences, prefix caching, no seed of a request, vLLM's defaults for the rest (quick, it is not compiled). It
differs in what a CPU asks for: the context is 8192 tokens and the memory for keys and values is given in bytes, on both
sides the same.

Ours is what `arena` does with its questions: ties of identical answers without a call, both orders of the others,
shards, verdicts in Parquet. Replies are cut at a few tokens on both sides, for a random judge finds no end.

The minimum is each distinct beginning of all prompts once, the nodes of their trie, and each reply's tokens but the
last, which is read by nobody.
"""

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench import drawn
from bench.measuring import Figure, Result, Setting, Side, against, turns
from croco import arena, chat, engine, judges
from croco.engine import Completion, Generator, Sampling
from croco.matches import Match
from croco.writer import Writer

CONTEXT, REPLY = 8192, 48
"""Tokens of a prompt and its reply at most; of a reply."""
ROOM, SHORT = 256 * 1024, CONTEXT + 128
"""Tokens whose keys and values fit into memory, where there is enough of it, and the least vLLM starts with: a block of
128 it keeps for itself."""
FORMAT = "plain"
RELEASED = """\
I need you to compare two responses to the same instruction and say which of them is better as a whole.
<instruction>{instruction}</instruction>
<output_1>{output_1}</output_1>
<output_2>{output_2}</output_2>
Weigh helpfulness, relevance, accuracy, depth, creativity and detail in at most 500 tokens. Then end with a line that \
holds your verdict alone: "[[1]]" if output_1 is better, "[[2]]" if output_2 is better."""
"""As long as the released code's and in its order; the words are ours."""


class Brief(Generator):
    """A judge that is cut short, and remembers what it was asked and how much it said."""

    def __init__(self, llm: Any, tokenizer: Any) -> None:
        super().__init__(llm, tokenizer)
        self.prompts: list[list[int]] = []

    def __call__(self, prompts: Sequence[list[int]], sampling: Sequence[Sampling]) -> list[list[Completion]]:
        self.prompts += prompts
        return super().__call__(prompts, [replace(one, max_tokens=REPLY) for one in sampling])


def compared(questions: int, languages: Sequence[str]) -> list[Match]:
    """Questions of 32 to 512 words, answers of 256 to 1024; of every eighth question both answers are the same."""
    rng, matches = random.Random(0), []
    for language in languages:
        for number in range(questions):
            texts = [drawn.text(rng, rng.randint(*span)) for span in ((32, 512), (256, 1024), (256, 1024))]
            if number % 8 == 7:
                texts[2] = texts[1]
            matches.append(Match(f"{number:04}", language, "hard_prompt", "math", *texts))
    return matches


def ours(judge: Brief, matches: Sequence[Match], setting: Setting) -> Side:
    """What `arena` does with its questions."""
    config = arena.ArenaConfig(judge_format=FORMAT)

    def call() -> int:
        out = setting.work / uuid.uuid4().hex
        writer = Writer(out, "verdicts", stage="arena", version=arena.VERSION, config=config)
        counts, _ = arena.settle(matches, judge.tokenizer, writer, lambda: judge, config)
        return sum(count.rows_out for count in counts)

    return call


def released(judge: Brief, matches: Sequence[Match]) -> Side:
    """The released code's steps, but for its verdicts and files."""
    from vllm import SamplingParams

    def call() -> int:
        rng, number = random.Random(1337), 0
        for language in dict.fromkeys(match.language for match in matches):
            texts = []
            for match in (match for match in matches if match.language == language):
                first, second = (match.model, match.reference)[:: -1 if rng.random() < 0.5 else 1]
                content = RELEASED.format(instruction=match.prompt, output_1=first, output_2=second)
                message = [{"role": "user", "content": content}]
                texts.append(judge.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
            outputs = judge.llm.generate(texts, SamplingParams(temperature=0.7, max_tokens=REPLY), use_tqdm=False)
            judge.prompts += [output.prompt_token_ids for output in outputs]
            judge.tokens_out += sum(len(output.outputs[0].token_ids) for output in outputs)
            number += len(outputs)
        return number

    return call


def judges_of(model: Any, tokens: int, *, eager: bool) -> dict[str, Brief]:
    """Ours and the released code's, with memory for so many tokens; `eager`: theirs is not compiled either."""
    memory, tokenizer = {"kv_cache_memory_bytes": drawn.kv_bytes(model, tokens)}, chat.load_tokenizer(str(model))
    options = engine.settings(CONTEXT)
    theirs = {"enable_prefix_caching": True, "max_num_seqs": 512, "enforce_eager": eager}
    return {
        "ours": Brief(drawn.llm(model, max_model_len=CONTEXT, **{**options, **memory}), tokenizer),
        "released": Brief(drawn.llm(model, max_model_len=CONTEXT, **theirs, **memory), tokenizer),
    }


def measure(setting: Setting, model: Any, matches: Sequence[Match], tokens: int, rounds: int) -> dict[str, Any]:
    """Runs of both sides, and what each computed of its prompts and again, over the distinct beginnings of them."""
    both = judges_of(model, tokens, eager=setting.quick)  # compiling takes longer than all that quick then does
    counters = {side: drawn.Computed(judge.llm) for side, judge in both.items()}
    sides = {"ours": ours(both["ours"], matches, setting), "released": released(both["released"], matches)}

    def forget() -> None:
        for judge in both.values():
            judge.llm.reset_prefix_cache()

    runs = turns(sides, rounds, before=forget)
    # judges are kept: an engine that goes takes the process groups of others with it
    found: dict[str, Any] = {"runs": runs, "judges": both, "computed": {}}
    for side, judge in both.items():
        replied = judge.tokens_out - len(judge.prompts)
        one = judge.prompts[: len(judge.prompts) // rounds]
        found["computed"][side] = (counters[side].take() - replied) / rounds / drawn.prefixes(one)
    return found


def run(setting: Setting) -> Result:
    """Tokens computed where memory is enough and where it is short; judgements a second."""
    words = judges.PAIRWISE.split() + RELEASED.split()
    model = drawn.model(
        setting.work / "judge", reward=False, layers=setting.of(4, 2), width=setting.of(128, 64), context=CONTEXT,
        also=[form for word in words for form in (word, f" {word}")],
    )  # fmt: skip
    matches = compared(setting.of(24, 8), ["da", "de"])
    enough = measure(setting, model, matches, ROOM, setting.of(3, 1))
    short = measure(setting, model, matches, SHORT, 1)

    def tokens(name: str, found: Mapping[str, Any], side: str, most: float | None = None) -> Figure:
        return Figure(name, found["computed"][side], "tokens/minimum", at_most=most, limit=1.0)

    figures = [
        tokens("tokens computed", enough, "ours", 1.02),
        tokens("tokens computed, memory short", short, "ours", 1.02),
        tokens("tokens computed, released", enough, "released"),
        tokens("tokens computed, memory short, released", short, "released"),
        against(enough["runs"], "ours", "released", "judgements a second"),
    ]
    return Result(figures, {name: {key: found[key] for key in ("runs", "computed")} for name, found in
                            (("enough", enough), ("short", short))})  # fmt: skip
