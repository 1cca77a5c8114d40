"""Facts of foreign tokenizers in every alphabet: begin, end, padding, what may be written."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from foreign import CYRILLIC, LLAMA, all_kinds, around, byte_level, letters, unigram, word_piece

import text_envs
from text_envs.tokenizers import HFTokenizer, load_tokenizer
from text_envs.tokens.padding import with_padding
from text_envs.tokens.vocabulary import tokenizer_facts

KINDS = all_kinds()


@pytest.fixture(params=KINDS)
def hf(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


def test_every_kind_keeps_the_protocol(hf: Any) -> None:
    before = (hf.get_vocab(), hf.pad_token_id, len(hf))
    tokenizer = load_tokenizer(hf, add_padding=True)
    assert (hf.get_vocab(), hf.pad_token_id, len(hf)) == before  # the user's own is left alone
    ids = set(tokenizer.hf.get_vocab().values())  # type: ignore[attr-defined]
    writable = set(np.flatnonzero(~tokenizer.forbidden).tolist())
    assert writable <= ids and tokenizer.num_actions <= tokenizer.vocab_size == max(ids) + 1
    assert tokenizer.eos_id in writable and tokenizer.pad_id not in writable
    special = {tokenizer.bos_id, tokenizer.unk_id, tokenizer.pad_id, *hf.all_special_ids}
    assert not (special - {tokenizer.eos_id, None}) & writable
    assert tokenizer.pad_id not in (tokenizer.bos_id, tokenizer.unk_id)


def test_prompts_begin_as_the_tokenizer_begins_texts_and_do_not_end(hf: Any) -> None:
    tokenizer = load_tokenizer(hf, add_padding=True)
    for text in ("привет мир", "film", "你好", "a 你b", "", " "):
        whole, bare = hf(text)["input_ids"], tokenizer.encode(text)
        prompt = tokenizer.encode_prompt(text)
        assert prompt and (not bare or prompt[-len(bare) :] == bare)
        if bare:
            begin = prompt[: -len(bare)]
            assert whole[: len(prompt)] == prompt, "the tokenizer's own start"
            assert set(begin) <= set(hf.all_special_ids)
        assert tokenizer.decode(prompt) == tokenizer.decode(bare)
        assert tokenizer.pad_id not in prompt


def test_what_is_decoded_can_be_encoded_again(hf: Any) -> None:
    tokenizer = load_tokenizer(hf, add_padding=True)
    for text in ("привет мир", "вгд", "你好", "the film"):
        once = tokenizer.decode(tokenizer.encode(text))
        again = tokenizer.decode(tokenizer.encode(once.removeprefix(" ")))
        assert again.split() == once.split()


def test_copies_are_the_same_tokenizer(hf: Any) -> None:
    tokenizer = load_tokenizer(hf, add_padding=True)
    for other in (
        copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer)),
        load_tokenizer(hf, add_padding=True), load_tokenizer(copy.deepcopy(hf), add_padding=True),
    ):  # fmt: skip
        assert other == tokenizer and tokenizer_facts(other) == tokenizer_facts(tokenizer)
        assert other.encode_prompt("привет film 你") == tokenizer.encode_prompt("привет film 你")


@pytest.mark.filterwarnings("ignore:.*an agent cannot read them")
def test_generation_takes_it_as_it_is(hf: Any, tmp_path: Path) -> None:
    hf.save_pretrained(tmp_path)
    prompts = [hf.decode(hf.encode(t, add_special_tokens=False)) for t in ("вгд", "你好", "film")]
    prompts = [prompt for prompt in prompts if prompt.strip()]
    for source in (hf, str(tmp_path)):
        env: Any = gym.make(
            "text_envs/Generation-v0", tokenizer=source, dataset=prompts, max_tokens=4,
            max_unknown=1.0, action_mask="info",
        ).unwrapped  # fmt: skip
        observation, info = env.reset(seed=0)
        assert observation.max() < env.tokenizer.vocab_size
        finished = False
        while not finished:
            allowed = np.flatnonzero(~env.tokenizer.forbidden)
            _, _, finished, _, info = env.step(int(allowed[allowed != env.tokenizer.eos_id][-1]))
        assert info["finish_reason"] == "length"


def test_the_prefix_is_found_in_any_alphabet() -> None:
    for name in ("cyrillic unigram", "chinese unigram", "cyrillic letters", "cyrillic word pieces"):
        hf = KINDS[name]
        assert hf.encode("a", add_special_tokens=False) in ([], [hf.unk_token_id]) or True
        tokenizer = HFTokenizer(hf)
        start = hf.convert_tokens_to_ids("[CLS]" if "pieces" in name else "<s>")
        assert tokenizer.encode_prompt("") == [start] == [tokenizer.bos_id]


def test_the_end_is_what_the_tokenizer_puts_behind_a_text() -> None:
    tokenizer = HFTokenizer(KINDS["cyrillic word pieces"])
    assert tokenizer.eos_id == tokenizer.hf.sep_token_id
    assert tokenizer.decode([*tokenizer.encode_prompt("мир"), tokenizer.eos_id]) == "мир"
    bare = word_piece(unk_token="[UNK]", pad_token="[PAD]")
    with pytest.raises(ValueError, match="no end-of-text token"):
        HFTokenizer(bare)


def test_unknown_words_are_known_to_the_model_inside() -> None:
    tokenizer = HFTokenizer(KINDS["unknown unknown"])
    assert tokenizer.hf.unk_token_id is None and tokenizer.unk_id == 0
    assert tokenizer.forbidden[0] and 0 in tokenizer.encode("film")
    assert HFTokenizer(word_piece(pad_token="[PAD]", eos_token="[SEP]")).unk_id == 1
    gpt2 = load_tokenizer(KINDS["gpt2"], add_padding=True)
    assert gpt2.unk_id is None and not gpt2.forbidden[gpt2.eos_id]


def test_marked_tokens_are_special_without_a_name() -> None:
    hf = byte_level("</s>", "<pad>", eos_token="</s>", pad_token="<pad>")
    hf.add_tokens(["plain"])
    hf.backend_tokenizer.add_special_tokens(["<|reserved|>"])
    hf.add_tokens(["last"])
    tokenizer = HFTokenizer(hf)
    plain, reserved, last = (hf.convert_tokens_to_ids(w) for w in ("plain", "<|reserved|>", "last"))
    assert reserved not in hf.all_special_ids and tokenizer.forbidden[reserved]
    assert not tokenizer.forbidden[plain] and tokenizer.num_actions == last + 1
    assert tokenizer.decode(tokenizer.encode("plain last")) == "plain last"


def test_ids_without_a_token_are_no_actions() -> None:
    from tokenizers import Tokenizer, models

    words = {"</s>": 0, "<pad>": 1, "a": 2, "b": 9}  # a gap, and rows of a model beyond
    fast = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    fast.add_special_tokens(["</s>", "<pad>"])
    from foreign import wrap

    tokenizer = HFTokenizer(with_padding(wrap(fast, eos_token="</s>", unk_token="<pad>")))
    assert np.flatnonzero(~tokenizer.forbidden).tolist() == [0, 2, 9]
    assert tokenizer.num_actions == 10 and tokenizer.pad_id not in (0, 1, 2, 9)
    dense = Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "b": 3}, unk_token="a"))
    dense.add_special_tokens(["</s>"])
    with pytest.raises(ValueError, match=r"has no padding token, and none can be added.*up to 3"):
        with_padding(wrap(dense, eos_token="</s>"))


def test_several_ends_of_a_chat_model(tmp_path: Path) -> None:
    hf = byte_level("<|end|>", eos_token="<|end|>")
    hf.add_tokens(["<turn>"])  # not marked as special, as some models have it
    turn = hf.convert_tokens_to_ids("<turn>")
    word = hf.convert_tokens_to_ids("film") or 5
    hf.save_pretrained(tmp_path)
    for ends in ([hf.eos_token_id, turn, 99999], [turn, "x", None], turn):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        tokenizer = load_tokenizer(tmp_path, add_padding=True)
        assert tokenizer.eos_ids == (hf.eos_token_id, turn) and tokenizer.num_actions == turn + 1
        assert not tokenizer.forbidden[[*tokenizer.eos_ids]].any()
        assert tokenizer.decode([turn, tokenizer.eos_id]) == ""
    # Settings of a model that was made with another tokenizer name an ordinary word.
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": word}))
    assert not load_tokenizer(tmp_path, add_padding=True).forbidden[word]
    nameless = byte_level("<|end|>")
    nameless.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0]}))
    assert load_tokenizer(tmp_path, add_padding=True).eos_id == 0


def test_padding_that_means_something_else_is_refused_or_replaced() -> None:
    for name in ("pads with its end", "pads with unknown", "gpt2"):
        with pytest.raises(ValueError, match=r"padding must differ.*\"pad_token\""):
            load_tokenizer(KINDS[name])
        padded = load_tokenizer(KINDS[name], add_padding=True)
        assert padded.pad_id == len(KINDS[name]) == padded.vocab_size - 1
    fine = KINDS["bytes"]
    assert with_padding(fine) is fine
    taken = byte_level("<|pad|>", eos_token="<|pad|>")
    assert load_tokenizer(taken, add_padding=True).pad_id != taken.eos_token_id


def test_a_text_that_spells_padding_keeps_its_letters() -> None:
    tokenizer = HFTokenizer(byte_level("</s>", "<pad>", eos_token="</s>", pad_token="<pad>"))
    ids = tokenizer.encode_prompt("a <pad> b")
    assert tokenizer.pad_id not in ids and tokenizer.decode(ids) == "a <pad> b"


def test_load_lm_and_generation_pad_alike(tmp_path: Path, gpt2: Any) -> None:
    from text_envs.lm import load_lm

    hf = KINDS["gpt2"]
    gpt2(len(hf) + 6).save_pretrained(tmp_path)  # rows of the model padded to a multiple
    hf.save_pretrained(tmp_path)
    model, tokenizer = load_lm(tmp_path)
    task: Any = gym.make("text_envs/Generation-v0", tokenizer=hf).unwrapped
    assert tokenizer == task.tokenizer and tokenizer is not None
    assert tokenizer_facts(tokenizer) == tokenizer_facts(task.tokenizer)
    assert task.action_space.n == len(hf) <= model.get_input_embeddings().weight.shape[0]
    text_envs.policies  # noqa: B018


def test_truncated_prompts_keep_the_begin_token() -> None:
    hf = around(unigram(**LLAMA), "<s> $A </s>")
    env: Any = gym.make(
        "text_envs/Generation-v0", tokenizer=hf, dataset=CYRILLIC, prompt_length=3,
        truncate_prompts=True,
    ).unwrapped  # fmt: skip
    observation, _ = env.reset(seed=0)
    assert observation[0] == hf.bos_token_id
    assert letters("аб", **LLAMA).bos_token_id == 0
