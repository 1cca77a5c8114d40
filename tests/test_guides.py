"""Guides from every source, what is checked about them, and finishing partial episodes."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import SENTENCES, Echo
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, DQN

import text_envs
import text_envs.guides
import text_envs.guides.sampler
import text_envs.guides.sources
from text_envs import Example, Role, Task, TokenEnv, TokenVectorEnv, exact
from text_envs.core.playing import play_out
from text_envs.episodes.errors import GuideError, RewardModelError
from text_envs.episodes.types import Turns
from text_envs.guides import Query, as_guide, complete, draw
from text_envs.policies.functions import as_log_probs
from text_envs.tasks.toy import Toy
from text_envs.tokenizers import WordTokenizer, load_tokenizer

A, B, EOS, PAD, BOS = 0, 1, 2, 3, 4  # Toy's tokens
SAY, HELLO, BYE, YES, END = 0, 1, 2, 3, 4  # Echo's tokens


@pytest.mark.parametrize("name", ["", ".sampler", ".sources"])
def test_the_cards(name: str) -> None:
    module = __import__("sys").modules[f"text_envs.guides{name}"]
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted > 0


def ask(guide: Any, task: Task, written: list[list[int]], seed: int = 0) -> Any:
    """Return what a guide writes after `written`, row by row."""
    env = TokenVectorEnv(task, num_envs=len(written))
    env.reset(seed=seed, options={"prefix": written, "index": 0})
    engine = env.engine
    return guide(
        Turns(
            rows=engine.all_rows,
            tokens=engine.tokens,
            start=engine.turn_start,
            stop=engine.position,
            example_indices=engine.example_index,
            memory=engine.memory,
            rngs=[np.random.default_rng([seed, row]) for row in range(len(written))],
        )
    )


# -- functions -----------------------------------------------------------------------------------


def test_a_function_sees_texts_and_arrays() -> None:
    seen: list[Query] = []

    def guide(query: Query) -> list[str]:
        seen.append(query)
        return ["b", "a a"]

    task = Echo(max_turn_tokens=3)
    with pytest.raises(GuideError, match="'b'.*may not be written|unk"):
        ask(as_guide(guide, task), task, [[HELLO], []])
    query = seen[0]
    assert query.texts == ["say hello", "say"] and query.prompts == ["say", "say"]
    assert query.room.tolist() == [2, 3] and (query.stop - query.start).tolist() == [1, 0]
    assert query.examples == [Example("say"), Example("say")] and len(query) == 2


def test_texts_end_the_turn_and_ids_stand_for_themselves() -> None:
    task = Toy(max_tokens=4)
    answers = ["a b", [A], np.array([B, EOS, EOS, PAD]), [A, B, A, B, EOS], "a b a b", [EOS]]
    guide = as_guide(lambda query: answers, task)
    assert ask(guide, task, [[]] * 6) == [
        [A, B, EOS],
        [A],  # a part of a turn: the guide will be asked again
        [B, EOS],  # what stands after the end is padding
        [A, B, A, B],  # at the limit, a turn ends without an end token
        [A, B, A, B],
        [EOS],
    ]
    assert (guide.queries.calls, guide.queries.rows, guide.queries.tokens) == (1, 6, 15)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "nothing"),
        ("", "nothing"),
        ("a b a b", "5 tokens.*of 1..2 tokens"),
        ([A, A, A], "3 tokens.*strict=False cuts"),
        ("c", r"token 5, '<unk>', at place 0, which may not be written"),
        ([A, 17], "token 17 at place 1, which may not be written"),
        ([-1], "token -1 at place 0"),
        ([A, PAD, B], "token 3.* at place 1"),
        ([EOS, A], "tokens after the end at 0"),
        ([0.5], "neither a text nor token ids"),
        ([[A]], "neither a text nor token ids"),
        ([[A], [A, B]], "neither a text nor token ids"),
        (None, "neither a text nor token ids"),
    ],
)
def test_unusable_completions_are_named(answer: Any, message: str) -> None:
    task = Toy()
    guide = as_guide(lambda query: ["b", answer], task, name="oracle")
    with pytest.raises(GuideError, match=message) as caught:
        ask(guide, task, [[], [A]])
    error = caught.value
    assert "guide oracle returned" in str(error) and "(row 1 of 2)" in str(error)
    assert "asked to continue 'a'" in str(error) and "ids 0..2" in str(error)
    assert (error.guide, error.row, error.prompt) == ("oracle", 1, "a")
    assert error.received[0] == "b"  # what was paid for is not lost


def test_lenient_guides_are_cut_and_ended() -> None:
    task = Toy()
    guide = as_guide(lambda query: ["a b a b", "", [A, A, A, A]], task, strict=False)
    assert ask(guide, task, [[], [], [B]]) == [[A, B, A], [EOS], [A, A]]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (["a"], "returned 1 completions for 2 texts"),
        ("ab", "returned no list of completions"),
        (3, "returned no list of completions"),
        ({"a": [A], "b": [B]}, "returned no list of completions"),
        ({A, B}, "returned no list of completions"),
    ],
)
def test_unusable_answers_are_named(answer: Any, message: str) -> None:
    guide = as_guide(lambda query: answer, Toy())
    with pytest.raises(GuideError, match=message):
        ask(guide, Toy(), [[], []])


def test_an_exception_of_the_guide_is_passed_on() -> None:
    def guide(query: Query) -> list[str]:
        raise TimeoutError("30 s")

    with pytest.raises(
        GuideError, match="guide guide raised TimeoutError: 30 s.*2 texts"
    ) as caught:
        ask(as_guide(guide, Toy()), Toy(), [[A], []])
    assert isinstance(caught.value.__cause__, TimeoutError) and caught.value.prompt == "a"


def test_arguments() -> None:
    with pytest.raises(ValueError, match="decides itself how it writes.*temperature"):
        as_guide(lambda query: [], Toy(), temperature=0.5)
    with pytest.raises(ValueError, match="Did you mean 'script:expert'"):
        as_guide("expert", Toy())
    with pytest.raises(TypeError, match="a guide must be a function.*got int"):
        as_guide(3, Toy())
    policy = as_log_probs(lambda tokens: np.full((len(tokens), 3), np.log(1 / 3)), Toy())
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        as_guide(policy, Toy(), temperature=0)
    with pytest.raises(ValueError, match=r"top_p must be None or in \(0, 1\], got 1.5"):
        as_guide(policy, Toy(), top_p=1.5)


# -- scripts -------------------------------------------------------------------------------------


def test_a_script_goes_on_where_it_can() -> None:
    task = Toy(max_tokens=4)
    guide = as_guide("script:expert", task)
    assert ask(guide, task, [[], [A], [A, B], [B], [B, B]]) == [
        [A, B, EOS],
        [B, EOS],
        [EOS],
        [A, B, EOS],  # begun otherwise: the whole turn after it
        [A, B],  # as far as it fits
    ]
    noise = ask(as_guide("script:random", task), task, [[]] * 200)
    assert {tuple(tokens) for tokens in noise} == {(A,), (B,), (EOS,)}


def test_the_expert_of_a_dialogue_finishes_what_another_player_began() -> None:
    """Also where it stands in the middle of a turn that it would not have begun that way."""
    env = gym.make_vec("text_envs/Wordle-v0", num_envs=16)
    env.reset(seed=0)
    for letter in (3, 17, 0):
        env.step(np.full(16, letter))
    script = as_guide("script:expert", env.unwrapped.task)
    found = complete(env, env.unwrapped.get_state(), script, seed=0)
    assert found.finish_reasons.count("solved") >= 12
    assert script.queries.calls <= 7 and (found.action_mask.sum(axis=1) == 3).all()


# -- models --------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_draw_inverts_the_cumulative_distribution(data: Any) -> None:
    """Of evenly spread numbers, each action gets its share of the nucleus."""
    size = data.draw(st.integers(2, 6))
    weights = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    if not any(weights):
        weights[0] = 1
    temperature = data.draw(st.sampled_from([0.5, 1.0, 2.0]))
    top_p = data.draw(st.sampled_from([0.3, 0.7, 1.0]))
    p = np.array(weights, float) ** (1 / temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    count = int(np.searchsorted(p[order].cumsum(), top_p - 1e-12)) + 1 if top_p < 1 else size
    p[p < p[order[count - 1]] * (1 - 1e-12)] = 0.0
    p /= p.sum()
    uniforms = (np.arange(2000) + 0.5) / 2000
    with np.errstate(divide="ignore"):
        scores = np.log(np.array(weights, float)) + 3.0
    chosen = draw(np.tile(scores, (2000, 1)), uniforms, temperature=temperature, top_p=top_p)
    assert np.abs(np.bincount(chosen, minlength=size) / 2000 - p).max() < 2e-3
    assert not (p[chosen] == 0).any()


@pytest.mark.parametrize("dialogue", [False, True])
def test_a_language_model_writes_what_step_by_step_decoding_writes(
    dialogue: bool, gpt2: Any
) -> None:
    """Batches, caches, rows that leave the batch and replies change nothing."""
    task: Task = Echo(max_tokens=24, max_turn_tokens=5) if dialogue else Toy(max_tokens=8)
    lm = gpt2(task.tokenizer.vocab_size)
    env = TokenVectorEnv(task, num_envs=12)
    env.reset(seed=0)
    whole = complete(env, env.get_state(), lm, seed=3, guide_kwargs={"temperature": 0.7})
    function = as_log_probs(lm, task)

    def slowly(query: Query) -> list[list[int]]:
        """One token at a time, every observation encoded anew."""
        return draw(
            function(query.tokens), np.array([rng.random() for rng in query.rngs]), temperature=0.7
        )[:, None].tolist()

    slow = complete(env, env.get_state(), slowly, seed=3)
    assert np.array_equal(whole.tokens, slow.tokens)
    assert np.array_equal(whole.rewards, slow.rewards)
    assert len(np.unique(whole.tokens, axis=0)) > 3


def test_many_rows_are_written_in_parts(share: Any, gpt2: Any, monkeypatch: Any) -> None:
    env = TokenVectorEnv(share, num_envs=7)
    env.reset(seed=0)
    lm = gpt2(16)
    whole = complete(env, env.get_state(), lm, seed=0)
    monkeypatch.setattr(text_envs.guides.sampler, "_MOST_ROWS", 3)
    parts = complete(env, env.get_state(), lm, seed=0)
    assert np.array_equal(whole.tokens, parts.tokens)


def test_deterministic_models_write_their_most_likely_tokens(share: Any, gpt2: Any) -> None:
    lm = gpt2(16)
    guide = as_guide(lm, share, deterministic=True)
    lines = ask(guide, share, [[], [1, 2]])
    function = as_log_probs(lm, share)
    env = TokenVectorEnv(share, num_envs=2)
    observations, _ = env.reset(options={"prefix": [[], [1, 2]], "index": 0})
    for row, (line, stop) in enumerate(zip(lines, env.engine.position.tolist(), strict=True)):
        for column, token in enumerate(line, start=stop):
            assert token == function(observations[row : row + 1]).argmax()
            observations[row, column] = token


def test_models_are_frozen_copies(share: Any, gpt2: Any) -> None:
    lm = gpt2(16)
    guide = as_guide(lm, share, deterministic=True)
    before = ask(guide, share, [[], [1], [2]])
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.normal_()
    assert ask(guide, share, [[], [1], [2]]) == before
    assert ask(as_guide(lm, share, deterministic=True), share, [[], [1], [2]]) != before
    assert not any(p.requires_grad for p in guide.policy.actor.parameters())  # type: ignore[attr-defined]


def test_stable_baselines_agents_guide() -> None:
    venv = text_envs.make_sb3("text_envs/Toy-v0", num_envs=2)
    agent = A2C("MlpPolicy", venv, seed=0)
    task = venv.env.task
    greedy = as_guide(agent, task, deterministic=True)
    observation = venv.reset()
    for token in ask(greedy, task, [[]])[0]:
        assert agent.predict(observation, deterministic=True)[0][0] == token
        observation[:, np.flatnonzero(observation[0] == PAD)[0]] = token
    found = complete(venv, [TokenEnvState(task)] * 3000, agent, seed=0)
    value = exact.q_of(task, agent).value
    error = found.returns.std() / np.sqrt(len(found))
    assert abs(found.returns.mean() - value) < 4 * error
    before = ask(greedy, task, [[]])
    agent.policy.action_net.bias.data[:] = torch.tensor([-9.0, -9.0, 9.0])
    assert ask(greedy, task, [[]]) == before  # a copy
    greedy = as_guide(DQN("MlpPolicy", venv, seed=0), task)
    assert len({tuple(line) for line in ask(greedy, task, [[]] * 20)}) == 1


def TokenEnvState(task: Task) -> dict[str, Any]:
    env = TokenEnv(task)
    env.reset(seed=0)
    return env.get_state()


def test_models_of_other_tokens_are_refused(
    tmp_path: Path, gpt2: Any, bpe_tokenizer: Any, share: Any
) -> None:
    gpt2(len(bpe_tokenizer)).save_pretrained(tmp_path)
    bpe_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(GuideError, match="does not fit the task.*has the tokenizer HFTokenizer"):
        as_guide(tmp_path, share)
    with pytest.raises(GuideError, match="knows 14 tokens, the .* texts hold ids up to 15"):
        as_guide(gpt2(14), share)
    with pytest.raises(GuideError, match="its tokenizer is.*the task's WordTokenizer"):
        as_guide(gpt2(16), share, tokenizer=bpe_tokenizer)
    agent = A2C("MlpPolicy", text_envs.make_sb3("text_envs/Toy-v0", num_envs=1))
    with pytest.raises(GuideError, match="id 0 is 'a' there and 'w0' here"):
        as_guide(agent, share)
    with pytest.raises(GuideError, match="3 actions, the task 13"):
        as_guide(agent.policy, share)  # which nobody knows the words of
    words = WordTokenizer(["yes", "no"])
    alike = Task([Example("yes")], tokenizer=words, prompt_length=2, max_tokens=2)
    with pytest.raises(GuideError, match="id 0 is 'a' there and 'yes' here"):
        as_guide(agent, alike)


def test_a_saved_model_guides_an_environment_with_its_tokenizer(
    tmp_path: Path, gpt2: Any, bpe_tokenizer: Any
) -> None:
    gpt2(len(bpe_tokenizer)).save_pretrained(tmp_path)
    bpe_tokenizer.save_pretrained(tmp_path)
    task = Task(
        [Example(sentence[:12]) for sentence in SENTENCES],
        tokenizer=load_tokenizer(tmp_path),
        prompt_length=12,
        max_tokens=6,
    )
    env = TokenVectorEnv(task, num_envs=4, reward="length")
    env.reset(seed=0)
    found = complete(env, env.get_state(), str(tmp_path), seed=0)
    tokens = found.tokens[found.roles == Role.PREFIX]
    assert len(tokens) > 8 and not task.tokenizer.forbidden[tokens].any()
    # Texts of a function are encoded as they stand, a leading space included.
    found = complete(env, env.get_state(), lambda query: [" film"] * len(query), seed=0)
    assert task.tokenizer.decode(found.tokens[0, 12:]) == " film"


# -- finishing episodes --------------------------------------------------------------------------


def test_a_guide_finishes_saved_states() -> None:
    env = TokenVectorEnv(Toy(), num_envs=3)
    env.reset(seed=0, options={"prefix": [[], [A], []]})
    env.step(np.array([A, B, B]))
    state = env.get_state()
    found = complete(env, state, "script:expert", seed=0)
    assert found.tokens[:, 1:].tolist() == [[A, B, EOS], [A, B, EOS], [B, A, B]]
    assert found.roles[:, 1:].tolist() == [
        [Role.ACTION, Role.PREFIX, Role.PREFIX],
        [Role.PREFIX, Role.ACTION, Role.PREFIX],
        [Role.ACTION, Role.PREFIX, Role.PREFIX],
    ]
    assert found.rewards[:, 1:].tolist() == [[0, 0, 1.5], [0, 0, 1.5], [0, 0, 1.0]]
    assert found.finish_reasons == ("stop", "stop", "length")
    assert found.columns["start"].tolist() == [2, 3, 2]
    assert found.action_mask.sum() == 3 and found.metadata["policy"] == "guide script:expert"
    assert np.array_equal(env.engine.tokens, state["episode"]["tokens"])  # the env stays
    again = complete(env, [state, state], "script:expert", seed=1, role=Role.ACTION)
    assert again.columns["state"].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(again.tokens, np.tile(found.tokens, (2, 1)))
    assert not (again.roles[0] == Role.PREFIX).any()


def test_one_state_is_finished_many_times_with_the_value_of_the_guide() -> None:
    """The mean return is V of the guide, by enumeration."""
    env = gym.make("text_envs/Toy-v0")
    policy = as_log_probs(
        lambda tokens: np.log(np.tile([[0.3, 0.5, 0.2]], (len(tokens), 1))), env.unwrapped.task
    )
    values = exact.q_of(env, policy)
    for prefix in ([], [A], [B], [A, B]):
        observation, _ = env.reset(options={"prefix": prefix})
        found = complete(env, [env.unwrapped.get_state()] * 2000, policy, seed=[4, 2])
        error = found.returns.std() / np.sqrt(len(found))
        assert abs(found.returns.mean() - values.v(observation)) < 4 * error
    repeated = complete(env, [env.unwrapped.get_state()] * 2000, policy, seed=[4, 2])
    assert np.array_equal(found.tokens, repeated.tokens)
    free = [complete(env, env.unwrapped.get_state(), policy) for _ in range(20)]
    assert len({tuple(one.tokens[0]) for one in free}) > 1  # without a seed, not repeatable


def test_observations_are_finished_too() -> None:
    tokens = np.array([[BOS, A, PAD, PAD], [BOS, PAD, PAD, PAD], [BOS, B, B, PAD]])
    found = complete(Toy(), tokens, "script:expert", example_indices=[0, 0, 0])
    assert found.tokens.tolist() == [[BOS, A, B, EOS], [BOS, A, B, EOS], [BOS, B, B, A]]
    assert found.returns.tolist() == [1.5, 1.5, 0.0]
    assert complete(
        Toy(), tokens, "script:expert", example_indices=[0] * 3, reward="length"
    ).returns[0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([BOS, EOS, PAD, PAD], "observation 1 is no running episode"),
        ([BOS, A, B, A], "observation 1 is no running episode"),
        ([BOS, PAD, A, PAD], "observation 1 is no running episode"),
        ([A, PAD, PAD, PAD], "observation 1 is no running episode"),
        ([BOS, 5, PAD, PAD], "observation 1 is no running episode"),
    ],
)
def test_observations_that_cannot_be_finished(row: list[int], message: str) -> None:
    tokens = np.array([[BOS, A, PAD, PAD], row])
    with pytest.raises(ValueError, match=message):
        complete(Toy(), tokens, "script:expert", example_indices=[0, 0])


def test_states_that_cannot_be_finished() -> None:
    env = TokenVectorEnv(Toy(), num_envs=2)
    env.reset(seed=0)
    env.step(np.array([A, EOS]))
    with pytest.raises(ValueError, match="state 1 has ended"):
        complete(env, env.get_state(), "script:expert")
    with pytest.raises(ValueError, match="no states"):
        complete(env, [], "script:expert")
    with pytest.raises(ValueError, match="states must be what get_state.*got int"):
        complete(env, [3], "script:expert")
    with pytest.raises(ValueError, match="belongs to another prompt_length or max_tokens"):
        complete(Toy(max_tokens=5), env.get_state(), "script:expert")
    with pytest.raises(ValueError, match="example_indices go with observations"):
        complete(env, env.get_state(), "script:expert", example_indices=[0, 0])
    with pytest.raises(ValueError, match="example_indices must be 1 numbers of 0..0"):
        complete(env, np.array([[BOS, A, PAD, PAD]]), "script:expert")
    with pytest.raises(ValueError, match=r"must have shape \(B, 4\)"):
        complete(env, np.array([[BOS, A]]), "script:expert", example_indices=[0])
    with pytest.raises(ValueError, match="Echo has turns"):
        complete(Echo(), np.zeros((1, 16), int), lambda query: [], example_indices=[0])
    with pytest.raises(TypeError, match="env must be an environment of text_envs or a Task"):
        complete(3, env.get_state(), "script:expert")


def polite(query: Query) -> list[str]:
    """Say hello until four turns have been spoken, then bye."""
    turns = query.memory["turns"][query.rows]
    return ["bye" if turn >= 3 else "hello" for turn in turns]


@pytest.mark.parametrize("face", ["single", "vector", "sb3"])
def test_a_dialogue_is_finished_with_its_replies(face: str) -> None:
    """Memory, replies and turn rewards go on from the state; one call a turn for all rows."""
    task = Echo(max_tokens=24)
    env: Any
    if face == "single":
        env = TokenEnv(task)
        env.reset(seed=0)
        for token in (HELLO, END, SAY):
            env.step(token)
        states, written = [env.get_state()] * 3, 3
    else:
        env = text_envs.make_sb3(task, num_envs=3, seed=0)
        env.reset()
        for token in (HELLO, END, SAY):
            env.step(np.full(3, token))
        native = env.env
        states, written = native.get_state(), 3
        env = native if face == "vector" else env
    guide = as_guide(polite, task)
    found = complete(env, states, guide, seed=0)
    assert found.finish_reasons == ("bye",) * 3
    assert (found.action_mask.sum(axis=1) == written).all()
    # Turn 2 (begun by the agent) and turn 3 cost 1 each, the last one nothing.
    assert found.returns.tolist() == [-2.0] * 3
    assert guide.queries.calls == 3 and guide.queries.rows == 9
    assert len(np.unique(found.tokens, axis=0)) > 1  # the replies are drawn anew for each row
    again = complete(env, states, guide, seed=0)
    assert np.array_equal(again.tokens, found.tokens)


def test_a_failing_guide_leaves_what_was_finished() -> None:
    def tired(query: Query) -> list[str]:
        if query.memory["turns"].max() >= 2:
            raise ConnectionError("gone")
        return ["bye" if row % 2 else "hello" for row in query.rows.tolist()]

    env = TokenVectorEnv(Echo(), num_envs=4)
    env.reset(seed=0)
    with pytest.raises(GuideError, match="guide tired raised ConnectionError") as caught:
        complete(env, env.get_state(), tired, seed=0)
    left = caught.value.partial_dataset  # type: ignore[attr-defined]
    assert left.columns["state"].tolist() == [1, 3] and left.finish_reasons == ("bye", "bye")


def test_a_failing_reward_leaves_what_was_finished() -> None:
    def later(query: Query) -> list[list[int]]:
        return [[EOS] if row == 0 else [A] for row in query.rows.tolist()]

    def picky(episodes: Any) -> Any:
        return np.where(episodes.lengths == 3, np.nan, 1.0)

    env = TokenVectorEnv(Toy(), num_envs=2, reward=picky)
    env.reset(seed=0)
    with pytest.raises(RewardModelError) as caught:
        complete(env, env.get_state(), later)
    assert caught.value.partial_dataset.returns.tolist() == [1.0]  # type: ignore[attr-defined]


# -- the player underneath -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "message"),
    [([[A], []], "wrote nothing in row 1"), ([[A]], "asked for 2 rows and wrote 1")],
)
def test_writers_that_are_no_guides_are_checked_as_well(written: Any, message: str) -> None:
    env = TokenVectorEnv(Toy(), num_envs=2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        play_out(env.engine, env.engine.all_rows, lambda turns: written, env.engine.rngs)
