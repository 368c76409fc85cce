"""The command line: `python -m croco <stage> --help`. Flags are generated from each stage's `run` and its config."""

import importlib
import os
import subprocess
import sys
import warnings

STAGES = {
    "prepare": "hub data set or local file -> English prompts",
    "translate": "English prompts -> prompts in other languages",
    "sample": "prompts -> n answers each from the policy",
    "score": "answers -> rewards",
    "align": "answers -> how well a translation model maps them to the English ones (MAPO)",
    "implicit": "answers -> the implicit reward of a tuned model (ICR)",
    "pair": "rewards -> chosen and rejected",
    "select": "prompts -> SFT rows: the data set's answers, or the best of n",
    "train": "pairs, SFT rows or prompts -> LoRA adapter and merged model",
    "fetch": "EuroEval's data sets -> a folder, for evaluations without a network",
    "benchmark": "a model -> EuroEval scores",
    "answer": "a model -> its answers to m-ArenaHard",
    "arena": "two models' answers -> verdicts and win rates",
    "promote": "evaluations of base and tuned -> whether the tuned model may take the base's place",
    "publish": "a promoted model -> the store, under a name that stays, and the hub",
    "recall": "the model promoted last -> a folder to start from",
    "rate": "a model's arena answers -> rewards",
    "tally": "what was measured of one arm's run -> outcomes, a row a value",
    "study": "outcomes of many arms -> what each gained and lost, as one page",
    "report": "everything above -> one HTML page",
    "track": "finished outputs -> MLflow, TensorBoard",
    "import-scores": "scored JSONL of the paper's released code -> prompts, samples, scores",
    "store": "what a store holds: list it, verify it, remove what is no longer used",
    "show": "print any output's manifest and first rows",
    "toy": "train the toy world: four small models and their data",
}
MODULES = {"import-scores": "croco.import_scores", "store": "croco.storage", "toy": "croco.toy.build"}


def main(arguments: list[str]) -> int:
    """Run one stage; the exit status. A mistake in the input is one line on standard error, not a traceback,
    unless CROCO_TRACEBACK is set.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m croco STAGE [flags]      python -m croco STAGE --help\n")
        print("\n".join(f"  {name:14}{what}" for name, what in STAGES.items()))
        return 0
    stage, *flags = arguments
    if stage not in STAGES:
        print(f"croco: found stage {stage!r}; expected one of {', '.join(STAGES)}", file=sys.stderr)
        return 2
    run = importlib.import_module(MODULES.get(stage, f"croco.{stage}")).run
    import tyro

    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries to their developers
    warnings.showwarning = lambda message, *_: print(f"croco {stage}: warning: {message}", file=sys.stderr)
    try:
        tyro.cli(run, prog=f"python -m croco {stage}", args=flags, config=(tyro.conf.OmitArgPrefixes,))
    except (ValueError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        if os.environ.get("CROCO_TRACEBACK"):
            raise
        print(f"croco {stage}: {str(error).removeprefix(f'{stage}: ') or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
