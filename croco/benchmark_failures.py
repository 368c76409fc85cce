"""Benchmark failures: what is known to go wrong with EuroEval and its downloads, and what to do about each."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from croco.suites import SUITES


@dataclass(frozen=True)
class Failure:
    """A kind of failure."""

    reason: str
    """What it is counted as."""
    pattern: str
    """Found in the message of the exception."""
    remedy: str


FAILURES = (
    Failure(
        "not_on_the_hub",
        r"doesn't exist on the Hub|Repository ?Not ?Found|RevisionNotFound|(?<!Local)EntryNotFound",
        "look whether the hub still has it (a private one takes a token in HF_TOKEN), or leave it out (--names)",
    ),
    Failure(
        "gated",
        r"(?i)gated|awaiting a review from the repo|\b40[13] (client error|forbidden|unauthorized)",
        "ask for access on its page on the hub, and set HF_TOKEN to a token that may read it",
    ),
    Failure(
        "not_in_cache",
        r"OfflineModeIsEnabled|(?i:offline mode|outgoing traffic has been disabled)",
        "this run has no network: fetch it first with `python -m croco fetch`, and hand its output on as --cache",
    ),
    Failure(
        "hub_out_of_reach",
        r"(?i)ConnectError|ConnectionError|LocalEntryNotFound|connection (error|refused|reset)|Couldn't reach|"
        r"timed? ?out|name or service not known|name resolution|max retries|hub (is|seems to be) (currently )?down|"
        r"urlopen error",
        "look at the network (HF_ENDPOINT, proxies) and run it again, which goes on where this ended; without one, "
        "evaluate with --cache and what `python -m croco fetch` wrote elsewhere",
    ),
    Failure(
        "data_not_loaded",
        r"Failed to load dataset",
        "EuroEval does not say why: `python -m croco fetch` with the same --names does",
    ),
    Failure(
        "nvcc",
        r"\bnvcc\b|CUDA_HOME",
        "on GPUs FlashInfer compiles its kernels: put nvcc, of the CUDA toolkit that PyTorch was built for, on PATH",
    ),
    Failure(
        "flash_attn",
        r"flash_attn|flash-attn",
        "EuroEval ends at once where that package is installed: pip uninstall flash_attn, or use the euroeval image",
    ),
    Failure(
        "adapter",
        r"(?i)\badapters?\b",
        "evaluate the whole model, which `python -m croco train` writes to merged/",
    ),
    Failure(
        "out_of_memory",
        r"(?i)out of memory|free memory on device|no available memory for the cache|KV cache is needed|"
        r"DefaultCPUAllocator|exit status -9\b",
        "give it a GPU or a pod with more memory, or one that nothing else uses (preflight says what a model needs)",
    ),
    Failure(
        "engine",
        r"(?i)see (root cause|stack trace)|engine core initialization failed",
        "vLLM's own message is hidden unless FULL_LOG=1 is set; most often it is memory",
    ),
)
"""Looked through in order: the hub says of what it lacks that it may be gated, and a library that is offline that the
hub is out of reach."""


def find(message: str) -> Failure | None:
    """The kind of failure whose message this is, if it is a known one."""
    return next((failure for failure in FAILURES if re.search(failure.pattern, message)), None)


def reason(message: str) -> str:
    """What the failure is counted as."""
    failure = find(message)
    return failure.reason if failure else "failed"


def explain(message: str) -> str:
    """The message on one line, cut after 400 characters, with what to do, where that is known."""
    line = " ".join(message.split())
    line = f"{line[:400]}..." if len(line) > 400 else line
    failure = find(message)
    return f"{line.rstrip('.')}; {failure.remedy}" if failure else line


def not_in(euroeval: str | None, names: Collection[str]) -> str:
    """That this version of EuroEval lacks these data sets, and which has them."""
    text = f"EuroEval {euroeval} does not have {', '.join(names)}"
    newest = {name for lists in SUITES["official-17.7"].values() for name in lists}
    newest |= {name for lists in SUITES["paper"].values() for name in lists}
    if not {*names} <= newest or (euroeval or "").startswith("17.7"):
        return text
    return f"{text}; 17.7 does, which needs Python 3.12 and is in the euroeval image"
