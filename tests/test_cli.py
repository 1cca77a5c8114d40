"""`python -m text_envs`: what a person sees, also when something is mistyped."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import text_envs
from text_envs.cli.main import UsageError, find_id, main

EXAMPLES = Path(text_envs.__file__).parent.parent / "examples"


def run(*arguments: str, typed: str = "") -> tuple[int, str]:
    """Run a command with `typed` on its standard input; return exit code and output."""
    out = io.StringIO()
    return main(list(arguments), io.StringIO(typed), out), out.getvalue()


def test_list_has_a_line_for_every_id() -> None:
    code, text = run("list")
    lines = text.splitlines()
    assert code == 0 and [line.split()[0] for line in lines] == text_envs.list_ids()
    assert all(len(line.split()) > 4 for line in lines)


def test_show_prints_card_spaces_and_scores() -> None:
    code, text = run("show", "Toy-v0")
    assert code == 0
    assert "## Rewards" in text and "Box(0, 5, (4,), int64)" in text and "Discrete(3)" in text
    assert "random, mixed, expert" in text and "1.500 ± 0.000" in text


def test_show_speaks_of_the_arguments_given() -> None:
    assert "Box(0, 5, (9,), int64)" in run("show", "Toy-v0", "--kwargs", '{"max_tokens": 8}')[1]


def test_play_one_text() -> None:
    code, text = run("play", "Toy-v0", typed="a\nb\n\n")
    assert code == 0 and "The end (stop): 'a b'" in text and "Return: 1.5" in text
    assert "Normalised score: 1.00" in text
    _, text = run("play", "Toy-v0", typed="b b b b b\n")
    assert "The end (length): 'b b b'" in text


def test_play_turns_shows_rewards_and_replies() -> None:
    code, text = run("play", "Maze-v0", "--seed", "3", typed="down\nUP\n\n/quit\n")
    assert code == 0 and text.count("reward -1") == 3 and "Stopped. Reward so far: -3" in text
    assert text.count("> reward -1\nat ") == 3
    assert text == run("play", "Maze-v0", "--seed", "3", typed="down\nUP\n\n/quit\n")[1]


@pytest.mark.parametrize("typed", ["", "a\n"])
def test_play_with_a_closed_input(typed: str) -> None:
    code, text = run("play", "Toy-v0", typed=typed)
    assert code == 0 and "The input has ended." in text and "Reward so far: 0" in text


def test_a_wrong_word_costs_nothing_and_near_words_are_shown() -> None:
    _, text = run("play", "Reviews-v0", "--seed", "1", typed="a wonderfull film\nwonderful\n\n")
    assert "'wonderfull' cannot be written here, so nothing was." in text
    assert "wonderful" in text.partition("Near it: ")[2].splitlines()[0]
    assert "The end (stop): 'wonderful'" in text
    _, text = run("play", "Toy-v0", typed="xyz\n<unk>\n\n")
    assert text.count("/words shows what can.") == 2 and "The end (stop): ''" in text


def test_commands_of_play() -> None:
    _, text = run("play", "Reviews-v0", typed="/words wonder\n/words qqq\n/words\n/help\n/quit\n")
    assert "wonderful" in text and "None starts with 'qqq'." in text
    assert "... and 39" in text and text.count("/quit stops.") == 2


def test_check_passes_and_fails() -> None:
    code, text = run("check", "Toy-v0")
    assert code == 0 and text.count("ok ") == 14 and "no checks failed" in text
    code, text = run("check", "Toy-v0", "--kwargs", '{"reward": "constant"}')
    assert code == 0


def test_check_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from text_envs.tasks.toy import Toy

    monkeypatch.setattr(Toy, "qualities", ("expert",))
    code, text = run("check", "Toy-v0")
    assert code == 1 and "FAILED" in text and "lack 'random'" in text and "1 check failed" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "Toi-v0"], "unknown id 'Toi-v0'. Did you mean 'Toy-v0'?"),
        (["play", "reviews"], "Did you mean 'Reviews-v0'?"),
        (["check", "no_such_module:a/B-v0"], "cannot import module 'no_such_module'"),
        (["play", "Toy-v0", "--kwargs", "{"], "--kwargs is not JSON"),
        (["play", "Toy-v0", "--kwargs", "[1]"], "--kwargs must be a JSON object"),
        (["show", "Toy-v0", "--kwargs", '{"max_token": 3}'], "Did you mean 'max_tokens'"),
        (["check", "Maze-v0", "--kwargs", '{"layout": "t"}'], "unknown layout 't'"),
        (["play", "Toy-v0", "--seed", "-1"], "--seed must be an integer of at least 0, got -1"),
        (["show", ":Toy-v0"], "cannot import module '' of ':Toy-v0' (ValueError"),
        (["show", ".a:Toy-v0"], "cannot import module '.a'"),
        (["show", ""], "unknown id ''"),
        (["show", "text_env/Maze"], "Did you mean 'Maze-v0'?"),
        (["check", "Mazev0"], "Did you mean 'Maze-v0'?"),
        (["play", "CartPole-v1"], "is no environment of single tokens"),
        (["play", "\x1b[2J\u202e"], "unknown id '\\x1b[2J\\u202e'"),
        (["show", "Toy-v0", "--kwargs", '{"reward": "nothing_here"}'], "unknown reward"),
        (
            ["show", "Generation-v0", "--kwargs", '{"dataset": "none.csv"}'],
            "text_envs/Generation-v0 cannot be made: none.csv: cannot read the file",
        ),
    ],
)
def test_usage_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments)[0] == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and "creator" not in error


def test_a_reward_model_that_fails_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    broken = '{"reward": "json:loads"}'
    assert run("play", "Toy-v0", "--kwargs", broken, typed="\n")[0] == 2
    assert "reward model 'loads' raised TypeError" in capsys.readouterr().err


def test_ids_are_found_with_and_without_the_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert find_id("Toy-v0") == find_id("text_envs/Toy-v0") == "text_envs/Toy-v0"
    assert find_id("text_envs:text_envs/Toy-v0") == "text_envs/Toy-v0"
    assert find_id("add_a_task:examples/Opposites-v0") == "examples/Opposites-v0"
    with pytest.raises(UsageError, match="Did you mean 'examples/Opposites-v0'"):
        find_id("add_a_task:examples/Opposite-v0")


def command(*arguments: str, typed: bytes | None = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "text_envs", *arguments],
        input=typed, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_program_itself() -> None:
    done = command("play", "Toy-v0", typed=b"caf\xe9\na b\n\n")
    assert done.returncode == 0 and b"Return: 1.5" in done.stdout and not done.stderr
    assert b"cannot be written here" in done.stdout
    assert command("show").returncode == 2 and command("shou").returncode == 2


def test_no_input_and_no_reader() -> None:
    shell = f"{sys.executable} -m text_envs play Toy-v0 <&-"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and b"The input has ended" in done.stdout and not done.stderr
    shell = f"{sys.executable} -m text_envs show Toy-v0 | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60, check=False)
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("arguments", [("list",), ("show", "Wordle-v0"), ("show", "Toy-v0")])
def test_outputs_that_lack_a_character(encoding: str, arguments: tuple[str, ...]) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    assert main(list(arguments), io.StringIO(), stream) == 0 and stream.errors == "strict"
    assert len(raw.getvalue().decode(encoding)) > 200


def test_the_program_in_a_plain_locale() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    kwargs = json.dumps({"dataset": ["\u4f60 \u202e\x1b[2J film"], "max_unknown": 1})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "text_envs", "play", "Generation-v0",
         "--kwargs", kwargs],
        input=b"film\n\n", capture_output=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr and b"\x1b" not in done.stdout
    assert b"The end (stop): 'film'" in done.stdout


def test_streams_that_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    out = io.StringIO()
    assert main(["play", "Toy-v0"], closed, out) == 0 and "has ended" in out.getvalue()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["play", "Toy-v0"]) == 0 and main(["list"]) == 0


def test_an_input_that_cannot_be_read() -> None:
    shell = f"{sys.executable} -m text_envs play Toy-v0 0>/dev/null"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and b"has ended" in done.stdout and not done.stderr
    shell = f"{sys.executable} -m text_envs list >&-"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_foreign_code_that_fails_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half_written.py").write_text("def f(:\n", encoding="utf-8")
    (tmp_path / "their_task.py").write_text(
        "import text_envs\n"
        "from text_envs.tokenizers import WordTokenizer\n"
        "class Broken(text_envs.Task):\n"
        "    def __init__(self, when='made'):\n"
        "        if when == 'made':\n"
        "            raise KeyError('lost')\n"
        "        super().__init__([text_envs.Example('a')], tokenizer=WordTokenizer(['a']),\n"
        "                         prompt_length=2, max_tokens=2)\n"
        "    def prompts(self, indices):\n"
        "        raise OSError('gone')\n"
        "text_envs.register('theirs/Broken-v0', 'their_task:Broken')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for arguments, message in (
        (["show", "half_written:a/B-v0"], "(SyntaxError"),
        (["show", "their_task:theirs/Broken-v0"], "cannot be made: KeyError: 'lost'"),
        (
            ["play", "theirs/Broken-v0", "--kwargs", '{"when": "later", "reward": "constant"}'],
            "failed while it was played (OSError: gone)",
        ),
    ):
        assert run(*arguments)[0] == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and "Traceback" not in error
