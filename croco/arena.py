"""Arena: two models' answers to the same questions -> a judge's verdicts and win rates (paper: m-ArenaHard).

    python -m croco arena --answers TUNED --reference BASE --judge MODEL --out DIR
    python -m croco arena --answers TUNED --reference LARGER --judge NAME --judge-endpoint https://HOST/v1 --out DIR

One set of answers serves any number of comparisons: tuned against base, against a larger model, base against it.
Answers are joined by question_id and language. Every question is judged twice, each model once in each place, and
scores the mean of the two (win 1, tie .5, loss 0); identical answers tie without a call. A reply without a verdict
stays in the dataset as null, and its question is left out of the rates: half of it would carry the judge's bias for a
place. The rates' formulas are in croco/winrate.py, the judges' prompts in croco/judges.py.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from croco import calls, chat, checks, dataset, endpoint, engine, judges, models, winrate
from croco.calls import Judge
from croco.matches import ORDERS, SIDES, Match, differences, in_language, join, load_side
from croco.shards import Outcome, Shards, split
from croco.writer import Writer

VERSION = 2


@dataclass(frozen=True)
class ArenaConfig:
    """How answers are compared."""

    judge_format: str = "qwen3.6"
    """Name in judges.FORMATS: the judge's prompt, sampling, thinking mode and context, each
    with where it comes from. Default: for the reference code's judge."""
    max_unreadable: float = 0.05
    """Share of the judge's replies in any one language that may lack a verdict, in [0, .5); above it the stage fails
    (ours; the reference code leaves such rows out in silence)."""
    repetitions: int = 2000
    """Bootstrap samples of each interval, at least 100 (ours)."""
    seed: int = 0
    """Of the judge's sampling, by question, language and order, and of the bootstrap (ours)."""
    max_model_len: int | None = None
    """Tokens of judge prompt and reply; None: the judge format's. Longer ones are counted as dropped (ours)."""
    shard_questions: int = 256
    """Questions of a language that are judged, then stored, at a time, on average: what a kill can cost. About 500
    calls keep a GPU full, and replies are short: little waiting for the last one (ours)."""
    gpus: int = 1
    """GPUs the judge is split over (ours)."""

    def __post_init__(self) -> None:
        checks.one_of(self, "judge_format", judges.FORMATS)
        if not 0 <= self.max_unreadable < 0.5:
            raise ValueError(f"max_unreadable: found {self.max_unreadable}; expected a share from 0 to below .5")
        if self.repetitions < 100:
            raise ValueError(f"repetitions: found {self.repetitions}; expected 100 or more")
        checks.one_or_more(self, "max_model_len", "shard_questions", "gpus")


def settle(
    matches: Sequence[Match],
    tokenizer: Any,
    writer: Writer,
    load: Callable[[], Judge],
    config: ArenaConfig,
) -> tuple[list[dataset.Count], list[str]]:
    """Write two ties for each match of identical answers, which no judge sees, then what the judge says of the others,
    a part a shard; `load` is called for the first shard that nobody has judged yet.

    The counts, and the names under which an endpoint's models answered.
    """
    from tqdm import tqdm

    tally, form = dataset.Tally("verdicts"), judges.FORMATS[config.judge_format]
    differing = [match for match in matches if match.model != match.reference]
    same = [match for match in matches if match.model == match.reference]
    if same:
        writer.add([calls.row(match, order, "tie", judges.IDENTICAL) for match in same for order in ORDERS])
    for match in same:
        tally.take(match.language, len(ORDERS))
        tally.keep(match.language, len(ORDERS))
    shards = Shards(writer, load=load, settings={"seed": config.seed, "max_model_len": config.max_model_len})
    table = pa.table({name: [getattr(m, name) for m in differing] for name in ("language", "question_id")})

    def compute(asked: Sequence[Match], judge: Judge) -> Outcome:
        found = dataset.Tally("verdicts")
        prepared = calls.prepare(asked, form, tokenizer, judge.max_model_len, found)
        verdicts = calls.ask(prepared, form.sampling, config.seed, judge, found)
        return Outcome(verdicts, found.counts(), notes={"served": sorted(getattr(judge, "served", ()))})

    served: set[str] = set()

    with tqdm(total=len(differing), desc="arena", unit="question") as bar:
        for language, places in split(table, config.shard_questions, key="question_id"):
            asked = [differing[place] for place in places]
            content = [judges.about(config.judge_format, language), *map(dataclasses.asdict, asked)]
            served.update(shards.do(language, content, functools.partial(compute, asked))["notes"]["served"])
            bar.update(len(asked))
    for count in shards.counts():
        tally.add(count)
    return tally.counts(), sorted(served)


def written(writer: Writer) -> list[dict[str, Any]]:
    """All verdicts of all shards, by language, question and order: however they were cut, the rates are the same."""
    verdicts = [row for file in writer.files for row in pq.read_table(writer.out / file["path"]).to_pylist()]
    return sorted(verdicts, key=lambda row: (row["language"], row["question_id"], row["order"]))


