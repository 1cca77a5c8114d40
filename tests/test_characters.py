"""Characters of several tokens, unfinished ones, and codes that must not reach a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import SENTENCES, byte_fallback, byte_level, unigram, word_piece
from hypothesis import given, settings
from hypothesis import strategies as st

import text_envs
from text_envs import render
from text_envs.episodes.types import Example, Role
from text_envs.render.cells import OPEN, PART, cells_of_row
from text_envs.render.pages import TokenRow, page, write_page
from text_envs.render.text import show
from text_envs.render.visible import one_line, visible
from text_envs.tokenizers import CharTokenizer, HFTokenizer, load_tokenizer
from text_envs.tokens.spelling import Speller

LOST = "\N{REPLACEMENT CHARACTER}"
BYTES = HFTokenizer(
    byte_level("</s>", "<pad>", texts=SENTENCES, eos_token="</s>", pad_token="<pad>")
)
FALLBACK = load_tokenizer(
    byte_fallback(bos_token="<s>", eos_token="</s>", unk_token="<unk>"), add_padding=True
)
WORDS = load_tokenizer(
    unigram(eos_token="</s>", bos_token="<s>", pad_token="<pad>"), add_padding=True
)
PIECES = load_tokenizer(word_piece(eos_token="[SEP]", pad_token="[PAD]"))


class Opaque:
    """A tokenizer of bytes that tells nobody so: only its texts are known."""

    def __init__(self) -> None:
        self.vocab_size, self.num_actions, self.pad_id, self.eos_id = 258, 257, 257, 256
        self.bos_id = self.unk_id = None
        self.forbidden = np.zeros(257, dtype=bool)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    encode_prompt = encode

    def decode(self, ids: Any) -> str:
        return bytes(int(i) for i in ids if i < 256).decode(errors="replace")


OPAQUE = Opaque()
KINDS = {"bytes": BYTES, "fallback": FALLBACK, "words": WORDS, "pieces": PIECES, "opaque": OPAQUE}


def shown(tokenizer: Any, ids: list[int]) -> str:
    """Return what the cells of a row show, without marks."""
    found = cells_of_row(Speller(tokenizer), ids, [int(Role.ACTION)] * len(ids))
    assert all(cell.text and cell.text.endswith(cell.mark) for cell in found)
    parts = [c.lead + c.text.removesuffix(c.mark) + c.tail for c in found if c.mark or c.text]
    return "".join(parts)


# -- pieces ---------------------------------------------------------------------------------------


@given(st.sampled_from(["bytes", "fallback", "opaque"]), st.text(max_size=12))
def test_pieces_of_any_text_make_what_the_tokenizer_decodes(kind: str, text: str) -> None:
    tokenizer: Any = KINDS[kind]
    ids = tokenizer.encode(text.encode(errors="ignore").decode())
    pieces = Speller(tokenizer).spell(ids)
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(ids)
    assert not any(piece.mark == OPEN for piece in pieces)


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_tokens_are_spelled_without_noise(kind: str, data: Any) -> None:
    tokenizer: Any = KINDS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.num_actions - 1), max_size=10))
    ids = [i for i in ids if i != tokenizer.pad_id]
    pieces, whole = Speller(tokenizer).spell(ids), tokenizer.decode(ids)
    text = "".join(piece.text for piece in pieces)
    assert LOST not in text
    if LOST not in whole:
        assert text == whole
    else:
        assert any(piece.mark == OPEN for piece in pieces)
    if kind in ("bytes", "opaque"):
        assert text == whole.replace(LOST, "")


@pytest.mark.parametrize("kind", ["bytes", "fallback", "opaque"])
def test_a_character_stands_at_the_last_of_its_tokens(kind: str) -> None:
    tokenizer: Any = KINDS[kind]
    ids = tokenizer.encode("a 🙂")[-4:]
    assert Speller(tokenizer).spell(ids) == [("", PART)] * 3 + [("🙂", "")]
    speller = Speller(tokenizer)
    for stop in (1, 2, 3):  # while it is written, and where it stays unfinished
        assert speller.spell(ids[:stop]) == [("", OPEN)] * stop
        assert speller.text([*ids, *ids[:stop]]) == "🙂" + OPEN * stop
    broken = [*ids[:2], *ids]
    assert speller.spell(broken)[:2] == [("", OPEN)] * 2
    assert speller.text(broken) == OPEN * 2 + "🙂"


@pytest.mark.parametrize("kind", ["bytes", "fallback", "opaque"])
def test_the_replacement_character_of_a_text_is_its_own(kind: str) -> None:
    tokenizer: Any = KINDS[kind]
    ids = tokenizer.encode(f"a{LOST}b")
    assert Speller(tokenizer).text(ids) == tokenizer.decode(ids) == f"a{LOST}b"


def test_unknown_characters_are_shown_as_before() -> None:
    tokenizer = CharTokenizer("ab")
    assert Speller(tokenizer).text(tokenizer.encode("aX")) == f"a{LOST}"


def test_special_tokens_between_change_no_text() -> None:
    for tokenizer, text in ((WORDS, "привет мир"), (PIECES, "привет мир"), (BYTES, "the film")):
        ids = tokenizer.encode(text)
        mixed = [ids[0], tokenizer.eos_id, *ids[1:]]
        assert Speller(tokenizer).text(mixed) == tokenizer.decode(mixed)


# -- pictures -------------------------------------------------------------------------------------


class Emoji(text_envs.Task):
    """Continue a prompt whose characters have several tokens each."""

    reward = staticmethod(lambda episodes: np.ones(len(episodes)))

    def __init__(self, tokenizer: Any = BYTES, prompt: str = "你hi") -> None:
        super().__init__(
            [Example(prompt)], tokenizer=tokenizer, prompt_length=60, max_tokens=30
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["bytes", "fallback", "opaque"])
@pytest.mark.parametrize("mode", ["ansi", "html", "rgb_array"])
def test_pictures_of_characters_and_of_their_parts(kind: str, mode: str) -> None:
    tokenizer: Any = KINDS[kind]
    env = text_envs.TokenEnv(Emoji(tokenizer), render_mode=mode)
    env.reset(seed=0)
    for token in tokenizer.encode("好🙂")[-7:]:
        env.annotate("value", 0.5)
        env.step(token)
        picture = env.render()
        assert mode == "rgb_array" or (LOST not in picture and "你" in picture)
    plain = render.ansi(env.engine, 0, colour=False)
    assert "[你hi]" in plain and "好🙂" in plain and PART not in plain
    if mode == "html":  # each token has its own box and numbers, also where it shows no character
        assert picture.count("value +0.5") == 7 and f">{PART}<" in picture and ">🙂<" in picture
    env.step(tokenizer.encode("🙂")[-4])
    assert render.ansi(env.engine, 0, colour=False).endswith(OPEN)


def test_prompts_that_begin_inside_a_character() -> None:
    ids = BYTES.encode("🙂 film")
    task = text_envs.Task(
        [Example("🙂 film")], tokenizer=BYTES, prompt_length=len(ids) - 2, max_tokens=3,
        truncate_prompts=True,
    )  # fmt: skip
    env = text_envs.TokenEnv(task, reward=lambda e: np.zeros(len(e)), render_mode="html")
    env.reset(seed=0)
    assert LOST not in env.render() and f"{OPEN}{OPEN} film" in env.render()


def test_a_pilcrow_of_the_text_is_no_end() -> None:
    env = text_envs.TokenEnv(Emoji(CharTokenizer("a\u00b6"), "a"), render_mode="ansi")
    env.reset(seed=0)
    for token in (0, 1, 0):
        env.step(token)
    assert render.ansi(env.engine, 0, colour=False) == "[a]a\u00b6a"


# -- signs ----------------------------------------------------------------------------------------

EVERY = [chr(code) for code in (*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFB00, 0x10000))]
EVERY += [chr(c) for c in (0x1F642, 0x1FAE9, 0xE0001, 0xE0041, 0xE0100, 0xF0000, 0x10FFFF)]
CODES = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def dangerous(text: str) -> list[str]:
    return [c for c in text if c != "\n" and unicodedata.category(c) in CODES]


def test_no_code_stays_and_every_other_character_does() -> None:
    assert {unicodedata.category(c) for c in EVERY} >= set(CODES) | {"Cn", "Mn", "Zs", "Lo", "So"}
    for character in EVERY:
        sign = visible(character)
        assert not dangerous(sign) and sign.strip(" ") or character in " \n" or sign == character
        sign.encode("utf-8")
        assert visible(sign) == sign and one_line("a\n" + character).count("\n") == 0
    assert visible("é ñ 你 🙂 ❤\ufe0f\n") == "é ñ 你 🙂 ❤\ufe0f\n"
    assert visible("\x1b[31m\u202e\u200b\x85") == "\u241b[31m<U+202E><U+200B><U+0085>"


@settings(max_examples=60)
@given(st.text(st.characters() | st.sampled_from(EVERY), min_size=1, max_size=8))
def test_no_code_of_a_text_reaches_a_picture(text: str) -> None:
    letters = "".join(dict.fromkeys(text))
    tokenizer = CharTokenizer(letters)
    for mode in ("ansi", "html", "rgb_array"):
        env = text_envs.TokenEnv(Emoji(tokenizer, text), render_mode=mode)
        env.reset(seed=0)
        for token in tokenizer.encode(text):
            env.step(token)
        picture = env.render()
        if mode == "rgb_array":
            continue
        for code in ("\x1b[2m", "\x1b[1m", "\x1b[0m"):
            picture = picture.replace(code, "")
        assert not dangerous(picture)
        picture.encode("utf-8")


def test_pages_of_hostile_rows(tmp_path: Path) -> None:
    bad = '<script>\x1b\u202e\x00\ud800"&\r'
    row = TokenRow(bad, [bad, "\t", " a\x0bb "], {bad: [0.1, 0.2, 0.3]}, bad)
    text = page(bad, {bad: [row]}, bad)
    assert not dangerous(text) and "<script" not in text
    write_page(tmp_path / "p.html", bad, {bad: [row]})


def test_names_of_scores_and_reasons_are_signs_too() -> None:
    env = text_envs.TokenEnv(Emoji(), render_mode="rgb_array")
    env.reset(seed=0)
    env.annotate("a\nb\x1b\ud800", 0.5)
    env.render_score = "a\nb\x1b\ud800"
    assert env.render().shape == (360, 640, 3)


def test_a_token_with_lines_inside_is_drawn() -> None:
    hf = byte_level("</s>", "<pad>", eos_token="</s>", pad_token="<pad>")
    hf.add_tokens(["x\ny"])
    for mode in ("ansi", "html", "rgb_array"):
        env = text_envs.TokenEnv(Emoji(HFTokenizer(hf)), render_mode=mode)
        env.reset(seed=0)
        env.step(hf.convert_tokens_to_ids("x\ny"))
        env.render()


# -- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8", "utf-16"])
def test_streams_that_cannot_show_a_character(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    show("a 🙂 \u241b", stream)
    text = raw.getvalue().decode(encoding)
    assert text.rstrip() == ("a 🙂 \u241b" if encoding.startswith("utf") else "a ? ?")


def test_human_mode_without_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    env = text_envs.TokenEnv(Emoji(), render_mode="human")
    env.reset(seed=0)
    env.step(BYTES.encode("🙂")[0])


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("vector", [False, True])
def test_human_mode_in_any_locale(encoding: str, vector: bool) -> None:
    code = (
        "import text_envs, numpy as np\n"
        "from text_envs.tokenizers import CharTokenizer\n"
        "t = text_envs.Task([text_envs.Example('你 🙂')], tokenizer=CharTokenizer('你🙂 \\x1b'),"
        " prompt_length=5, max_tokens=3)\n"
        "kw = dict(reward=lambda e: np.zeros(len(e)), render_mode='human')\n"
        f"env = text_envs.TokenVectorEnv(t, num_envs=1, **kw) if {vector} else"
        " text_envs.TokenEnv(t, **kw)\n"
        f"env.reset(seed=0); env.step(np.array([3]) if {vector} else 3)\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 0 and not done.stderr
    assert b"???" in done.stdout
