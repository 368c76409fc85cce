"""Plan, as a component."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def plan(stage: str, languages: list[str], prompts: int, workers: int) -> list[dict[str, str]]:
    """The parts of a stage that a loop hands to its tasks: which languages, which group of their shards."""
    from croco.plan import work

    return work(stage, languages, prompts, workers)
