"""Tokenizers: what each promises, and that one tokenizer.json serves numpy and transformers."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import text_envs.tokenizers as module
from text_envs.tokenizers import (
    CharTokenizer,
    HFTokenizer,
    Tokenizer,
    WordTokenizer,
    load_tokenizer,
)

SENTENCES = [
    "It's a well-acted, funny film; isn't that enough?",
    "The \"plot\" (such as it is) can't save the boys' third act... or 1/2 of it -- sadly!",
    "O'Brien cost $5, the critics' darling, and they've loved 'the end' and 1,000.50 more.",
]
REVIEWS = load_tokenizer("reviews")
FOLDER = Path(module.__file__).parent / "assets" / "reviews"


@pytest.fixture(scope="module")
def words() -> WordTokenizer:
    return WordTokenizer.from_texts(SENTENCES)


@pytest.fixture(scope="module")
def bundled() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


def byte_pair_encoding(**special: str) -> Any:
    """A BPE tokenizer trained on the spot; `special` maps pad_token and the like to texts."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=fast, **special)


# --- every tokenizer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokenizer",
    [
        CharTokenizer("abc "),
        WordTokenizer(["a", "b"]),
        REVIEWS,
        HFTokenizer(byte_pair_encoding(eos_token="<e>", pad_token="<p>", bos_token="<b>")),
    ],
    ids=repr,
)
def test_protocol(tokenizer: Tokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert load_tokenizer(tokenizer) is tokenizer
    assert copy.deepcopy(tokenizer) is tokenizer
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    assert hash(pickle.loads(pickle.dumps(tokenizer))) == hash(tokenizer)
    assert len(repr(tokenizer)) < 60
    assert tokenizer.pad_id != tokenizer.eos_id < tokenizer.num_actions <= tokenizer.vocab_size
    assert tokenizer.forbidden.shape == (tokenizer.num_actions,)
    assert not tokenizer.forbidden[tokenizer.eos_id]
    for special in (tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id):
        if special is not None and special < tokenizer.num_actions:
            assert tokenizer.forbidden[special]
    assert tokenizer.encode_prompt("")  # never empty
    assert tokenizer.encode_prompt("a b")[-1] == tokenizer.encode("a b")[-1]
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id]) == ""
    written = np.array(tokenizer.encode("a b"))  # ids may come as numpy integers
    assert tokenizer.decode(written) == tokenizer.decode(written.tolist())


def test_builtin_ids_keep_specials_outside_the_action_space() -> None:
    tokenizer = WordTokenizer(["x", "y", "z"])
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id) == (3, 4, 5, 6)
    assert (tokenizer.num_actions, tokenizer.vocab_size) == (4, 7)
    assert not tokenizer.forbidden.any()
    with pytest.raises(ValueError, match="read-only"):
        tokenizer.forbidden[0] = True


@pytest.mark.parametrize("words", [[], ["a", "a"], ["a", "<eos>"], ["a", ""]])
def test_bad_vocabulary(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"distinct|at least one"):
        WordTokenizer(words)


# --- characters -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3)))
def test_characters_round_trip(ids: list[int]) -> None:
    tokenizer = CharTokenizer("ab \n")
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_unknown_character() -> None:
    tokenizer = CharTokenizer("ab")
    assert tokenizer.encode("aXb") == [0, tokenizer.unk_id, 1]


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's", "it 's"),
        ("don't can't won\u2019t", "do n't ca n't wo n't"),
        ("they've we\u2019ll I'd I'm you're", "they 've we 'll i 'd i 'm you 're"),
        ("well-acted", "well - acted"),
        ("wait... or… no", "wait ... or ... no"),
        ("so -- it \u2013 is—bad - really", "so -- it -- is -- bad -- really"),
        ("O'Brien's", "o'brien 's"),
        ("the boys' film", "the boys ' film"),
        ("'the end'", "\u2018 the end '"),
        ('say "yes."', "say “ yes . ”"),
        ("“yes” (no)", "“ yes ” ( no )"),
        ("$1,000.50 in 1950s", "$ 1,000.50 in 1950s"),
        ("Cliché", "cliche"),
        ("a <unk> b", "a <unk> b"),
        ("", ""),
    ],
)
def test_split(text: str, expected: str) -> None:
    assert WordTokenizer.split(text) == expected.split()


@pytest.mark.parametrize("text", [sentence.lower() for sentence in SENTENCES])
def test_decode_restores_ordinary_text(words: WordTokenizer, text: str) -> None:
    assert words.decode(words.encode(text)) == text
    ids = words.encode(text)
    assert words.decode([words.bos_id, *ids, words.eos_id, words.pad_id]) == text


_WORD = st.sampled_from([w for w in REVIEWS.words if w.isalpha() and len(w) > 2])  # type: ignore[attr-defined]
_PLAIN = _WORD | st.tuples(_WORD, st.sampled_from(["'s", "n't", "'re", "'"])).map(" ".join)
_PLAIN |= st.tuples(_WORD, _WORD).map(" - ".join)
_PHRASE = st.lists(_PLAIN, min_size=1, max_size=5).map(" ".join)
_PHRASE |= _PHRASE.map("“ {} ”".format) | _PHRASE.map("( {} )".format)
_MARK = st.sampled_from([".", ",", "...", "!", "?", "--", ";"])
_SENTENCE = st.tuples(_PHRASE, _MARK).map(" ".join)


