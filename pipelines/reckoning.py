"""Reckoning: how fast a run's amounts would grow on GPUs that nobody has measured, by arithmetic.

Reading tokens is bound by arithmetic: 2 x parameters x tokens over a share of the peak. Writing them is bound by
memory: each step reads all weights, and of every answer in the batch its keys and values, over a share of the
bandwidth. Every assumption is a constant here, with where it comes from; one measured run (pipelines.calibration)
replaces them all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from croco.prepare import PrepareConfig
from pipelines.calibration import RECKONED, Calibration, Line, Rates
from pipelines.profiles import Needs, Profile
from pipelines.workload import GROWS, Settings, Shares


@dataclass(frozen=True)
class Gpu:
    """Of one."""

    flops: float
    """A second, bfloat16, dense."""
    bandwidth: float
    """Bytes a second."""
    memory: float
    """Bytes."""
    sequences: int
    """That vLLM works on at once, by its default for a GPU of this kind."""


GPUS: Mapping[str, Gpu] = {
    "A100-80GB": Gpu(312e12, 2.04e12, 80 * 2**30, 256),
    "H100-80GB": Gpu(989e12, 3.35e12, 80 * 2**30, 1024),
}
"""NVIDIA's data sheets (SXM); `sequences`: vLLM, EngineArgs' default for an offline engine."""
GPU = "A100-80GB"
"""The slower of the two that fit the profiles."""


@dataclass(frozen=True)
class Model:
    """Of a hub id."""

    parameters: float
    """All of them, in bfloat16."""
    active: float
    """That a token goes through."""
    cache: float
    """Bytes of keys and values a token: 2 x layers x KV heads x head size x 2 bytes."""

    @property
    def bytes(self) -> float:
        return 2 * self.parameters


MODELS: Mapping[str, Model] = {
    # model cards: 42 layers, 8 KV heads of 128; 62 layers, 16 of 128; 36 layers, 8 of 128, without a language head
    "utter-project/EuroLLM-9B-Instruct-2512": Model(9.15e9, 9.15e9, 2 * 42 * 8 * 128 * 2),
    "google/translategemma-27b-it": Model(27.4e9, 27.0e9, 2 * 62 * 16 * 128 * 2),
    "Skywork/Skywork-Reward-V2-Qwen3-8B": Model(7.57e9, 7.57e9, 2 * 36 * 8 * 128 * 2),
    # model card: 40 layers, of which 10 have keys and values, 2 KV heads of 256; 3B of 35B are active
    "Qwen/Qwen3.6-35B-A3B": Model(35e9, 3e9, 2 * 10 * 2 * 256 * 2),
    # model card: 72 KiB a token
    "CohereLabs/tiny-aya-global": Model(3.35e9, 3.35e9, 72 * 2**10),
}
ARITHMETIC, TRAINING, READING = 0.5, 0.4, 0.6
"""Shares of peak FLOP/s that prefill and training reach, and of bandwidth that decoding reaches (assumed)."""
MEMORY = 0.9
"""Share of memory that the engine takes (croco.engine)."""
START, FETCHING = 180.0, 0.5e9
"""Seconds of an engine's start besides fetching its weights, and bytes a second of that (assumed)."""
PROMPT, ANSWER, DUPLICATES = 512, 256, 0.2
"""Tokens of a prompt and of an answer, and the share of 64 answers that repeat another: the sizes that the benches of
scoring and training have (assumed for the instruction set)."""
SEGMENT, INSTRUCTION, EXPANSION = 64, 60, 1.3
"""Translation: tokens of a segment, of what it is asked with, and of its translation for each of its own (assumed)."""
QUESTION, REPLY, RULES, VERDICT = 150, 700, 300, 250
"""Tokens in the arena: a question, an answer to it, the judge's rules, and what it says (the rules ask for 200 words at
most; the others are assumed)."""
ITEMS, EXAMPLE, RESPONSE = 2048, 1000, 50
"""EuroEval: items of a test set (its usual size), tokens of one with its solved examples, and of what is said to it
(assumed)."""
PASSES = 4
"""Through the base model a trained token on a GPU: reference, forward, forward again as activations are not kept, and
backward through frozen weights, which costs what a forward does. On a CPU activations are kept: 3."""
TEXT, IDS, ROW, SCORE = 2.0, 2.0, 64.0, 8.0
"""Bytes in Parquet with zstd: of a token's text, of its id, of a row's other columns, and of a score (assumed; 200,000
answers of about 1 KB took 1 KB each)."""
COPIES = 2
"""Of a stage's output: Kubeflow's artifact, and the store's."""
ADAPTER = 0.0056
"""Parameters of an adapter of rank 16 on all linear projections, of the policy's (51M of EuroLLM's 9.15B)."""
WEIGHT, CHECKPOINT = 4, 12
"""Bytes for each of them: of the adapter, and of a checkpoint, which has AdamW's two moments too (float32)."""
BEGINNING, ROWS_A_SECOND = 10.0, 100_000
"""Of pairing and preparing: seconds of a start, and answers or prompts a second (assumed; pairing went through 250,000
on two cores, tests/bench/pairing.py)."""


