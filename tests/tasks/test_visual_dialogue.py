"""Visual dialogue: scenes, answers, the guesser, the three rewards, players, recorded dialogues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from text_envs import DatasetError, Role, TokenEnv, TokenVectorEnv
from text_envs.tasks.visual_dialogue.language import penalties
from text_envs.tasks.visual_dialogue.task import SPLITS, VisualDialogue


@pytest.fixture(scope="module")
def task() -> VisualDialogue:
    return VisualDialogue(split="test")


def ask(env: TokenEnv, question: str) -> tuple[float, bool, dict[str, Any]]:
    """Write a question and the end token; return what the last token brought."""
    tokenizer = env.tokenizer
    for token in tokenizer.encode(question):
        assert env.step(token)[1] == 0
    _, reward, terminated, _, info = env.step(tokenizer.eos_id)
    return float(reward), terminated, info


def replies(env: TokenEnv) -> str:
    row = env.engine.tokens[0]
    return env.tokenizer.decode(row[env.engine.roles(np.array([0]))[0] == Role.REPLY])


def slow_answer(scene: Any, question: str) -> str:
    """The answerer written out: what a person who sees the scene would say."""
    words = question.split()
    things = {thing["kind"]: thing for thing in scene["things"]}
    kinds = {**things, **{k + s: t for k, t in things.items() for s in ("s", "es")}}
    named = [word for word in words if word in kinds]
    if words[:3] == ["is", "there", "a"]:
        return "yes" if named else "no"
    if words[:2] == ["how", "many"]:
        return ["none", "one", "two", "three"][kinds[named[0]]["number"] if named else 0]
    if not named:
        return f"there is no {words[2] if words[1] == 'the' else words[-1]}"
    thing = kinds[named[0]]
    if words[0] == "is":
        return "yes" if thing["colour"] == words[-1] else "no"
    return str(thing[{"what": "colour", "how": "size", "where": "side"}[words[0]]])


def test_every_answer_is_true(task: VisualDialogue) -> None:
    world = task.world
    rng = np.random.default_rng(0)
    for index in rng.integers(len(task), size=20).tolist():
        scene = task.example(index).metadata["scene"]
        for number, question in enumerate(world.questions):
            told = world.answer(np.array([index]), np.array([number]))[0]
            assert world.answers[told] == slow_answer(scene, question), (question, scene)


def test_captions_tell_all_but_one_thing_and_scenes_differ(task: VisualDialogue) -> None:
    scenes = [task.example(index).metadata["scene"] for index in range(128)]
    assert len({json.dumps(scene) for scene in scenes}) == 128
    caption = task.example(0).prompt
    for scene in scenes:
        assert len({thing["kind"] for thing in scene["things"]}) == 3
        assert scene["place"] in caption
        for thing in scene["things"][:2]:
            assert f"{thing['colour']} {thing['kind']}" in caption and thing["side"] in caption
        assert scene["things"][2]["kind"] not in caption


def test_splits_share_no_caption() -> None:
    captions = {
        split: [context.prompt for context in VisualDialogue(split=split).world.contexts]
        for split in SPLITS
    }
    assert [len(captions[split]) for split in SPLITS] == [256, 32, 32]
    together = sum(captions.values(), [])
    assert len(set(together)) == len(together)
    again = VisualDialogue(split="test", untold=2).world.contexts
    assert len({context.prompt for context in again} & set(captions["train"])) == 0


def test_a_search(task: VisualDialogue) -> None:
    env = TokenEnv(task)
    env.reset(seed=0, options={"index": 77})
    hidden = task.example(77).metadata["scene"]["things"][2]
    told = task.example(77).metadata["scene"]["things"][0]
    assert ask(env, f"what colour is the {told['kind']}")[:2] == (-1.0, False)
    assert task.ranks(env.engine.memory["contradicted"], np.array([77])).tolist() == [0.5]
    reward, terminated, info = ask(env, f"where is the {hidden['kind']}?")
    assert (reward, terminated, info["finish_reason"]) == (0.0, True, "found")
    assert info["text"].endswith(f"{told['colour']}. where is the {hidden['kind']}?")


def test_ten_questions_at_most(task: VisualDialogue) -> None:
    env = TokenEnv(task)
    env.reset(seed=0, options={"index": 5})
    kind = task.example(5).metadata["scene"]["things"][0]["kind"]
    earned = [ask(env, f"is there a {kind} ?")[:2] for _ in range(10)]
    assert earned == [(-1.0, False)] * 9 + [(-1.0, True)]
    assert replies(env) == " ".join(["yes."] * 9)


@pytest.mark.parametrize(
    "words", ["", "?", "is there", "is there a dog dog", "yes", "? is there a"]
)
def test_what_is_no_question(task: VisualDialogue, words: str) -> None:
    env = TokenEnv(task)
    env.reset(seed=0, options={"index": 5})
    assert ask(env, words)[:2] == (-1.0, False) and replies(env) == "pardon."
    assert not env.engine.memory["contradicted"].any()


def test_an_endless_question_ends_itself(task: VisualDialogue) -> None:
    env = TokenEnv(task)
    env.reset(seed=0)
    rewards = [env.step(0)[1] for _ in range(70)]
    assert rewards == ([0.0] * 6 + [-1.0]) * 10 and not env.engine.running[0]


def test_percentile_rank_by_hand(task: VisualDialogue) -> None:
    contradicted = np.zeros((2, 128), dtype=np.uint8)
    contradicted[:, 1:] = 1
    contradicted[1, 1:5] = 0
    ranks = task.ranks(contradicted, np.array([0, 2]))
    assert ranks.tolist() == [1.0, (123 + 4 / 2) / 127]
    assert task.ranks(contradicted, np.array([9, 9])).tolist() == [126 / 2 / 127, 122 / 2 / 127]


def test_rewards_of_idle_answers() -> None:
    answers = ["yes", "Yes.", "no", "no, there is not", "there is no dog", "it looks red", "red"]
    answers += ["can't tell", "none", "three"]
    assert penalties(answers, "standard").tolist() == [0] * 10
    assert penalties(answers, "yes_no").tolist() == [2, 2, 2] + [0] * 7
    assert penalties(answers, "conservative").tolist() == [2] * 6 + [0, 2, 0, 0]


@pytest.mark.parametrize(
    ("kind", "polar", "colour", "many"),
    [("standard", 0, 0, 0), ("yes_no", -2, 0, 0), ("conservative", -2, -2, 0)],
)
def test_reward_kinds(kind: str, polar: float, colour: float, many: float) -> None:
    env = TokenEnv(VisualDialogue(split="test", reward_kind=kind))
    env.reset(seed=0, options={"index": 40})
    present = {thing["kind"] for thing in env.task.example(40).metadata["scene"]["things"]}
    absent = next(kind for kind in ("boat", "cup", "car", "horse") if kind not in present)
    assert ask(env, f"is there a {absent}")[0] == -1 + polar
    assert ask(env, f"what colour is the {absent}")[0] == -1 + colour
    assert ask(env, f"how many {absent}s are there")[0] == -1 + many
    hidden = env.task.example(40).metadata["scene"]["things"][2]["kind"]
    reward, terminated, _ = ask(env, f"is there a {hidden}")
    assert terminated and reward == polar  # the last question pays for its answer too


@pytest.mark.parametrize("kind", ["standard", "yes_no", "conservative"])
def test_players_in_order_of_strength(kind: str) -> None:
    task = VisualDialogue(reward_kind=kind)
    means = {q: task.demonstrations(256, quality=q).returns.mean() for q in task.qualities}
    assert means["expert"] > -2.3 and means["random"] == -10
    assert max(means["any"], means["polar"]) < means["mixed"] < means["expert"]
    assert means["any"] < -6 and means["polar"] < -5.5


def test_the_expert_asks_the_most_telling_question(task: VisualDialogue) -> None:
    world, index = task.world, 300
    fitting = np.random.default_rng(1).random(128) < 0.4
    chosen = world.expert(index, fitting, 0, np.zeros(len(world.answers)))
    gains = []
    for question in range(len(world.questions)):
        block = 128 * (index // 128) + np.flatnonzero(fitting)
        told = world.answer(block, np.full(len(block), question))
        shares = np.unique(told, return_counts=True)[1] / len(block)
        gains.append(-(shares * np.log(shares)).sum())
    assert gains[chosen] == pytest.approx(max(gains))


def test_the_expert_never_sees_which_scene_is_hidden(task: VisualDialogue) -> None:
    games = task.demonstrations(200, quality="expert")
    first = {}
    for index, row in zip(games.example_indices.tolist(), games.tokens, strict=True):
        caption, line = index // 128, row[20 : 20 + 7].tolist()
        assert first.setdefault(caption, line) == line


def test_an_answerer_of_your_own(task: VisualDialogue) -> None:
    heard: list[tuple[str, str]] = []

    def shrug(questions: Any, examples: Any) -> list[str]:
        heard.extend(zip(questions, (e.metadata["scene"]["place"] for e in examples), strict=True))
        return ["I think yes, perhaps there is a dog" for _ in questions]

    env = TokenEnv(VisualDialogue(split="test", answerer=shrug, reward_kind="conservative"))
    env.reset(seed=0, options={"index": 9})
    assert ask(env, "is there a dog?")[0] == -3
    assert heard == [("is there a dog", task.example(9).metadata["scene"]["place"])]
    assert not env.engine.memory["contradicted"].any()
    assert ask(env, "dog dog")[0] == -1 and len(heard) == 1  # no question, nobody is asked
    assert replies(env) == "<unk> <unk> yes,. pardon."  # cut to max_reply_tokens

    def exact(questions: Any, examples: Any) -> list[str]:
        return [
            slow_answer(e.metadata["scene"], q).title()
            for q, e in zip(questions, examples, strict=True)
        ]

    one = VisualDialogue(split="test", answerer=exact).demonstrations(50, quality="mixed")
    other = task.demonstrations(50, quality="mixed")
    assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.rewards, other.rewards)


def test_a_lying_answerer_misleads_the_guesser() -> None:
    def liar(questions: Any, examples: Any) -> list[str]:
        return ["yes"] * len(questions)

    env = TokenEnv(VisualDialogue(split="test", answerer=liar))
    env.reset(seed=0, options={"index": 40})
    env.engine.task.answerer = liar
    present = {thing["kind"] for thing in env.task.example(40).metadata["scene"]["things"]}
    ask(env, "is there a boat" if "boat" not in present else "is there a cup")
    assert env.task.ranks(env.engine.memory["contradicted"], np.array([40]))[0] < 0.5


def test_answerers_that_do_not_answer() -> None:
    for wrong in ([], [3]):
        env = TokenEnv(VisualDialogue(split="test", answerer=lambda q, e, wrong=wrong: wrong))
        env.reset(seed=0)
        with pytest.raises(TypeError, match="answerer must return 1 texts for 1 questions"):
            ask(env, "is there a dog")


def test_rows_are_answered_together() -> None:
    task = VisualDialogue(split="test")
    env = TokenVectorEnv(task, num_envs=64, autoreset_mode="SAME_STEP")
    env.reset(seed=0, options={"index": np.arange(64)})
    for token in task.tokenizer.encode("how many dogs are there"):
        env.step(np.full(64, token))
    env.step(np.full(64, task.tokenizer.eos_id))
    dogs = [
        [t["number"] for t in task.example(i).metadata["scene"]["things"] if t["kind"] == "dog"]
        for i in range(64)
    ]
    names = ["none", "one", "two", "three"]
    for row in range(64):
        if env.engine.memory["asked"][row] == 1:  # the search goes on
            said = env.engine.tokens[row, 26]
            assert task.tokenizer.decode([said]) == names[sum(dogs[row])]


# -- recorded dialogues ------------------------------------------------------------------------

QUESTIONS = ["is it sunny", "what colour is the kite", "how many people", "can you see a dog"]
ANSWERS = ["yes", "no", "red", "blue and white", "2 people", "i can't tell"]


def visdial(turns: list[list[tuple[int, int]]]) -> dict[str, Any]:
    dialogs = [
        {
            "image_id": 100 + number,
            "caption": f"a kite flies over beach {number}",
            "dialog": [
                {"question": q, "answer": a, "gt_index": 0, "answer_options": [a, 5]}
                for q, a in dialog
            ],
        }
        for number, dialog in enumerate(turns)
    ]
    data = {"questions": QUESTIONS, "answers": ANSWERS, "dialogs": dialogs}
    return {"version": "1.0", "split": "train", "data": data}


RECORDED = visdial([[(0, 0), (1, 2)], [(0, 1), (1, 3)], [(0, 0), (2, 4)], [(3, 5)]])


def save(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_visdial_file(tmp_path: Path) -> None:
    file = save(tmp_path / "visdial_1.0_train.json", RECORDED)
    task = VisualDialogue(dataset=str(file))
    assert len(task) == 4 and task.world.candidates == 4
    example = task.example(0)
    assert example.prompt == "a kite flies over beach 0"
    assert example.references == ("is it sunny ? yes . what colour is the kite ? red .",)
    assert example.metadata["image_id"] == 100
    env = TokenEnv(task)
    env.reset(seed=0, options={"index": 0})
    assert ask(env, "how many people?")[0] == -1 and replies(env) == "i can not tell."
    assert ask(env, "is it sunny")[0] == -1  # one of three others was recorded with "no"
    ranks = task.ranks(env.engine.memory["contradicted"], np.array([0]))
    assert ranks.tolist() == [(1 + 2 / 2) / 3]
    env.step(0)
    assert task.demonstrations(4).tokens.shape[1] == task.prompt_length + task.max_tokens
    for quality in ("any", "polar", "mixed", "random"):
        assert len(task.demonstrations(8, quality=quality)) == 8


def test_pools_of_neighbours(tmp_path: Path) -> None:
    file = save(tmp_path / "visdial.json", RECORDED)
    world = VisualDialogue(dataset=file, candidates=3).world
    assert world.place(np.arange(4)).tolist() == [0, 1, 2, 2]
    # Dialogue 3 is in the pool of 1, 2, 3; question 0 was answered "no", "yes" and never.
    hits = world.contradictions(np.array([3]), np.array([0]), np.array([0]))
    assert hits.tolist() == [[True, False, False]]


def test_captions_and_pairs_from_elsewhere(tmp_path: Path) -> None:
    import datasets

    rows = [
        {"caption": "a dog runs", "dialog": [["is it big", "yes"], ["what colour", "brown"]]},
        {"caption": "a cat sleeps", "dialog": [["is it big", "no"]]},
    ]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    task = VisualDialogue(dataset=str(tmp_path / "saved"))
    assert task.world.questions == ["is it big", "what colour"]
    expert = VisualDialogue(dataset=rows).demonstrations(4)
    assert expert.returns.tolist() == [0] * 4 and set(expert.finish_reasons) == {"found"}


def broken(path: str, value: Any) -> dict[str, Any]:
    content = json.loads(json.dumps(RECORDED))
    *keys, last = path.split(".")
    at = content
    for key in keys:
        at = at[int(key) if key.isdigit() else key]
    at[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dialogs": []}, r"v\.json\.data: expected dict, got nothing"),
        ([], r"v\.json: expected an object, got list"),
        (broken("data.answers", 3), r"data\.answers: expected list, got 3"),
        (broken("data.dialogs.1.caption", None), r"dialogs\[1\]\.caption: expected str, got None"),
        (
            broken("data.dialogs.0.dialog.1.question", 9),
            r"data\.dialogs\[0\]\.dialog\[1\]\.question: 9 is not an entry; accepted: 0..3",
        ),
        (broken("data.dialogs.0.dialog.0.answer", "yes"), r"answer: expected int, got 'yes'"),
        (broken("data.dialogs", RECORDED["data"]["dialogs"][:1]), "two dialogues or more, got 1"),
    ],
)
def test_malformed_visdial_files(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        VisualDialogue(dataset=save(tmp_path / "v.json", content))


def test_other_data_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text('{"data": \n]', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"v\.json, line 2: not JSON"):
        VisualDialogue(dataset=tmp_path / "v.json")
    with pytest.raises(DatasetError, match=r"list, item 1: field 'dialog': expected a list"):
        VisualDialogue(dataset=[{"caption": "a dog"}, {"caption": "a cat"}])
    with pytest.raises(DatasetError, match=r"dialog'\[0\]: expected two texts"):
        VisualDialogue(dataset=[{"caption": "a dog", "dialog": [["is it big", 3]]}])
    unanswered = {"caption": "a dog", "dialog": [{"question": "is it big"}]}
    with pytest.raises(DatasetError, match="no question was asked"):
        VisualDialogue(dataset=[unanswered, unanswered])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "dev"}, "unknown split 'dev'"),
        ({"reward_kind": "yesno"}, "unknown reward_kind 'yesno'.*Did you mean 'yes_no'"),
        ({"candidates": 1}, "candidates must be an integer from 2 to 512, got 1"),
        ({"untold": 0}, "untold must be an integer from 1 to 3"),
        ({"rounds": 0}, "rounds must be an integer from 1 to 200"),
        ({"goal": 0}, "goal must lie above 0"),
        ({"max_turn_tokens": 0}, "max_turn_tokens must be an integer of at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"prompt_length": 5}, "15 more than prompt_length=5"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisualDialogue(**{"split": "test", **kwargs})


def test_bad_answerer_and_tokenizer(bpe_tokenizer: Any) -> None:
    with pytest.raises(TypeError, match="answerer must be a callable, got str"):
        VisualDialogue(answerer="model")  # type: ignore[arg-type]
    from text_envs.tokenizers import CharTokenizer, HFTokenizer

    with pytest.raises(ValueError, match=r"can write none of the 176 questions"):
        VisualDialogue(tokenizer=CharTokenizer("ab"))
    task = VisualDialogue(split="test", tokenizer=HFTokenizer(bpe_tokenizer))
    assert task.demonstrations(20).returns.mean() > -3
