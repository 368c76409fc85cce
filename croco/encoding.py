"""Encoding: pairs, SFT rows or prompts -> the token ids that the trainer reads.

Rows become ids by croco.chat, as they do where answers are sampled and scored. A row that cannot be trained on as it is
is dropped and counted, never cut.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from croco import chat, dataset, likeness, rows

if TYPE_CHECKING:
    from croco.train import TrainConfig

CONTRACT = {"dpo": "pairs", "sft": "sft", "online": "prompts"}
"""What each method trains on."""
COLUMNS = {
    "dpo": ["pair_id", "prompt_language", "prompt", "chosen", "rejected", "split"],
    "sft": ["prompt_id", "language", "prompt", "completion", "split"],
    "online": ["prompt_id", "language", "messages", "split"],
}
AS_SAMPLED = ("chosen_ids", "rejected_ids", "chosen_logprob", "rejected_logprob")
"""Columns of pairs that say what was sampled, and how likely it was."""
REFERENCE = {"ref_chosen_logps": "chosen_logprob", "ref_rejected_logps": "rejected_logprob"}
"""TRL's name of a reference log-probability -> the pair's column."""
UNIT = {"dpo": "pairs", "sft": "rows", "online": "prompts"}
"""What a row is called where rows are counted."""
IDS = pa.list_(pa.int32())
PROMPT = pa.struct([("messages", rows.MESSAGES), ("ids", IDS)])
"""Of a row that is still to be answered: the turns, which the reward model reads too, and their ids."""
TYPES = {"prompt": PROMPT, **dict.fromkeys(REFERENCE, pa.float32())}
"""Of the trainer's columns that are not IDS."""
PREFIX_LIMIT = 0.01
"""Above this share of rows whose prompt is not a prefix of their conversation, the template is at fault (ours)."""


def check(data: list[Path], method: str) -> None:
    """Raises: ValueError for a dataset of another contract than the method's."""
    for directory in data:
        if (found := dataset.load_manifest(directory).contract) != CONTRACT[method]:
            raise ValueError(
                f"{directory}: found a dataset of {found}; expected {CONTRACT[method]}, as method {method} needs"
            )


def check_policy(data: list[Path], base: Mapping[str, Any], off_policy: bool) -> None:
    """That answers to train on are the base model's own; data that do not say whose they are pass.

    Raises: ValueError for those of other weights, unless `off_policy`.
    """
    for directory in data:
        policy = dataset.load_manifest(directory).models.get("policy")
        if policy and not off_policy and likeness.weights(policy) != likeness.weights(base):
            raise ValueError(
                f"{directory}: found answers of {_named(policy)}; expected those of {_named(base)}, which is trained; "
                "sample from that model, or add --off-policy where another model's answers are meant"
            )


def _named(model: Mapping[str, Any]) -> str:
    return f"{model['id']} ({likeness.weights(model)})"


def read(data: list[Path], method: str, also: Sequence[str] = ()) -> pa.Table:
    """The rows of all datasets in the order of their keys. Raises: ValueError for an unknown split."""
    contract = CONTRACT[method]
    table = dataset.unique(dataset.read(data, contract, [*COLUMNS[method], *also]), contract)
    if unknown := set(pc.unique(table["split"]).to_pylist()) - {"train", "eval"}:
        raise ValueError(f"{contract}.split: found {sorted(unknown)}; expected train or eval")
    return table.sort_by([(name, "ascending") for name in rows.CONTRACTS[contract].key])