def check_readable(verdicts: Sequence[dict[str, Any]], most: float, out: Path) -> None:
    """Raises: ValueError where more than the share `most` of the judge's replies in a language lack a verdict."""
    unreadable = Counter(row["language"] for row in verdicts if row["verdict"] is None)
    replies = Counter(row["language"] for row in verdicts if not judges.tied_without_call(row))
    for language, number in sorted(unreadable.items()):
        if number > most * replies[language]:
            example = next(r["judge_text"] for r in verdicts if r["verdict"] is None and r["language"] == language)
            raise ValueError(
                f"arena: found {number} of {replies[language]} replies of the judge in {language} without a verdict; "
                f"expected at most {most:.0%}; the first ends {example[-200:]!r}, all are in {out}/part-*.parquet; "
                "check that --judge-format fits the judge"
            )


def run(
    *,
    answers: Path,
    reference: Path,
    judge: str = judges.JUDGE,
    judge_revision: str | None = None,
    judge_endpoint: str | None = None,
    judge_concurrency: int = 32,
    out: Path,
    store: str | None = None,
    config: ArenaConfig = ArenaConfig(),
) -> dataset.Manifest:
    """Write a judge's verdicts on two models' answers, and the win rates of the first.

    Args:
        answers: Dataset of the answers of the model whose win rate is wanted.
        reference: Dataset of the answers of the model it is compared with.
        judge: Folder or hub id of the judge (default: the reference code's); its name at an endpoint.
        judge_revision: Commit, tag or branch of a hub judge; default main (ours).
        judge_endpoint: Address of an OpenAI-compatible server that has the judge, up to /v1; default: an engine here.
        judge_concurrency: Requests to the endpoint at a time (ours).
        out: Directory to write.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    inputs = [answers, reference]
    manifests = [dataset.load_manifest(directory, "answers") for directory in inputs]
    codes = sorted({str(count.language) for manifest in manifests for count in manifest.counts if count.rows_out})
    policies = {side: m.models["policy"] for side, m in zip(SIDES, manifests, strict=True) if "policy" in m.models}
    warned, identity = differences(manifests), identify(judge, judge_revision, judge_endpoint)
    form = judges.FORMATS[config.judge_format]
    writer = Writer(
        out,
        "verdicts",
        stage="arena",
        version=VERSION,
        config=config,
        inputs=inputs,
        models={"judge": identity},
        store=store,
        also=[policies, warned, *(judges.about(config.judge_format, code) for code in codes)],
        neutral=["gpus"],
    )
    if writer.done:
        return writer.done
    for difference in warned:
        writer.warn(difference)
    (name, model), (other, compared) = load_side(answers), load_side(reference)
    tally, tokenizer = dataset.Tally("verdicts"), None
    if not judge_endpoint:
        tokenizer = chat.load_tokenizer(judge, identity.get("revision"))
        judges.check_template(tokenizer, config.judge_format)
        identity = identity | {"chat_template_sha256": chat.template_sha256(tokenizer)}

    def load() -> Judge:
        if judge_endpoint:
            template = form.template
            return endpoint.Endpoint(judge_endpoint, judge, template=template, concurrency=judge_concurrency)
        limit = config.max_model_len or form.max_model_len
        return engine.load_generator(judge, identity.get("revision"), max_model_len=limit, gpus=config.gpus)

    matches = join(model, compared, tally)
    counts, served = settle(matches, tokenizer, writer, load, config)
    for count in counts:
        tally.add(count)
    verdicts = written(writer)
    check_readable(verdicts, config.max_unreadable, out)
    if len(served) > 1:
        writer.warn(f"the judge's endpoint answered as {', '.join(served)}: the verdicts are of more than one judge")
    return writer.finish(
        tally.counts(),
        models={**policies, "judge": identity},
        metrics={
            "model": name,
            "reference": other,
            "judge": {
                "sampling": dataclasses.asdict(form.sampling),
                "template": dict(form.template),
                "served": served,
            },
            "in_language": in_language(matches, (model, compared)),
            "win_rates": winrate.win_rates(verdicts, config.repetitions, config.seed),
            "subcategories": winrate.by_subcategory(verdicts, config.repetitions, config.seed),
        },
    )


def identify(judge: str, revision: str | None, address: str | None) -> dict[str, Any]:
    """What a manifest says of the judge: of an endpoint's, the name and where it was asked, for nobody can say more.

    Raises: ValueError for a revision of an endpoint's model, or as endpoint.check.
    """
    if not address:
        return models.identity(judge, revision)
    if revision:
        raise ValueError(f"judge_revision: found {revision} with an endpoint; expected none; the server decides")
    return {"id": judge, "endpoint": endpoint.check(address)}
