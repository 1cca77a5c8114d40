"""What `import agents` loads beside torch, transformers' door and Stable-Baselines3."""

from __future__ import annotations

import subprocess
import sys

# What Stable-Baselines3 imports where it is installed (rich, matplotlib's and TensorBoard's hooks)
# is its own affair; what follows would be ours.
LATE = (
    "accelerate", "datasets", "h5py", "matplotlib", "minari", "moviepy", "nltk", "pandas",
    "pyarrow", "scipy", "sentence_transformers", "sklearn", "tensorboard", "torch._dynamo",
    "torch.distributed.tensor", "transformers.generation.utils", "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto", "transformers.models.gpt2", "transformers.pipelines",
)  # fmt: skip


def loaded(imports: str) -> set[str]:
    code = f"import sys, {imports}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_agents_loads_no_model_and_no_tool() -> None:
    ours = loaded("agents") - loaded("torch, transformers, stable_baselines3")
    assert not ours & {*LATE, "rich"}, sorted(ours & {*LATE, "rich"})
    foreign = {name for name in ours if name.split(".")[0] not in ("agents", "text_envs")}
    assert len(foreign) < 40, sorted(foreign)
