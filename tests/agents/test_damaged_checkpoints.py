"""Checkpoints whose checksums fit and whose contents do not: one error, of file and field."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import agents
from agents.checkpoints.storage import CheckpointError
from text_envs import datasets

TOY = "text_envs/Toy-v0"
MODEL = {"layers": 1, "width": 8}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small agents that have learnt for a moment."""
    folder = tmp_path_factory.mktemp("saved")
    kwargs: dict[str, Any] = {"seed": 0, "device": "cpu", "policy_kwargs": {"model": MODEL}}
    data = datasets.collect(TOY, "random", 12, seed=0)
    made = {
        "PPO": agents.PPO("CausalLMPolicy", TOY, n_episodes=8, num_envs=4, kl_coef=0.1, **kwargs),
        "HIR": agents.HIR("CausalLMPolicy", TOY, n_episodes=8, num_envs=4, group_size=2,
                          levels=[1.0], **kwargs),
        "DPG": agents.DPG("CausalLMPolicy", TOY, moments={"reward": 1.0}, n_episodes=32,
                          num_envs=8, proposal="adaptive", **kwargs),
        "ILQL": agents.ILQL("ValueGuidedPolicy", TOY, dataset=data, num_envs=4, **kwargs),
        "D2LOLS": agents.D2LOLS("CausalLMPolicy", TOY, guide="script:random", n_episodes=8,
                                **kwargs),
    }  # fmt: skip
    for name, agent in made.items():
        agent.learn(8)
        agent.save(folder / name)
    return {name: folder / name for name in made}


def sealed(folder: Path) -> None:
    """Make the checksums those of what is there now."""
    config = json.loads((folder / "config.json").read_text())
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "config.json")
    files += [folder / "policy" / "lm" / "config.json", folder / "reference" / "config.json"]
    config["files"] = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if p.is_file()
    }
    (folder / "config.json").write_text(json.dumps(config))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where in nested values something stands."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:3]) if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], new)
    return value


OTHER: Any = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.sampled_from([-1, 0, 1, 3, 10**9]),
    st.floats(), st.text(max_size=4), st.lists(st.integers(-3, 3), max_size=3),
    st.just({}), st.just({"omitted": 3}), st.just({"__tensor__": "99"}), st.just({"mapping": 2}),
    st.just({"linear_schedule": [1]}), st.just({"optimizer": "Optimizer"}), st.just({"n": -1}),
)  # fmt: skip
JSONS = ["config.json", "policy/policy.json", "state.json", "optimizer.json",
         "policy/lm/config.json"]  # fmt: skip