@dataclass(frozen=True)
class Engine:
    """A model on the GPUs of one pod."""

    model: Model
    gpu: Gpu
    gpus: int

    def reads(self, tokens: float, share: float = ARITHMETIC) -> float:
        """Seconds for so many tokens."""
        return 2 * self.model.active * tokens / (self.gpus * self.gpu.flops * share)

    def writes(self, prompt: float, answer: float, shared: int = 1) -> float:
        """Seconds that one answer takes of a full batch; `shared`: how many answers hold their prompt's keys and values
        together.

        Raises: ValueError where the model leaves no room for one answer.
        """
        room = self.gpus * self.gpu.memory * MEMORY - self.model.bytes
        batch = min(self.gpu.sequences, room / (self.model.cache * (prompt / shared + answer)))
        if batch < 1:
            size = f"{self.model.bytes / 1e9:.0f} GB"
            raise ValueError(f"--profile: found {self.gpus} GPUs for a model of {size}; expected more")
        moved = self.model.bytes + batch * self.model.cache * (prompt + answer / 2)
        step = max(moved / (self.gpus * self.gpu.bandwidth * READING), self.reads(batch))
        return answer * step / batch


def reckon(settings: Settings, profile: Profile, gpu: str = GPU) -> Calibration:
    """Rates of every stage on GPUs of that kind, in the pods of a profile.

    Raises: ValueError for a GPU or a model that no table here has, or a profile without GPUs.
    """
    if gpu not in GPUS:
        raise ValueError(f"--gpu: found {gpu!r}; expected one of {', '.join(GPUS)}")
    shares = Shares(duplicates=-math.log(1 - DUPLICATES) / math.log(64) ** 2, trained=1 - PrepareConfig().eval_share)
    stages = {}
    for stage, grows in GROWS.items():
        if not grows.model:
            stages[stage] = _table(stage, settings)
            continue
        engine = Engine(_model(settings, grows.model), GPUS[gpu], _gpus(stage, profile.needs[stage]))
        rates = STAGES[stage.partition("-")[0]](engine, settings, shares)
        start = Line(START + engine.model.bytes / FETCHING, rates.seconds.each)
        stages[stage] = replace(rates, seconds=start, gpus=engine.gpus, basis=RECKONED)
    said = (
        f"reckoned, not measured: {gpu}; {PROMPT} tokens a prompt, {_answer(settings):g} an answer, and of 64 answers "
        f"{DUPLICATES:.0%} repeated (assumed); with a store beside Kubeflow's artifacts"
    )
    return Calibration(stages, shares, (said,))


def _gpus(stage: str, needs: Needs) -> int:
    number = needs.job.nodes * needs.job.pod.gpus if needs.job else needs.pod.gpus
    if not number:
        raise ValueError(f"--profile: found no GPU for {stage}; expected a profile with GPUs, or a --calibration")
    return number


def _model(settings: Settings, role: str) -> Model:
    name = settings.models[role]
    if name not in MODELS:
        raise ValueError(
            f"{role}: found {name}; expected one of {', '.join(MODELS)}, whose size is known, or a --calibration by a "
            "run of it"
        )
    return MODELS[name]


