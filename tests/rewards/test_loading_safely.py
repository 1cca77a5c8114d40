"""No code and no pickle of a model is run, no question is asked, and no name is waited for."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_server import Reply, Server

import text_envs
from text_envs.lm import load_lm
from text_envs.rewards import resolve
from text_envs.tokenizers import load_tokenizer
from text_envs.tokens.hub import find_model

ROOT = Path(text_envs.__file__).parent.parent

# -- every call that could run code says that it must not -----------------------------------------

LOADERS = {
    "from_pretrained", "from_config", "pipeline", "SentenceTransformer", "CrossEncoder",
    "SparseEncoder", "load_dataset", "load_metric", "BERTScorer", "get_class_from_dynamic_module",
}  # fmt: skip
OTHERS = {"minari.load_dataset", "peft.LoraConfig.from_pretrained"}  # know no such argument


def calls(tree: ast.AST) -> Iterator[tuple[int, str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.rpartition(".")[2] in LOADERS and name not in OTHERS:
                yield node.lineno, name, node


def test_every_loading_call_forbids_code() -> None:
    seen, wrong = 0, []
    for folder in ("text_envs", "agents", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, name, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
                seen += 1
                given = {k.arg: ast.unparse(k.value) for k in call.keywords}
                if given.get("trust_remote_code") != "False":
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "\n".join(["trust_remote_code=False is missing:", *wrong])
    assert seen >= 10  # the walk finds something


def test_every_model_is_read_from_safetensors() -> None:
    """Calls of model classes, those of tokenizers and configurations left out."""
    for folder in ("text_envs", "agents", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, name, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
                if not name.endswith("from_pretrained") or "Tokenizer" in name or "Config" in name:
                    continue
                source = ast.unparse(call)
                safe = "use_safetensors=True" in source or "**options" in source
                assert safe, f"{path.relative_to(ROOT)}:{line}: {source}"


# -- folders that bring code or pickles -----------------------------------------------------------


def with_code(source: Path, target: Path, model_type: str | None = None) -> Path:
    """Copy a model's folder and have every file of it ask for code that leaves a trace."""
    shutil.copytree(source, target)
    (target / "evil.py").write_text(
        f"open({str(target / 'ran')!r}, 'w').write('yes')\nclass C: pass\n"
    )
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((target / name).read_text())
        kinds = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
        content["auto_map"] = {kind: "evil.C" for kind in (*kinds, "AutoModelForCausalLM")}
        content["auto_map"]["AutoTokenizer"] = ["evil.C", "evil.C"]
        if model_type is not None and name == "config.json":
            content["model_type"] = model_type
        if model_type is not None and name == "tokenizer_config.json":
            content["tokenizer_class"] = "Unheard"
        (target / name).write_text(json.dumps(content))
    return target


OPENED: dict[str, Callable[[str], Any]] = {
    "hf": lambda folder: resolve(f"hf:{folder}"),
    "hf-preference": lambda folder: resolve(f"hf-preference:{folder}", head="pairwise", label=0),
    "bertscore": lambda folder: resolve("bertscore", model=folder),
    "embedding": lambda folder: resolve("embedding", model=folder),
    "likelihood": lambda folder: resolve("likelihood", model=folder),
    "load_lm": load_lm,
    "load_lm seq2seq": lambda folder: load_lm(folder, seq2seq=True),
    "load_tokenizer": load_tokenizer,
}


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: Any) -> str:
        raise AssertionError("the user was asked for leave to run code")

    monkeypatch.setattr("builtins.input", asked)


@pytest.mark.parametrize("name", OPENED)
@pytest.mark.parametrize("model_type", [None, "unheard"])
def test_code_of_a_folder_never_runs(
    name: str, model_type: str | None, classifier_path: Path, tmp_path: Path, unasked: None
) -> None:
    if name in ("bertscore", "embedding"):
        pytest.importorskip("bert_score" if name == "bertscore" else "sentence_transformers")
    folder = with_code(classifier_path, tmp_path / "model", model_type)
    try:
        OPENED[name](str(folder))
    except ValueError as error:
        assert str(folder) in str(error)
    else:
        assert model_type is None or name == "load_tokenizer"
    assert not (folder / "ran").exists()


