"""Demonstrations of calibrated rewards: where they come from, how they are shown and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration import END, TOY_TEXTS, A, Letters, episodes, reward_batch, table, write
from helpers import Echo

from text_envs import EpisodeBatch, RewardModelError, TokenEnv, TokenVectorEnv
from text_envs.datasets import save
from text_envs.rewards import Calibrated, Length
from text_envs.tasks.generation import Generation
from text_envs.tasks.toy import Toy


def test_every_form_of_demonstrations_means_the_same(tmp_path: Path) -> None:
    task = Letters()
    recorded = task.demonstrations(8, quality="random", seed=1, reward="length")
    by_index: dict[int, list[list[int]]] = {0: [], 1: []}
    for index, tokens, mask in zip(
        recorded.example_indices.tolist(), recorded.tokens, recorded.action_mask, strict=True
    ):
        by_index[index].append(tokens[mask].tolist())
    save(recorded, path := tmp_path / "recorded.npz")
    forms = (
        recorded,
        path,
        by_index,
        [by_index[0], by_index[1]],
        {"p": by_index[0], "q": by_index[1]},
    )
    batch = episodes(task, [0, 1], "a")
    expected = [recorded.returns[recorded.example_indices == i].mean() for i in (0, 1)]
    for form in forms:
        scored = Calibrated("length", form, choose="mean")(batch)
        assert scored.details["demo"].tolist() == pytest.approx(expected)
    texts = {0: "a b", 1: np.array([0, 0, 0])}
    assert Calibrated("length", texts)(batch).details["demo"].tolist() == [2.0, 3.0]


def test_demonstrations_follow_the_conventions_of_generations() -> None:
    """Cut at the limit, ended otherwise; unknown words are left out, as none can be written."""
    seen: list[EpisodeBatch] = []

    def spy(batch: EpisodeBatch) -> np.ndarray[Any, Any]:
        seen.append(batch)
        return Length()(batch)

    Calibrated(spy, {0: "a b a b a b", 1: "a sofa b"})(episodes(Letters(), [0, 1], "a"))
    _, demos, again = seen
    pad, bos, end = 5, 6, 4
    assert demos.tokens.tolist() == [[bos, 2, 0, 1, 0, 1], [bos, 3, 0, 1, end, pad]]
    assert demos.finish_reasons == ["length", "stop"]
    assert demos.roles.tolist() == [[1, 1, 3, 3, 3, 3], [1, 1, 3, 3, 3, 0]]
    assert demos.example_indices.tolist() == [0, 1] and again.tokens.tolist() == (
        demos.tokens[::-1].tolist()
    )
    ids = {0: [0, 1, end, 0], 1: [0, 1, 0, 1, 0]}  # what follows the end is not part of a text
    assert Calibrated("length", ids)(episodes(Letters(), [0, 1], "a")).details["demo"].tolist() == [
        2.0,
        4.0,
    ]


def test_a_generation_that_equals_its_demonstration_is_paid_nothing_with_any_tokenizer(
    bpe_tokenizer: Any,
) -> None:
    texts = ["the cast is warm", "a loud, empty film!"]
    data = [{"prompt": "the film", "references": [text]} for text in texts]
    task = Generation(dataset=data, tokenizer=bpe_tokenizer, max_tokens=30)
    env = TokenEnv(task, reward=Calibrated(lambda e: [float(hash(t) % 97) for t in e.texts]))
    for index, text in enumerate(texts):
        ids = task.tokenizer.encode(text)
        assert write(env, [*ids, task.tokenizer.eos_id], index=index)[0] == 0.0
        forbidden = int(np.flatnonzero(task.tokenizer.forbidden)[0])
        assert write(env, [*ids, forbidden], index=index)[1]["finish_reason"] == "forbidden"
    bad = Calibrated("length", [[forbidden], "a film"])
    with pytest.raises(ValueError, match=f"holds the token {forbidden}, which may not be written"):
        bad.bind(task)


@pytest.mark.parametrize(("demonstrations", "message"), [
    ({0: "sofa", 1: "a"}, "demonstration 0 of example 0 has nothing .* can write: 'sofa'"),
    ({0: ["a", [0, 99]]}, "demonstration 1 of example 0 holds the token 99; accepted: 0[.][.]4"),
    ({0: [0.5], 1: "a"}, "demonstration 0 of example 0 is 0.5; accepted: a text"),
])  # fmt: skip
def test_demonstrations_that_cannot_be_written(demonstrations: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenEnv(Letters(), reward=Calibrated("length", demonstrations))


def test_data_of_another_task_are_refused() -> None:
    class Other(Letters):
        def prompts(self, indices: Any) -> Any:
            return super().prompts(1 - indices)

    with pytest.raises(ValueError, match="demonstrates example 0 with another prompt .* 'q'"):
        TokenEnv(
            Other(), reward=Calibrated("length", Letters().demonstrations(9, quality="random"))
        )


@pytest.mark.parametrize(
    "demonstrations", [["a", "b", "a b"], {0: "a", 1: "b", 2: "a"}, {0: "a", 1: "b", -1: "a"}]
)
def test_demonstrations_of_examples_that_do_not_exist_are_refused(demonstrations: Any) -> None:
    """A list that is longer than the task is most likely one of another split."""
    with pytest.raises(ValueError, match="of example -?[12], and the task has the examples 0..1"):
        TokenEnv(Letters(), reward=Calibrated("length", demonstrations))
    many = {0: "a", "q": "b", "a prompt of another split": "a"}  # prompts say what they are about
    assert write(TokenEnv(Letters(), reward=Calibrated("length", many)), [4], index=1)[0] == -1.0


def test_skipping_all_examples_is_refused() -> None:
    nothing: Any = ((), ())
    with pytest.raises(ValueError, match="no example has a demonstration.*would be paid 0"):
        TokenEnv(Letters(nothing), reward=Calibrated("length", missing="skip"))
    aimed = Calibrated("length", missing="fallback", fallback=2.0)
    assert write(TokenEnv(Letters(nothing), reward=aimed), [4], index=0)[0] == -4.0


def test_dialogues_are_demonstrated_by_recorded_ones() -> None:
    """On top of replies that pay for themselves, the calibrated reward has a name of its own."""
    task, env_reward = Echo(), Length()
    recorded = task.demonstrations(6, quality="random", seed=0)
    reward = Calibrated(env_reward, recorded, choose="mean", missing="skip")
    env = TokenEnv(task, reward=reward)
    row = int(np.flatnonzero(recorded.example_indices == 1)[0])
    same = Calibrated(env_reward, recorded.select([row]), missing="skip")
    assert same(reward_batch(task, recorded, row)).values.tolist() == [0.0]
    paid, info = write(env, [2, 4], index=1)  # "bye"
    lengths = [
        Length()(reward_batch(task, recorded, i))[0]
        for i in np.flatnonzero(recorded.example_indices == 1)
    ]
    assert info["reward_terms"]["task"] == 0.0
    assert paid == info["reward_terms"]["reward_model"] == -((1 - np.mean(lengths)) ** 2)


def test_a_missing_demonstration_is_named_when_the_environment_is_built() -> None:
    task = Letters(references=(("a b",), ()))
    with pytest.raises(ValueError, match="example 1, prompt 'q', has no demonstration") as error:
        TokenEnv(task, reward=Calibrated("length"))
    for choice in ("demonstrations=", "missing='skip'", "missing='fallback'"):
        assert choice in str(error.value)


def test_a_missing_demonstration_is_named_at_the_end_of_an_episode() -> None:
    env = TokenEnv(Letters(), reward="length")
    env.engine.reward_model = Calibrated("length", {0: "a"})  # past the check of a new environment
    write(env, [4], index=0)
    with pytest.raises(RewardModelError, match="example 1, prompt 'q', has no demonstration"):
        write(env, [4], index=1)
    env.reward_model = Calibrated("length", ["a", "a b"])
    assert env.step(4)[1] == -4.0  # the step that failed was undone


def test_what_else_a_missing_demonstration_may_do() -> None:
    task = Letters(references=(("a b", "a b b b"), ()))

    def paid(**kwargs: Any) -> tuple[float, dict[str, Any]]:
        env = TokenEnv(task, reward=Calibrated("length", choose="mean", **kwargs))
        reward, info = write(env, [0, 4], index=1)
        assert write(env, [0, 4], index=0)[0] == -4.0  # of the other example: (1 - 3)^2
        return reward, info["reward_details"]

    reward, details = paid(missing="skip")
    assert reward == 0.0 and details["raw"] == 1.0 and np.isnan(details["demo"])
    assert paid(missing="fallback", fallback=5.0)[0] == -16.0
    reward, details = paid(missing="fallback")
    assert reward == -4.0 and details["demo"] == 3.0  # the mean of 2 and 4


def test_each_demonstration_is_scored_once_and_in_batches() -> None:
    sizes: list[int] = []

    def model(batch: EpisodeBatch) -> np.ndarray[Any, Any]:
        sizes.append(len(batch))
        return Length()(batch)

    env = TokenVectorEnv(Letters(), num_envs=4, reward=Calibrated(model), autoreset_mode="DISABLED")
    for _ in range(3):
        env.reset(seed=0, options={"index": [0, 1, 0, 1]})
        env.step(np.full(4, 4))
    assert sizes == [4, 3, 3, 4, 4]  # generations; demonstrations, again once; generations
    sizes.clear()
    Calibrated(model, batch_size=2)(episodes(Letters(), [0, 1], "a"))
    assert sizes == [2, 2, 1, 2]


def test_one_object_serves_two_tasks() -> None:
    reward = Calibrated("length")
    first = TokenEnv(Letters(), reward=reward)
    second = TokenEnv(Letters((("a b a",), ("a",))), reward=reward)
    demos = [write(env, [4], index=1)[1]["reward_details"]["demo"] for env in (first, second)]
    assert demos == [1.0, 1.0]
    assert write(second, [4], index=0)[0] == -9.0


def test_a_reward_model_that_is_not_deterministic_or_not_finite_is_refused() -> None:
    rng = np.random.default_rng(0)
    noisy = Calibrated(lambda batch: rng.normal(size=len(batch)), {0: "a b"})
    with pytest.raises(RewardModelError, match="not deterministic: for the demonstration 'a b'"):
        write(TokenEnv(Toy(), reward=noisy), [END])
    ranked = Calibrated(lambda batch: Length()(batch) - Length()(batch)[0], {0: ["a", "a b"]})
    with pytest.raises(RewardModelError, match="a score must depend on its own text alone"):
        write(TokenEnv(Toy(), reward=ranked), [END])
    scores = {text: float("nan") if text == (A, END) else 0.0 for text in TOY_TEXTS}
    env = TokenEnv(Toy(), reward=Calibrated(table(scores), {0: "a"}))
    with pytest.raises(RewardModelError, match=r"returned nan for example 0, .* text 'a'"):
        write(env, [END])


def test_a_step_that_failed_draws_the_same_demonstration_when_it_is_repeated() -> None:
    class Flaky:
        broken = False

        def __call__(self, batch: EpisodeBatch) -> Any:
            if self.broken:
                raise OSError("no answer")
            return Length()(batch)

    def demos(breaks: bool) -> list[float]:
        model = Flaky()
        env = TokenEnv(Letters(), reward=Calibrated(model))
        env.reset(seed=3)
        seen = []
        for _ in range(12):
            env.reset(options={"index": 0})
            if breaks:
                model.broken = True
                with pytest.raises(RewardModelError, match="no answer"):
                    env.step(4)
                model.broken = False
            seen.append(env.step(4)[-1]["reward_details"]["demo"])
        return seen

    assert demos(breaks=True) == demos(breaks=False)
