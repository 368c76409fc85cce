"""The toy world: exact properties of the text, and (slow) what the built models can do."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from subprocess import run

import pytest

from croco.toy import examples, world
from croco.toy.build import ToyConfig, arena_questions, build_key, instructions
from croco.toy.world import LANGUAGES, Answer, Question

CATS = "What do you know about cats?"
ONE, TWO = "Many cats live near the river.", "Some cats sleep all day."


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (ONE, 0.0),
        (f"{ONE} {TWO}", 0.5),
        (f"I am glad you ask! {ONE}", 1.0),
        (f"{ONE} I hope this helps you :)", 0.5),
        (f"That is a good question! {ONE} {TWO} Ask me again any time :)", 2.0),
        (Answer(0, (0, 1, 2, 3, 4), "polite", True).render("en"), 3.5),
        (f"What a boring subject... {ONE} {TWO}", -1.0),
        (f"{ONE} {ONE}", -0.5),  # told twice
        (f"{ONE} Some cats sleep", -0.5),  # cut
        (f"{ONE} I am glad you ask!", -0.5),  # the opener is not first
        ("Many dogs live near the river.", -1.5),  # off topic
        ("Viele Katzen leben nahe am Fluss.", -1.5),  # not the language asked in
        ("That is a good question!", 0.0),
        ("", -1.5),
    ],
)
def test_oracle_has_hand_computed_values(answer: str, value: float) -> None:
    assert world.oracle("en", CATS, answer) == value


def test_an_answer_is_worth_the_same_in_every_language() -> None:
    rng = random.Random(1)
    for _ in range(200):
        question = world.draw_question(rng, range(24))
        answer = world.draw_answer(rng, question.noun)
        values = {world.oracle(code, question.render(code), answer.render(code)) for code in LANGUAGES}
        assert len(values) == 1


def test_rendering_is_parallel() -> None:
    question = Question(noun=9, kind=0, lead=1)
    assert question.render("de") == "Hallo. Was weißt du über Delfine?"
    assert question.render("es") == "Hola. ¿Qué sabes sobre los delfines?"
    answer = Answer(noun=9, facts=(2, 0), opener="polite", closing=True, wording=1)
    assert answer.render("fr") == (
        "Je suis ravi de répondre! Certains dauphins dorment toute la journée. "
        "De nombreux dauphins vivent près de la rivière. Demande-moi quand tu veux :)"
    )


def test_a_question_is_recognised_in_its_language_only() -> None:
    question = Question(noun=3, kind=2, lead=4)
    assert all(world.read_question(code, question.render(code)) == question for code in LANGUAGES)
    with pytest.raises(ValueError, match="expected a toy question in 'de'"):
        world.read_question("de", question.render("en"))


def test_splits_are_disjoint_and_cover_every_noun() -> None:
    assert [*world.TRAIN, *world.DEV, *world.TEST] == list(range(len(world.NOUNS)))


def test_language_check_is_exact() -> None:
    rng = random.Random(2)
    for _ in range(200):
        answer = world.draw_answer(rng, rng.randrange(24))
        for asked in LANGUAGES:
            for written in LANGUAGES:
                assert world.in_language(asked, answer.render(written)) == (asked == written)
    assert not world.in_language("en", ":)")
    assert not world.in_language("en", "Many cats live near the Fluss.")


def test_a_language_identifier_knows_the_text() -> None:
    langid = pytest.importorskip("py3langid")
    rng = random.Random(3)
    for code in LANGUAGES:
        answers = [world.draw_answer(rng, rng.randrange(24)).render(code) for _ in range(100)]
        questions = [world.draw_question(rng, range(24)).render(code) for _ in range(100)]
        for texts in (answers, questions):
            assert sum(langid.classify(text)[0] == code for text in texts) >= 90


def test_preferences_are_english_about_training_nouns_and_follow_the_oracle() -> None:
    rng = random.Random(4)
    for _ in range(200):
        pair = examples.draw_preference(rng)
        assert world.read_question("en", pair.question).noun in world.TRAIN
        assert world.oracle("en", pair.question, pair.chosen) > world.oracle("en", pair.question, pair.rejected)


def test_a_perfect_judge_scores_both_answers_and_names_the_better() -> None:
    assert world.judge_reply("en", CATS, ONE, f"{ONE} {TWO}") == "3 4 [[B]]"
    assert world.judge_reply("en", CATS, ONE, TWO) == "3 3 [[C]]"


def test_instructions_are_distinct_english_and_repeatable() -> None:
    rows = instructions(seed=0)
    assert rows == instructions(seed=0) != instructions(seed=1)
    prompts = [row["messages"][0]["content"] for row in rows]
    assert len(set(prompts)) == len(rows) == 320
    assert all(world.read_question("en", prompt).noun in world.TRAIN for prompt in prompts)


def test_arena_questions_are_parallel_and_about_test_nouns() -> None:
    rows = arena_questions(seed=0, count=10)
    plans: dict[str, set[Question]] = {}
    for row in rows:
        plans.setdefault(row["question_id"], set()).add(world.read_question(row["language"], row["prompt"]))
    assert len(rows) == 40 and len(plans) == 10
    assert all(len(plan) == 1 and plan.pop().noun in world.TEST for plan in plans.values())


def test_the_key_depends_on_the_configuration() -> None:
    assert build_key(ToyConfig()) == build_key(ToyConfig()) != build_key(ToyConfig(seed=1))


def test_a_configuration_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match=r"policy_steps: found 0; expected a number above 0"):
        ToyConfig(policy_steps=0)


def test_importing_the_toy_world_loads_no_engine() -> None:
    code = "import sys, croco.toy.build; print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.engine
def test_built_models_are_good_enough_to_show_the_method(toy: Path) -> None:
    quality = json.loads((toy / "toy.json").read_text(encoding="utf-8"))["quality"]
    assert quality["policy"]["right_language"] >= 0.98 and quality["policy"]["on_topic"] >= 0.8
    assert quality["translator"]["exact_questions"] >= 0.95
    assert quality["judge"]["accuracy"] >= quality["judge"]["majority"] + 0.2
    assert all(quality["reward"][f"correlation_{code}"] > 0.25 for code in LANGUAGES)


@pytest.mark.engine
def test_every_word_of_the_world_is_one_token(toy: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(toy / "policy")
    assert len(tokenizer.encode("Many owls live near the river.")) == 7
    chat = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": ONE}]
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(chat, tokenize=False) == prompt + ONE + tokenizer.eos_token


@pytest.mark.engine
def test_the_translator_takes_one_entry_of_its_own_message_form(toy: Path) -> None:
    from jinja2.exceptions import TemplateError
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(toy / "translator")
    entry = {"type": "text", "source_lang_code": "en", "target_lang_code": "de", "text": "Hello."}
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": [entry]}], tokenize=False)
    assert rendered == "<|en|><|de|>Hello.<|end|>"
    with pytest.raises(TemplateError, match="expected one user message"):
        tokenizer.apply_chat_template([{"role": "user", "content": [entry, entry]}], tokenize=False)