def _each(seconds: float, tokens_in: float, tokens_out: float = 0.0, *, read: float = 0.0, put: float = 0.0) -> Rates:
    """Of a unit of work. Args: put: one copy."""
    return Rates(Line(0, seconds), Line(0, tokens_in), Line(0, tokens_out), Line(0, read), Line(0, put * COPIES))


def _answer(settings: Settings) -> float:
    return min(ANSWER, settings.max_tokens or ANSWER)


def _reply(settings: Settings) -> float:
    return min(REPLY, settings.answer_max_tokens)


def _prompt_row() -> float:
    return PROMPT * TEXT + ROW


def _answer_row(settings: Settings) -> float:
    return _answer(settings) * (TEXT + IDS) + ROW


def _table(stage: str, settings: Settings) -> Rates:
    """Of a stage without a model."""
    read = {"pair": _answer_row(settings) + SCORE}.get(stage, 0.0)
    put = {"prepare": _prompt_row(), "pair": (PROMPT + 2 * _answer(settings)) * TEXT + ROW}.get(stage, 0.0)
    rates = _each(1 / ROWS_A_SECOND, 0, read=read, put=put)
    return replace(rates, seconds=Line(BEGINNING, 1 / ROWS_A_SECOND), basis=RECKONED)


def _translate(engine: Engine, settings: Settings, shares: Shares) -> Rates:
    segments, asked = PROMPT / SEGMENT, SEGMENT + INSTRUCTION
    seconds = segments * (engine.reads(asked) + engine.writes(asked, SEGMENT * EXPANSION))
    return _each(seconds, segments * asked, PROMPT * EXPANSION, read=_prompt_row(), put=_prompt_row() * EXPANSION)


def _sample(engine: Engine, settings: Settings, shares: Shares) -> Rates:
    answer = _answer(settings)
    seconds = engine.reads(PROMPT) / settings.n + engine.writes(PROMPT, answer, shared=settings.n)
    return _each(seconds, PROMPT, answer, read=_prompt_row(), put=_answer_row(settings))


def _score(engine: Engine, settings: Settings, shares: Shares) -> Rates:
    """A prompt is computed once for all its answers."""
    answer = _answer(settings)
    seconds = engine.reads(answer + PROMPT / shares.distinct(settings.n))
    return _each(seconds, PROMPT + answer, read=_answer_row(settings), put=SCORE)


def _train(engine: Engine, settings: Settings, shares: Shares) -> Rates:
    """A pair's prompt is computed once (croco.packed), and counts for both answers."""
    answer, adapter = _answer(settings), ADAPTER * engine.model.parameters
    seconds = engine.reads((PASSES - settings.saved) * (PROMPT + 2 * answer), TRAINING)
    rates = _each(seconds, 2 * (PROMPT + answer), read=(PROMPT + 2 * answer) * TEXT)
    checkpoint = CHECKPOINT * adapter
    kept = COPIES * (engine.model.bytes + WEIGHT * adapter)
    return replace(rates, put=Line(kept, checkpoint), removed=Line(0.0, checkpoint))


def _benchmark(engine: Engine, settings: Settings, shares: Shares) -> Rates:
    seconds = ITEMS * (engine.reads(EXAMPLE) + engine.writes(EXAMPLE, RESPONSE))
    return _each(seconds, ITEMS * EXAMPLE, ITEMS * RESPONSE, put=ROW)


def _answers(engine: Engine, settings: Settings, shares: Shares) -> Rates:
    reply = _reply(settings)
    seconds = engine.reads(QUESTION) + engine.writes(QUESTION, reply)
    return _each(seconds, QUESTION, reply, put=(QUESTION + reply) * TEXT + ROW)


def _arena(engine: Engine, settings: Settings, shares: Shares) -> Rates:
    reply = _reply(settings)
    asked = QUESTION + 2 * reply + RULES
    seconds = engine.reads(asked) + engine.writes(asked, VERDICT)
    return _each(seconds, asked, VERDICT, read=2 * ((QUESTION + reply) * TEXT + ROW), put=VERDICT * TEXT + ROW)


STAGES = {
    "translate": _translate,
    "sample": _sample,
    "score": _score,
    "train": _train,
    "benchmark": _benchmark,
    "answer": _answers,
    "arena": _arena,
}