def encode(
    data: Iterable[Mapping[str, Any]], tokenizer: Any, method: str, max_length: int, tally: dataset.Tally
) -> Iterator[dict[str, Any]]:
    """Token ids of each row that can be trained on, as TRL takes them; the others are counted by reason.

    Pairs give prompt_ids, chosen_ids, rejected_ids; SFT rows give input_ids and labels, -100 on the prompt; prompts
    give themselves, as PROMPT. Pairs with the columns AS_SAMPLED give REFERENCE too: where both answers are as they
    were sampled, their ids are those, whatever the template makes of the text; elsewhere log-probabilities are nan,
    still to be computed.
    """
    if method == "online":
        yield from _prompts(data, tokenizer, max_length, tally)
        return
    for row in data:
        language = row["prompt_language" if method == "dpo" else "language"]
        answers = [row["chosen"], row["rejected"]] if method == "dpo" else [row["completion"]]
        tally.take(language)
        if chat.special_token_in(tokenizer, row["prompt"], *answers):
            tally.drop(language, "special_token")
            continue
        ids, reference = _completed(row, answers, tokenizer)
        if ids is None:
            tally.drop(language, "prompt_not_prefix")
        elif len(ids[0]) + max(map(len, ids[1:])) > max_length:
            tally.drop(language, "over_long")
        else:
            tally.keep(language)
            if method == "dpo":
                yield dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), ids, strict=True)) | reference
            else:
                prompt, completion = ids
                yield {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def _completed(
    row: Mapping[str, Any], answers: list[str], tokenizer: Any
) -> tuple[tuple[list[int], ...] | None, dict[str, float]]:
    """(ids of prompt and completions as chat.completion_ids has them, or as they were sampled; REFERENCE)."""
    if all(row.get(name) is not None for name in AS_SAMPLED):
        ids = chat.prompt_ids(tokenizer, row["prompt"]), row["chosen_ids"], row["rejected_ids"]
        return ids, {name: row[of] for name, of in REFERENCE.items()}
    unknown = dict.fromkeys(REFERENCE, math.nan) if AS_SAMPLED[0] in row else {}
    return chat.completion_ids(tokenizer, row["prompt"], *answers), unknown


def _prompts(
    data: Iterable[Mapping[str, Any]], tokenizer: Any, max_length: int, tally: dataset.Tally
) -> Iterator[dict[str, Any]]:
    for row in data:
        language, messages = row["language"], row["messages"]
        tally.take(language)
        if row["split"] == "eval":
            tally.drop(language, "held_out")  # there are no answers to evaluate on
        elif chat.special_token_in(tokenizer, messages):
            tally.drop(language, "special_token")
        elif len(ids := chat.prompt_ids(tokenizer, messages)) > max_length:
            tally.drop(language, "over_long")
        else:
            tally.keep(language)
            yield {"prompt": {"messages": messages, "ids": ids}}


def write(path: Path, encoded: Iterator[dict[str, Any]]) -> int:
    """Write rows of ids as an Arrow stream, a thousand at a time, if there are any; how many."""
    number = 0
    writer: pa.RecordBatchStreamWriter | None = None
    while chunk := list(itertools.islice(encoded, 1000)):
        schema = pa.schema([(name, TYPES.get(name, IDS)) for name in chunk[0]])
        writer = writer or pa.ipc.new_stream(path, schema)
        writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema=schema))
        number += len(chunk)
    if writer:
        writer.close()
    return number


def tokens_in(path: Path) -> int:
    """Tokens that one pass over the rows of `path` reads; a pair's prompt is read twice, one to be answered once."""
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    if "prompt" in table.column_names:
        return int(pc.sum(pc.list_value_length(pc.struct_field(table["prompt"], "ids"))).as_py())
    columns = [name for name in table.column_names if name not in REFERENCE]
    length = {name: pc.sum(pc.list_value_length(table[name])).as_py() for name in columns}
    return length["input_ids"] if "labels" in length else sum(length.values()) + length["prompt_ids"]


def as_sampled(path: Path) -> int:
    """How many pairs of `path` have the log-probabilities that they were sampled with."""
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    known = [pc.is_finite(table[name]) for name in REFERENCE]
    return int(pc.sum(pc.and_(*known)).as_py())


def write_splits(
    data: list[Path], tokenizer: Any, method: str, max_length: int, work: Path, also: Sequence[str] = ()
) -> tuple[list[dataset.Count], dict[str, int]]:
    """Write `work`/train.arrow and, where there are any rows for it, eval.arrow; counts, and rows written by split.

    Raises: ValueError if nothing is left to train on, or too many prompts are no prefix of their conversation.
    """
    from tqdm import tqdm

    table = read(data, method, also)
    counts: list[dataset.Count] = []
    numbers: dict[str, int] = {}
    for split in ("train", "eval"):
        tally = dataset.Tally(f"{split} {UNIT[method]}")
        part = table.filter(pc.equal(table["split"], split))
        found = (row for batch in part.to_batches(max_chunksize=1000) for row in batch.to_pylist())
        bar = tqdm(found, desc=f"tokenising {tally.unit}", total=len(part))
        if number := write(work / f"{split}.arrow", encode(bar, tokenizer, method, max_length, tally)):
            numbers[split] = number
        counts += tally.counts()
    dropped = sum((Counter(count.dropped) for count in counts), Counter[str]())
    if dropped["prompt_not_prefix"] > PREFIX_LIMIT * len(table):
        raise ValueError(
            f"chat template: found {dropped['prompt_not_prefix']} of {len(table)} rows whose prompt is not a prefix of "
            f"the conversation; expected at most {PREFIX_LIMIT:.0%}; this template cannot be trained on"
        )
    if "train" not in numbers:
        raise ValueError(
            f"train: found no row of split train to train on; expected at least one; dropped: {dict(dropped)}"
        )
    return counts, numbers


def accumulation(config: "TrainConfig", processes: int) -> int:
    """Micro-batches a process accumulates before an optimizer step. Raises: ValueError if that is no whole number."""
    at_once = config.micro_batch * processes
    if config.global_batch % at_once:
        raise ValueError(
            f"global_batch: found {config.global_batch}; expected a multiple of {at_once} "
            f"(micro_batch {config.micro_batch} x {processes} processes)"
        )
    return config.global_batch // at_once


def repeated(number: int, config: "TrainConfig", processes: int) -> int:
    """How many of `number` rows are trained on twice an epoch, so that several processes have as many each."""
    return -number % (config.micro_batch * processes) if processes > 1 else 0
