"""Train the bundled causal language model: teachers first, then a small student of their mean.

Three hundred thousand words are few, so every stage is about regularisation:
    teachers   two transformers and a recurrent model, trained on the words themselves,
               L = -log q(x_t | x_<t); plot summaries join in the first part of the training
    student    the model that is bundled, trained on the words and on the teachers' mean p,
               L = (1 - a) * (-log q(x_t | x_<t)) + a * (-sum_w p(w | x_<t) log q(w | x_<t))
In all of them some input words are replaced by words drawn from the corpus ("noise"), which works
like the smoothing of counts: a prediction may not hang on one word before it.
Unknown words stay in the input and are never a target of the first term.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from text_envs.assets.build.corpus import Corpus
from text_envs.assets.build.recurrent import RecurrentLM
from text_envs.tokens.builtin import WordTokenizer

BATCH = 64  # sequences of about equal length
MAX_WORDS = 100  # of a plot summary; no review is longer
POSITIONS = 128
WARM_UP = 0.05  # share of the steps
Teacher = Callable[[Tensor], Tensor]  # ids (B, T) -> probabilities (B, T, V)


@dataclass(frozen=True)
class Recipe:
    """Shape and training of one model; without heads it is recurrent."""

    width: int
    layers: int
    heads: int | None
    dropout: float
    epochs: int
    learning_rate: float
    weight_decay: float
    noise: float
    plots_until: float  # share of the epochs in which plot summaries join
    taught: float  # weight a of the teachers' mean in the loss
    seed: int


TEACHERS = (
    Recipe(160, 4, 4, 0.25, 15, 2e-3, 0.2, 0.1, 0.5, 0.0, seed=1),
    Recipe(128, 4, 8, 0.2, 15, 2.5e-3, 0.2, 0.1, 0.5, 0.0, seed=2),
    Recipe(320, 2, None, 0.5, 16, 3e-3, 0.05, 0.05, 0.5, 0.0, seed=3),
)
STUDENT = Recipe(128, 4, 4, 0.1, 14, 2.5e-3, 0.1, 0.1, 0.5, 0.8, seed=4)


def build(recipe: Recipe, tokenizer: WordTokenizer) -> Any:
    """Return an untrained model of the recipe's shape: a stock GPT-2, or a recurrent one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(recipe.seed)
    if recipe.heads is None:
        return RecurrentLM(tokenizer.vocab_size, recipe.width, recipe.layers, recipe.dropout)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=POSITIONS,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        resid_pdrop=recipe.dropout,
        embd_pdrop=recipe.dropout,
        attn_pdrop=0.1,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    return GPT2LMHeadModel(config)