TENSORS = ["optimizer.safetensors", "state.safetensors", "policy/value.safetensors",
           "policy/lm/model.safetensors", "policy/heads.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", ["PPO", "HIR", "DPG", "ILQL", "D2LOLS"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_one_changed_field(
    name: str, saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("changed") / "x"
    shutil.copytree(saved[name], folder)
    file = folder / data.draw(st.sampled_from(JSONS), label="file")
    content = json.loads(file.read_text())
    keys = [p for p in places(content) if p and p[0] not in ("files", "save")]
    path = data.draw(st.sampled_from(keys), label="field")
    if data.draw(st.booleans(), label="remove") and isinstance(path[-1], str):
        content = json.loads(json.dumps(content))
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
    else:
        content = changed(content, path, data.draw(OTHER, label="value"))
    file.write_text(json.dumps(content))
    sealed(folder)
    try:
        agents_made = getattr(agents, name).load(folder, device="cpu")
    except CheckpointError as error:
        assert str(folder) in str(error)
    else:
        assert type(agents_made).__name__ == name
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["PPO", "HIR", "DPG", "ILQL"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_one_changed_tensor(
    name: str, saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("changed") / "x"
    shutil.copytree(saved[name], folder)
    names = [n for n in TENSORS if (folder / n).is_file() and load_file(folder / n)]
    file = folder / data.draw(st.sampled_from(names), label="file")
    tensors = load_file(file)
    key = data.draw(st.sampled_from(sorted(tensors)), label="tensor")
    kind = data.draw(st.sampled_from(["drop", "nan", "shape", "dtype", "extra", "empty"]))
    if kind == "drop":
        del tensors[key]
    elif kind == "nan":
        tensors[key] = torch.full_like(tensors[key].float(), float("nan"))
    elif kind == "shape":
        tensors[key] = torch.zeros((*tensors[key].shape, 2), dtype=tensors[key].dtype)
    elif kind == "dtype":
        tensors[key] = tensors[key].to(torch.int16)
    elif kind == "extra":
        tensors["extra"] = torch.zeros(2)
    else:
        tensors[key] = torch.zeros(0)
    save_file(tensors, file)
    sealed(folder)
    try:
        getattr(agents, name).load(folder, device="cpu")
    except CheckpointError as error:
        assert str(folder) in str(error)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("file", "path", "value", "message"),
    [
        ("state.json", ("num_timesteps",), -1, "state.json: num_timesteps must be an integer"),
        ("state.json", ("num_timesteps",), True, "state.json: num_timesteps must be an integer"),
        ("state.json", ("ep_info",), 3, "state.json: ep_info must be a list"),
        ("state.json", ("rng", "torch"), None, "state.json: rng: "),
        ("state.json", ("rng", "numpy"), [1], "state.json: rng: "),
        ("state.json", ("obs",), [1], "state.json: env: obs must be observations"),
        ("state.json", ("_current_progress_remaining",), 7, "must be in .0, 1., got 7"),
        ("optimizer.json", ("state", "0", "step"), -3, "state.0.step must be a whole number"),
        ("optimizer.json", ("param_groups", 0, "lr"), "x", "param_groups.0..lr must be like"),
        ("optimizer.json", ("param_groups", 0, "params"), [5], "params has not the numbers"),
        ("policy/policy.json", ("observation_space", "shape"), [10**12], "space.shape must be an"),
        ("policy/policy.json", ("observation_space", "dtype"), "O", "space.dtype must be of int"),
        ("policy/policy.json", ("arguments", "temperature"), -1, "temperature must be above 0"),
        ("policy/policy.json", ("arguments", "forbiden"), [], "forbiden"),
        ("policy/policy.json", ("vocabulary",), 3, "vocabulary must be null or facts"),
        ("policy/lm/config.json", ("n_layer",), 10**6, "n_layer is 1000000, beyond"),
        ("config.json", ("arguments", "gamma"), 5, "config.json: gamma must be in .0, 1."),
        ("config.json", ("arguments", "n_episodes"), "x", "config.json: n_episodes must be"),
        ("config.json", ("n_envs",), 0, "config.json: n_envs must be an integer"),
        ("config.json", ("reference",), "somebody/else", "reference must be null or one of"),
        ("config.json", ("policy",), "os.system", "policy is 'os.system', which is not among"),
        ("config.json", ("format",), True, "has checkpoint format True"),
    ],
)
def test_file_and_field_are_named(
    saved: dict[str, Path], tmp_path: Path, file: str, path: Any, value: Any, message: str
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(saved["PPO"], folder)
    content = json.loads((folder / file).read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / file).write_text(json.dumps(content))
    sealed(folder)
    with pytest.raises(CheckpointError, match=rf"{folder}.*{message}"):
        agents.PPO.load(folder, device="cpu")


def test_without_a_list_nothing_is_read(saved: dict[str, Path], tmp_path: Path) -> None:
    for value in ({}, [], None, {"config.json": "x"}, {"../x": "y"}, {"/etc/passwd": "y"},
                  {"policy/./policy.json": "y"}, {"policy/policy.json": 3}):  # fmt: skip
        folder = tmp_path / "x"
        shutil.copytree(saved["PPO"], folder)
        config = json.loads((folder / "config.json").read_text()) | {"files": value}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="files|checksum"):
            agents.PPO.load(folder)
        shutil.rmtree(folder)


def test_every_file_is_listed_and_every_needed_one_there(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(saved["PPO"], folder)
    (folder / "policy" / "lm" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="file policy/lm/adapter_config.json is not of this"):
        agents.PPO.load(folder)
    (folder / "policy" / "lm" / "adapter_config.json").unlink()
    (folder / ".DS_Store").write_text("a file manager's")
    agents.PPO.load(folder, device="cpu")
    for name in ("policy/policy.json", "policy/value.safetensors", "optimizer.json",
                 "optimizer.safetensors", "state.json", "policy/lm/model.safetensors"):  # fmt: skip
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        sealed(folder)
        with pytest.raises(CheckpointError, match=rf"{folder}.*{Path(name).name}"):
            agents.PPO.load(folder, device="cpu")
        (folder / name).write_bytes(content)


def archive(saved: Path, path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as zipped:
        for file in sorted(p for p in saved.rglob("*") if p.is_file()):
            zipped.write(file, file.relative_to(saved).as_posix())
    return path


def test_archives_unpack_what_is_listed_and_no_more(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(saved["PPO"], tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("large.bin", bytes(300 * 2**20))
        zipped.writestr("../../escaped.txt", "boo")
        zipped.writestr("/absolute.txt", "boo")
    written = []
    real = shutil.copyfileobj

    def copied(source: Any, target: Any, *args: Any) -> None:
        written.append(target.name)
        real(source, target, *args)

    monkeypatch.setattr("shutil.copyfileobj", copied)
    agents.PPO.load(path, device="cpu")
    assert written and not [n for n in written if "large" in n or "escaped" in n or "abs" in n]


def test_bombs_are_refused_before_they_are_unpacked(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(saved["PPO"], folder)
    (folder / "zeros.safetensors").write_bytes(bytes(200 * 2**20))
    sealed(folder)
    path = archive(folder, tmp_path / "bomb.zip", zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"bomb\.zip: \d+ bytes would unpack to"):
        agents.PPO.load(path)
    agents.PPO.load(archive(saved["PPO"], tmp_path / "small.zip", zipfile.ZIP_DEFLATED))


def test_loading_runs_no_code(saved: dict[str, Path], tmp_path: Path) -> None:
    """Neither what a configuration names as its code, nor a pickle that lies there."""
    mark = tmp_path / "ran"
    folder = tmp_path / "x"
    shutil.copytree(saved["PPO"], folder)
    lm = folder / "policy" / "lm"
    (lm / "mine.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass M: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((lm / name).read_text())
        content["auto_map"] = {
            key: "mine.M" for key in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
        }
        (lm / name).write_text(json.dumps(content))
    (lm / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n(S'touch x'\ntR.")
    sealed(folder)
    try:
        agents.PPO.load(folder, device="cpu")
    except CheckpointError:
        pass
    assert not mark.exists()
