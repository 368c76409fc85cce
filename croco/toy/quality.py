"""How good each toy model is, measured with the oracle on nouns held out from the reward model and the judge."""

from __future__ import annotations

import random
from statistics import correlation, fmean
from typing import TYPE_CHECKING

from croco.toy.examples import Turn, draw_answers, draw_judgement, draw_translation
from croco.toy.models import generate, rewards
from croco.toy.world import DEV, LANGUAGES, NOUNS, VERDICT, draw_question, in_language, oracle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def measure_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, float]:
    """Return shares of sampled answers that are on topic and in the language asked in, and their mean oracle."""
    rng = random.Random(seed)
    asked = [(language, draw_question(rng, DEV)) for language in LANGUAGES for _ in range(50)]
    texts = [question.render(language) for language, question in asked]
    answers = generate(model, tokenizer, [Turn(text, "") for text in texts], temperature=0.7)
    rows = list(zip(asked, texts, answers, strict=True))
    return {
        "on_topic": fmean(NOUNS[question.noun][language] in answer for (language, question), _, answer in rows),
        "right_language": fmean(in_language(language, answer) for (language, _), _, answer in rows),
        "oracle": fmean(oracle(language, text, answer) for (language, _), text, answer in rows),
    }


def measure_reward(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, float]:
    """Return the correlation of reward and oracle, by language."""
    import torch

    rng, result = random.Random(seed), {}
    for language in LANGUAGES:
        questions = [draw_question(rng, DEV) for _ in range(200)]
        texts = [(q.render(language), draw_answers(rng, q.noun, language, flawed=0.35)[1]) for q in questions]
        with torch.no_grad():
            reward = rewards(model, tokenizer, texts).tolist()
        result[f"correlation_{language}"] = correlation(reward, [oracle(language, *text) for text in texts])
    return result


def measure_translator(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    sources: tuple[str, ...] = ("en",),
    targets: tuple[str, ...] = LANGUAGES,
) -> dict[str, float]:
    """Return the share of translations that are exact, for questions and for answers; by default from English."""
    rng = random.Random(seed)
    turns = [draw_translation(rng, sources, targets) for _ in range(200)]
    exact = [output == turn.assistant for output, turn in zip(generate(model, tokenizer, turns), turns, strict=True)]
    texts = [(turn.user, turn.assistant) for turn in turns]  # one of the two is English
    asks = [any(text.endswith("?") or "Tell me" in text for text in both) for both in texts]
    return {
        "exact_questions": fmean(hit for hit, ask in zip(exact, asks, strict=True) if ask),
        "exact_answers": fmean(hit for hit, ask in zip(exact, asks, strict=True) if not ask),
    }


def measure_judge(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, float]:
    """Return the share of right verdicts, and the share of prompts that call for the commonest one."""
    rng = random.Random(seed)
    turns = [draw_judgement(rng, DEV) for _ in range(200)]
    truth = [VERDICT.findall(turn.assistant)[-1] for turn in turns]
    given = [VERDICT.findall(reply)[-1:] for reply in generate(model, tokenizer, turns)]
    return {
        "accuracy": fmean(found == [right] for found, right in zip(given, truth, strict=True)),
        "majority": max(truth.count(verdict) for verdict in "ABC") / len(truth),
    }
