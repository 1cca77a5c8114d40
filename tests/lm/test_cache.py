"""Cached decoding equals encoding anew, whatever happens to the rows."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from text_envs.lm.action_lm import ActionLM
from text_envs.lm.encoding import encode, length_groups

WORDS, PAD, BOS = 17, 18, 19
PROMPT, COLUMNS = 5, 12


def restrict(lm: Any, **kwargs: Any) -> ActionLM:
    arguments = {"pad_id": PAD, "bos_id": BOS, "prompt_length": PROMPT} | kwargs
    return ActionLM(lm, num_actions=WORDS, **arguments)


def fresh(actor: ActionLM, tokens: NDArray[np.int64]) -> torch.Tensor:
    return actor._encode_last(actor.complete(tokens), torch.device("cpu"))[0]


def assert_same(actor: ActionLM, tokens: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    hidden, last = actor.decode(tokens, rows)
    filled = actor.complete(tokens) != PAD
    np.testing.assert_array_equal(last, COLUMNS - 1 - filled[:, ::-1].argmax(axis=1))
    torch.testing.assert_close(hidden, fresh(actor, tokens), rtol=1e-4, atol=1e-4)


class Rows:
    """Observations that are reset, grow by one or several tokens, or stand still."""

    def __init__(self, n: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tokens = np.full((n, COLUMNS), PAD, dtype=np.int64)
        self.position = np.full(n, PROMPT)
        for row in range(n):
            self.reset(row)

    def reset(self, row: int) -> None:
        length = self.rng.integers(0, PROMPT + 1)
        self.tokens[row] = PAD
        self.tokens[row, PROMPT - length : PROMPT] = self.rng.integers(0, WORDS, length)
        self.position[row] = PROMPT

    def append(self, row: int, count: int) -> None:
        at = self.position[row]
        if at + count > COLUMNS:
            self.reset(row)
            return
        self.tokens[row, at : at + count] = self.rng.integers(0, WORDS, count)
        self.position[row] += count


def test_rows_that_do_as_they_like(any_lm: Any) -> None:
    """Left-padded and empty prompts, resets at different times, replies, still-standing rows."""
    actor = restrict(any_lm)
    rows = Rows(6, seed=0)
    for _ in range(60):
        assert_same(actor, rows.tokens, np.arange(6))
        for row, event in enumerate(rows.rng.choice(4, 6, p=[0.1, 0.6, 0.2, 0.1])):
            if event == 0:
                rows.reset(row)
            elif event < 3:
                rows.append(row, 1 if event == 1 else int(rows.rng.integers(2, 4)))
    assert actor._cacheable


def test_batches_that_shrink_grow_and_move(any_lm: Any) -> None:
    actor = restrict(any_lm)
    rows = Rows(6, seed=1)
    for step in range(30):
        size = rows.rng.integers(1, 7)
        who = np.sort(rows.rng.choice(6, size, replace=False))
        who = who[::-1].copy() if step % 5 == 0 else who
        assert_same(actor, rows.tokens[who], who)
        for row in range(6):
            rows.append(row, 1)


def test_only_new_tokens_are_fed(gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = restrict(gpt2(20))
    rows = Rows(4, seed=2)
    rows.tokens[:, :PROMPT] = np.arange(4 * PROMPT).reshape(4, PROMPT) % WORDS
    actor.decode(rows.tokens)
    fed: list[tuple[int, ...]] = []
    assert actor._decoder is not None
    inner = actor._decoder._backbone

    def spy(**kwargs: Any) -> Any:
        fed.append(tuple(kwargs["input_ids"].shape))
        return inner(**kwargs)

    actor._decoder._backbone = spy
    for row in range(4):
        rows.append(row, 1)
    actor.decode(rows.tokens)
    assert fed == [(4, 1)]
    fed.clear()
    rows.append(0, 3)  # the environment replied
    rows.reset(1)
    rows.tokens[1, :PROMPT] = 16
    for row in (2, 3):
        rows.append(row, 1)
    actor.decode(rows.tokens)
    assert fed == [(2, PROMPT - 1), (4, 1)]  # the two that lag catch up, then all take a step


def test_changed_weights_empty_the_cache(gpt2: Any) -> None:
    """An optimiser step, a loaded state, a replaced parameter: all are noticed."""
    lm = gpt2(20)
    actor = restrict(lm)
    rows = Rows(3, seed=3)
    everyone = np.arange(3)
    assert_same(actor, rows.tokens, everyone)
    optimizer = torch.optim.Adam(lm.parameters(), lr=0.1)
    for parameter in lm.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert_same(actor, rows.tokens, everyone)
    lm.load_state_dict({k: v * 1.1 for k, v in lm.state_dict().items()})
    assert_same(actor, rows.tokens, everyone)
    torch.nn.utils.vector_to_parameters(
        1.1 * torch.nn.utils.parameters_to_vector(lm.parameters()), lm.parameters()
    )
    assert_same(actor, rows.tokens, everyone)
    lm.transformer.wte.weight.data.mul_(1.1)
    actor.invalidate()  # this one leaves no trace and has to be said
    assert_same(actor, rows.tokens, everyone)


def test_memory_is_linear_and_copies_are_apart(gpt2: Any) -> None:
    actor = restrict(gpt2(20, layers=2))
    rows = Rows(6, seed=4)
    actor.decode(rows.tokens)
    assert actor._decoder is not None
    keys = [layer.keys for layer in actor._decoder._cache.layers]
    assert [tuple(k.shape) for k in keys] == [(6, 2, COLUMNS, 8)] * 2  # type: ignore[union-attr]
    twin = copy.deepcopy(actor)
    with torch.no_grad():
        twin.lm.transformer.wte.weight.mul_(2.0)
    assert_same(actor, rows.tokens, np.arange(6))
    assert_same(twin, rows.tokens, np.arange(6))
    assert not torch.allclose(actor.decode(rows.tokens)[0], twin.decode(rows.tokens)[0])


def test_an_error_inside_the_model_leaves_nothing_stale(gpt2: Any) -> None:
    actor = restrict(gpt2(20))
    rows = Rows(3, seed=5)
    actor.decode(rows.tokens)
    decoder = actor._decoder
    assert decoder is not None
    inner = decoder._backbone

    def fail(**kwargs: Any) -> Any:
        raise RuntimeError("out of memory")

    rows.append(0, 1)
    decoder._backbone = fail
    with pytest.raises(RuntimeError):
        actor.decode(rows.tokens)
    decoder._backbone = inner
    assert_same(actor, rows.tokens, np.arange(3))


def test_models_that_cannot_use_slots_decode_anyway(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=4, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    actor = restrict(MistralForCausalLM(config))
    rows = Rows(3, seed=6)
    assert_same(actor, rows.tokens, np.arange(3))
    assert "without a cache" in caplog.text
    assert "sliding window of 4" in caplog.text


def test_empty_prompts_need_a_begin_token(gpt2: Any) -> None:
    tokens = np.full((2, COLUMNS), PAD, dtype=np.int64)
    tokens[0, PROMPT - 1] = 3
    actor = restrict(gpt2(20))
    completed = actor.complete(tokens)
    assert completed[1, PROMPT - 1] == BOS and tokens[1, PROMPT - 1] == PAD
    assert torch.isfinite(actor.decode(tokens)[0]).all()
    for missing in ({"bos_id": None}, {"prompt_length": None}):
        with pytest.raises(ValueError, match="observation 1 has an empty prompt"):
            restrict(gpt2(20), **missing).decode(tokens)


def test_encode_by_groups_equals_encode_one_by_one(
    any_lm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squeezing padding out and grouping by length change nothing, nor do they in gradients."""
    monkeypatch.setattr("text_envs.lm.encoding._PASS_COST", 0)  # or such a small batch stays whole
    actor = restrict(any_lm)
    rng = np.random.default_rng(0)
    n = 40
    rows = Rows(n, seed=7)
    for row in range(n):
        for _ in range(int(rng.integers(1, 7))):
            rows.append(row, 1)
    tokens = actor.complete(rows.tokens)
    last = COLUMNS - 1 - (tokens != PAD)[:, ::-1].argmax(axis=1)
    columns = np.stack([np.full(n, PROMPT - 1), last], axis=1)
    mask = rng.random((n, 2)) < 0.8
    ids = {"pad_id": PAD, "fill_id": 0, "device": torch.device("cpu")}
    together = encode(actor.lm.base_model, tokens, columns, mask, **ids)
    alone = torch.cat(
        [
            encode(
                actor.lm.base_model, tokens[i : i + 1], columns[i : i + 1], mask[i : i + 1], **ids
            )
            for i in range(n)
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    weight = torch.randn_like(together)
    parameters = list(actor.lm.base_model.parameters())
    first = torch.autograd.grad((together * weight).sum(), parameters)
    second = torch.autograd.grad((alone * weight).sum(), parameters)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_length_groups_are_a_partition() -> None:
    rng = np.random.default_rng(0)
    for lengths in (rng.integers(1, 100, 50), np.full(9, 7), np.array([5])):
        groups = length_groups(lengths)
        assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
