"""Rate: a model's arena answers -> one reward each from the reward model.

    python -m croco rate --answers DIR --model ID_OR_FOLDER --out DIR

What `score` gives of training samples, of answers to questions nobody trained on: held against the judge's verdicts,
it tells whether a policy learned what the judge likes or only what the reward model likes. Answers are scored as
croco/score.py scores samples, parity check and all; a question's id is the prompt's, its one answer is sample 0.
"""

from pathlib import Path

import pyarrow as pa

from croco import dataset, models, score
from croco.conversations import Answers, Shard
from croco.matches import load_side
from croco.shards import split
from croco.writer import Writer

VERSION = 1
RateConfig = score.ScoreConfig
"""Settings of `rate`, those of `score`."""


class Rated(Answers):
    """One model's answers to questions, a shard at a time; all of them in memory."""

    def __init__(self, answers: Path, shard_prompts: int) -> None:
        """Raises: ValueError if a question is answered twice, or by more than one model."""
        _, side = load_side(answers)
        self.asked = list(side.values())
        self.number, self.without = len(self.asked), 0
        table = pa.table({name: [row[name] for row in self.asked] for name in ("language", "question_id")})
        self.parts = split(table, shard_prompts, key="question_id")

    def shard(self, number: int) -> Shard:
        language, places = self.parts[number]
        asked = sorted((self.asked[place] for place in places), key=lambda row: row["question_id"])
        messages = {(language, row["question_id"]): [{"role": "user", "content": row["prompt"]}] for row in asked}
        rows = [
            {"prompt_id": row["question_id"], "language": language, "sample_index": 0, "text": row["output"]}
            for row in asked
        ]
        return Shard(language, messages, rows)


def run(
    *,
    answers: Path,
    model: str,
    revision: str | None = None,
    out: Path,
    store: str | None = None,
    config: RateConfig = RateConfig(),
) -> dataset.Manifest:
    """Score every answer by the reward model, a shard at a time.

    Args:
        answers: Dataset of one model's answers.
        model: The reward model: a hub id or a local folder.
        revision: Commit, tag or branch of a hub id; default main (ours).
        out: Directory to write the scores to.
        store: Where finished work is kept and looked for: s3://bucket/prefix or a folder.
    """
    dataset.load_manifest(answers, "answers")
    writer = Writer(
        out,
        "scores",
        stage="rate",
        version=VERSION,
        config=config,
        inputs=[answers],
        models={"reward": models.identity(model, revision)},
        store=store,
        neutral=["gpus"],
    )
    if writer.done:
        return writer.done
    return score.by_model(writer, lambda: Rated(answers, config.shard_prompts), model, config)