def test_parts_of_an_embedding_model_are_the_packages_own(
    sentences_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sentences_path, folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    parts = json.loads((folder / "modules.json").read_text())
    parts.append({"idx": len(parts), "name": "x", "path": "", "type": "evil.C"})
    (folder / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(ValueError, match="'evil.C', code of its own, which is never run"):
        resolve("embedding", model=str(folder))
    assert not (folder / "ran").exists()


LOADING = [name for name in OPENED if name != "load_tokenizer"]


@pytest.mark.parametrize("name", LOADING)
def test_pickles_are_refused(name: str, classifier_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(classifier_path, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"'pytorch_model.bin', which may run any code.*safetens"):
        OPENED[name](str(folder))


@pytest.mark.parametrize("name", LOADING)
@pytest.mark.parametrize(
    "shard",
    ["../other/model.safetensors", "/tmp/model.safetensors", "sub/model.safetensors",
     "..\\model.safetensors", "C:model.safetensors", "pytorch_model.bin", 7, None],
)  # fmt: skip
def test_an_index_stays_in_its_folder(
    name: str, shard: Any, classifier_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(classifier_path, folder)
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="as a file of weights; accepted: safetensors in its own"):
        OPENED[name](str(folder))
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="is no index of weights"):
        OPENED[name](str(folder))


def test_weights_in_several_files_are_read(gpt2: Any, tmp_path: Path) -> None:
    model = gpt2(50)
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert torch.equal(load_lm(tmp_path)[0].lm_head.weight, model.lm_head.weight)


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOADING)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("x", "cannot be asked for it: HF_HUB_OFFLINE is set"),
        ("owner/model", "cannot be asked for it: HF_HUB_OFFLINE is set"),
        ("./not/there", "no folder '[./]*not/there', and it cannot be a name of the Hub"),
        ("/not/there/at/all", "cannot be a name of the Hub"),
        ("a/b/c", "cannot be a name of the Hub"),
        ("two words", "cannot be a name of the Hub"),
    ],
)
def test_names_without_a_hub(name: str, model: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=message):
        OPENED[name](model)
    assert time.monotonic() - began < 2


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("")
    with pytest.raises(ValueError, match="is a file; accepted: the folder of a model"):
        find_model(tmp_path / "weights")


class Endpoint:
    """Addresses at which no Hub answers: nobody listens, a host without an address, or silence."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __enter__(self) -> str:
        import socket

        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        if self.kind == "silence":
            self.socket.listen(8)
        host = "nobody.invalid" if self.kind == "no name" else "127.0.0.1"
        return f"http://{host}:{self.socket.getsockname()[1]}"

    def __exit__(self, *args: Any) -> None:
        self.socket.close()


ASKING = """
import sys, time, warnings
from text_envs.rewards import resolve
from text_envs.lm import load_lm
from text_envs.exact import evaluate
import gymnasium as gym
began = time.monotonic()
for make in (
    lambda: resolve("hf:owner/model"),
    lambda: load_lm("x"),
    lambda: evaluate(gym.make("text_envs/Toy-v0"), "x"),
):
    try:
        make()
    except ValueError as error:
        print(error)
    now = time.monotonic()
    print("seconds", now - began)
    began = now
"""


@pytest.mark.parametrize("kind", ["no name", "silence"])
def test_a_hub_that_cannot_be_reached_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    with Endpoint(kind) as address:
        env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "NO_PROXY": "*"}
        env |= {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", ASKING], capture_output=True, text=True, env=env, check=True
        )
    lines = done.stdout.splitlines()
    told = [line for line in lines if not line.startswith("seconds")]
    assert len(told) == 3 and all(f"{address} cannot be reached" in line for line in told), lines
    seconds = [float(line.split()[1]) for line in lines if line.startswith("seconds")]
    assert max(seconds[1:]) < 12 and seconds[0] < 15  # of which most is importing


def test_what_was_downloaded_before_is_used(classifier_path: Path, tmp_path: Path) -> None:
    inside = tmp_path / "hub" / "models--owner--model"
    (inside / "refs").mkdir(parents=True)
    (inside / "refs" / "main").write_text("0" * 40)
    shutil.copytree(classifier_path, inside / "snapshots" / ("0" * 40))
    code = (
        "from text_envs.rewards import resolve\n"
        "print(resolve('hf:owner/model').score_texts(['a film']).shape)"
    )
    with Endpoint("nobody") as address:
        env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "NO_PROXY": "*"}
        env |= {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
        )
    assert done.stdout.strip() == "(1,)"


def test_any_answer_counts_as_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from text_envs.tokens.hub import _answers

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(lambda number, body: Reply({})) as server:
        assert _answers(server.url)  # a refusal: it knows no HEAD
    before = threading.active_count()
    assert not _answers(server.url) and not _answers("no address")
    assert threading.active_count() <= before