class Data:
    """The corpus as ids: begin, words, end."""

    def __init__(self, corpus: Corpus, tokenizer: WordTokenizer) -> None:
        def rows(texts: list[tuple[str, ...]]) -> list[list[int]]:
            t = tokenizer
            return [[t.bos_id, *t.ids(words[:MAX_WORDS]), t.eos_id] for words in texts]

        self.tokenizer = tokenizer
        self.train = rows([review.words for review in corpus.train])
        self.held_out = rows([review.words for review in corpus.held_out])
        self.plots = rows(corpus.plots)
        self.words = torch.tensor([i for row in self.train for i in row[1:-1]])

    def batches(self, rows: list[list[int]], rng: np.random.Generator) -> Iterator[Tensor]:
        """Yield `(B, T)` padded ids, rows of similar length together, in random order."""
        lengths = np.array([len(row) for row in rows])
        order = np.argsort(lengths + rng.uniform(0, 4, len(rows)))
        groups = [order[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(groups)
        for group in groups:
            batch = torch.full((len(group), int(lengths[group].max())), self.tokenizer.pad_id)
            for row, index in enumerate(group):
                batch[row, : lengths[index]] = torch.tensor(rows[index])
            yield batch

    def noised(self, ids: Tensor, share: float) -> Tensor:
        """Return `ids` with a share of the words replaced by words drawn from the corpus."""
        fixed = (ids == self.tokenizer.pad_id) | (ids == self.tokenizer.bos_id)
        drawn = self.words[torch.randint(len(self.words), ids.shape)]
        return torch.where((torch.rand(ids.shape) < share) & ~fixed, drawn, ids)


def _hidden(model: Any, ids: Tensor) -> Tensor:
    if isinstance(model, RecurrentLM):
        return model.hidden(ids)
    hidden: Tensor = model.transformer(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


def _loss(model: Any, batch: Tensor, data: Data, recipe: Recipe, teacher: Teacher | None) -> Tensor:
    inputs, targets = data.noised(batch[:, :-1], recipe.noise), batch[:, 1:]  # (B, T)
    # The outputs over the vocabulary cost most; padding gets none.
    real = targets != data.tokenizer.pad_id
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.lm_head(_hidden(model, inputs)[real]).float()  # (N, V)
    known = targets[real].masked_fill(targets[real] > data.tokenizer.eos_id, -100)
    loss = functional.cross_entropy(logits, known)
    if teacher is not None:
        with torch.no_grad():
            taught = teacher(inputs)[real]  # (N, V)
        loss = torch.lerp(loss, functional.cross_entropy(logits, taught), recipe.taught)
    return loss


def train(
    recipe: Recipe, data: Data, teacher: Teacher | None, report: Callable[[str], None]
) -> Any:
    """Train one model and return it."""
    model = build(recipe, data.tokenizer)
    rng = np.random.default_rng(recipe.seed)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.99))
    with_plots = round(recipe.plots_until * recipe.epochs)
    epochs = [data.train + data.plots] * with_plots
    epochs += [data.train] * (recipe.epochs - with_plots)
    steps = sum(math.ceil(len(rows) / BATCH) for rows in epochs)

    def schedule(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return min(1.0, (step + 1) / (WARM_UP * steps)) * (0.02 + 0.98 * cosine)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    start = time.perf_counter()
    for epoch, rows in enumerate(epochs):
        model.train()
        for batch in data.batches(rows, rng):
            loss = _loss(model, batch, data, recipe, teacher)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        nats = held_out_nats(predict([model]), data)["nats"]
        seconds = time.perf_counter() - start
        report(f"epoch {epoch + 1}/{recipe.epochs}: held out {nats:.4f} nats, {seconds:.0f} s")
    return model.eval()


def predict(models: list[Any], exact: bool = False) -> Teacher:
    """Return the mean of the models' predictions, in bfloat16 unless `exact`."""

    def mean(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not exact):
            logits = [model.lm_head(_hidden(model, ids)) for model in models]
        return torch.stack([one.float().softmax(-1) for one in logits]).mean(0)

    for model in models:
        model.eval()
    return mean


@torch.no_grad()
def held_out_nats(teacher: Teacher, data: Data) -> dict[str, float]:
    """Measure on the held-out reviews, over known words and ends of text.

    Returns:
        `nats`: mean negative log-probability; `restricted_nats`: the same when the distribution
        is restricted to what may be written; `targets`: how many; `unknown_share`: share of the
        targets left out because they are unknown words.
    """
    end = data.tokenizer.eos_id
    full = restricted = 0.0
    targets = unknown = 0
    for batch in data.batches(data.held_out, np.random.default_rng(0)):
        wanted = batch[:, 1:]
        probabilities = teacher(batch[:, :-1])[wanted <= end]  # (N, V)
        chosen = probabilities.gather(1, wanted[wanted <= end][:, None]).log()
        full -= float(chosen.sum())
        restricted -= float((chosen[:, 0] - probabilities[:, : end + 1].sum(1).log()).sum())
        targets += len(chosen)
        unknown += int((wanted == data.tokenizer.unk_id).sum())
    return {
        "nats": full / targets,
        "restricted_nats": restricted / targets,
        "targets": targets,
        "unknown_share": unknown / (targets + unknown),
    }


def measure(model: Any, data: Data) -> dict[str, Any]:
    """Return the held-out measurements of the bundled model for its card."""
    found = held_out_nats(predict([model], exact=True), data)
    return {
        "what": "mean over known words and ends of text, given all words before",
        "nats_per_word": round(found["nats"], 4),
        "nats_per_word_restricted_to_actions": round(found["restricted_nats"], 4),
        "perplexity_restricted_to_actions": round(math.exp(found["restricted_nats"]), 2),
        "targets": found["targets"],
        "unknown_words_left_out": round(found["unknown_share"], 4),
    }


def describe() -> dict[str, Any]:
    """Return the settings of all models for the card."""
    return {"student": asdict(STUDENT), "teachers": [asdict(recipe) for recipe in TEACHERS]}


def train_all(
    data: Data, cache: Path, report: Callable[[str], None]
) -> tuple[Any, dict[str, float], dict[str, float]]:
    """Train teachers and student, each saved in `cache` and taken from there if it is there.

    Returns:
        The student, the seconds each took, and the held-out nats of the teachers and their mean.
    """
    teachers, scores, seconds = [], {}, {}
    for number, recipe in enumerate(TEACHERS, start=1):
        name = f"teacher_{number}"
        report(name)
        model, seconds[name] = _cached(recipe, data, None, cache / f"{name}.pt", report)
        teachers.append(model)
        scores[name] = round(held_out_nats(predict([model]), data)["nats"], 4)
    mean = predict(teachers)
    scores["mean"] = round(held_out_nats(mean, data)["nats"], 4)
    report(f"student; the teachers' mean has {scores['mean']} nats held out")
    student, seconds["student"] = _cached(STUDENT, data, mean, cache / "student.pt", report)
    return student, seconds, scores


def _cached(
    recipe: Recipe, data: Data, teacher: Teacher | None, file: Path, report: Callable[[str], None]
) -> tuple[Any, float]:
    saved = torch.load(file, weights_only=True) if file.exists() else {}
    if saved.get("recipe") == asdict(recipe):
        model = build(recipe, data.tokenizer)
        model.load_state_dict(saved["weights"])
        return model.eval(), saved["seconds"]
    start = time.perf_counter()
    model = train(recipe, data, teacher, report)
    seconds = round(time.perf_counter() - start)
    weights = model.state_dict()
    torch.save({"recipe": asdict(recipe), "weights": weights, "seconds": seconds}, file)
    return model, seconds