@given(st.lists(_SENTENCE, max_size=4).map(" ".join))
def test_words_round_trip_where_they_stand_as_people_write_them(written: str) -> None:
    ids = REVIEWS.ids(written.split())  # type: ignore[attr-defined]
    assert REVIEWS.unk_id not in ids
    assert REVIEWS.encode(REVIEWS.decode(ids)) == ids


def test_decode_of_any_ids_is_text_without_marks() -> None:
    ids = np.random.default_rng(0).integers(0, REVIEWS.vocab_size, 2000)
    text = REVIEWS.decode(ids)
    assert "\0" not in text and "  " not in text and text == text.lower()


def test_save_and_load(words: WordTokenizer, tmp_path: Path) -> None:
    words.save(tmp_path / "tokenizer.json")
    assert WordTokenizer.from_file(tmp_path) == words
    assert load_tokenizer(tmp_path) == words
    assert load_tokenizer(str(tmp_path / "tokenizer.json")) == words


def test_from_file_refuses_another_tokenizer(tmp_path: Path) -> None:
    byte_pair_encoding(eos_token="<e>", pad_token="<p>").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="AutoTokenizer"):
        WordTokenizer.from_file(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), HFTokenizer)


@given(st.text(alphabet="aefilmst19ÉÀ \n.,'\u2019\"“”\u2018-\u2013…()/$!?<>&_`", max_size=40))
def test_transformers_reads_the_same_ids(bundled: Any, text: str) -> None:
    assert bundled(text)["input_ids"] == REVIEWS.encode_prompt(text)
    assert bundled.encode(text, add_special_tokens=False) == REVIEWS.encode(text)


@given(st.lists(st.integers(0, REVIEWS.vocab_size - 1), max_size=30))
def test_transformers_decodes_the_same_text(bundled: Any, ids: list[int]) -> None:
    shown = [index for index in ids if index != REVIEWS.unk_id]
    assert bundled.decode(shown, skip_special_tokens=True) == REVIEWS.decode(shown)


def test_saved_by_transformers_loads_as_words(bundled: Any, tmp_path: Path) -> None:
    bundled.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path) == REVIEWS


# --- transformers ---------------------------------------------------------------------------------


def test_adapter_forbids_special_tokens_below_the_highest_action() -> None:
    special = {"eos_token": "<e>", "pad_token": "<p>", "bos_token": "<b>", "unk_token": "<u>"}
    tokenizer = HFTokenizer(byte_pair_encoding(**special))
    forbidden = set(np.flatnonzero(tokenizer.forbidden).tolist())
    assert forbidden == {tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id}
    assert tokenizer.num_actions == tokenizer.vocab_size
    text = "It's a well-acted film"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_adapter_leaves_an_added_pad_token_outside_the_action_space() -> None:
    plain = byte_pair_encoding(eos_token="<e>")
    size = len(plain)
    plain.add_special_tokens({"pad_token": "<pad>"})
    tokenizer = load_tokenizer(plain)
    assert (tokenizer.pad_id, tokenizer.num_actions) == (size, size)
    assert tokenizer.vocab_size == size + 1
    assert not tokenizer.forbidden.any()
    assert tokenizer.encode_prompt("") == [tokenizer.eos_id]


def test_prompts_get_the_prefix_but_not_the_suffix() -> None:
    from tokenizers import processors

    hf = byte_pair_encoding(eos_token="<e>", pad_token="<p>", bos_token="<b>")
    hf.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<b> $A <e>",
        special_tokens=[("<b>", hf.bos_token_id), ("<e>", hf.eos_token_id)],
    )
    tokenizer = HFTokenizer(hf)
    assert hf("film")["input_ids"][-1] == tokenizer.eos_id
    assert tokenizer.encode_prompt("film") == [tokenizer.bos_id, *tokenizer.encode("film")]
    assert tokenizer.encode_prompt("") == [tokenizer.bos_id]


@pytest.mark.parametrize(
    ("special", "message"),
    [
        ({"eos_token": "<e>"}, r"no padding token.*\{\"pad_token\": \"<pad>\"\}"),
        ({"eos_token": "<e>", "pad_token": "<e>"}, r"pads with its end token.*\"<pad>\""),
        ({"pad_token": "<p>"}, r"no end-of-text token.*eos_token"),
    ],
)
def test_adapter_names_the_remedy(special: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_tokenizer(byte_pair_encoding(**special))


# --- loading --------------------------------------------------------------------------------------


def test_bundled_tokenizer_is_read_once() -> None:
    assert load_tokenizer("reviews") is REVIEWS
    assert isinstance(REVIEWS, WordTokenizer)


def test_unknown_specs(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got 3"):
        load_tokenizer(3)
    with pytest.raises(ValueError, match=r"'reviews'.*Hub"):
        load_tokenizer("no-such-tokenizer")
    with pytest.raises(ValueError, match="neither"):
        load_tokenizer(tmp_path)


def test_missing_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"text_envs\[agents\]"):
        load_tokenizer("gpt2")


def test_import_leaves_transformers_out() -> None:
    code = (
        "import sys; from text_envs.tokenizers import load_tokenizer; load_tokenizer('reviews');"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
