"""Train the bundled language model on Python source found on this machine.

    python -m interp.demo.train_model --work build/demo-model --tokens 13500000

Four steps, each kept in ``--work`` so that a stopped training goes on where it was: choose the files, train the
tokenizer (byte-level BPE), encode the text, train the network. The result is an ordinary Hugging Face folder.

The architecture is GPT-2 (Radford et al. 2019). Matrices inside the blocks are trained with Muon (Jordan et al. 2024,
kellerjordan.github.io/posts/muon), everything else with AdamW. The learning rate is held, then falls linearly to zero
over the last part of training, so that the length of a run can be changed until that part begins. ``--from FOLDER``
goes on from the weights and the tokenizer of a finished model, with a new warm-up and a new fall.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import shutil
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.corpora.documents import Document
from interp.corpora.sources import HELD_OUT_MODULES, standard_library
from interp.files import whole, write_whole
from interp.training.checkpoints import pack_optimizers, unpack_optimizers

log = logging.getLogger("interp.demo.train_model")

SEPARATOR = "<|endoftext|>"
D_VOCAB, N_CTX = 4096, 256
_COPIED_LIBRARIES = {"_vendor", "vendor", "_vendored", "vendored", "backports", "externals", "extern", "third_party"}


@dataclass(frozen=True)
class TrainingPlan:
    """What the person chose; saved beside the checkpoints and in the model card."""

    tokens: int = 13_500_000
    """Tokens to train on, all different (one epoch)."""
    batch: int = 32
    """Sequences of 256 tokens per step."""
    lr_matrices: float = 0.02
    """Muon's learning rate, per step, in units of the matrix's own spectral scale."""
    lr_others: float = 4e-3
    """AdamW's learning rate for embeddings, biases and layer norms."""
    cooldown: float = 0.4
    """Share of the steps over which the learning rate falls to zero."""
    stdlib_share: float = 0.8
    """Share of standard-library text (tests included) in the cool-down; the rest of it is installed packages."""
    seed: int = 0
    """Seed of the file order, the initial weights and the held-out sample."""

    @property
    def steps(self) -> int:
        return self.tokens // (self.batch * (N_CTX - 1))


# ---------------------------------------------------------------------------------------------------------------- text


def training_documents(seed: int) -> tuple[list[Document], list[Document]]:
    """(installed packages, standard library with its tests), each shuffled, without copies of held-out modules."""
    held_out_lines = {line for document in standard_library("held-out") for line in _long_lines(document.text)}
    seen: set[int] = set()

    def is_new(document: Document) -> bool:
        lines = _long_lines(document.text)
        fresh = [line for line in lines if hash(line) not in seen]
        seen.update(map(hash, lines))
        copied = sum(line in held_out_lines for line in lines)
        return len(fresh) > 0.5 * len(lines) and copied <= 0.05 * len(lines)

    ordered = [sorted(standard_library(split), key=lambda d: d.name.split("/")) for split in ("train", "tests")]
    library = [document for documents in ordered for document in documents if is_new(document)]
    packages = [d for d in installed_packages() if is_new(d)]
    for documents in (library, packages):
        random.Random(seed).shuffle(documents)
    return packages, library


def installed_packages() -> Iterator[Document]:
    """Python files of every installed distribution, libraries that carry copies of other libraries left out."""
    root = Path(sysconfig.get_path("purelib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if _COPIED_LIBRARIES & set(parts) or parts[0] in ("pip", "setuptools") or path.stat().st_size > 400_000:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) > 200 and len(text) / (text.count("\n") + 1) < 120:  # tables of data have endless lines
            yield Document("/".join(parts), text)


def _long_lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if len(line) >= 30]


def train_tokenizer(documents: list[Document], target: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE of ``D_VOCAB`` tokens; the separator is token 0 and serves as beginning of sequence too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        unk_token=SEPARATOR,
        model_max_length=N_CTX,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(target)
    return fast


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[Document]) -> np.ndarray:
    """All documents as one uint16 stream, a separator after each."""
    pieces: list[int] = []
    for start in range(0, len(documents), 256):
        texts = [document.text for document in documents[start : start + 256]]
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
            pieces.extend(ids)
            pieces.append(0)
    return np.asarray(pieces, dtype=np.uint16)


def sequences(stream: np.ndarray) -> np.ndarray:
    """A stream cut into rows of the separator followed by ``N_CTX - 1`` tokens; [n, N_CTX]. The rest is dropped."""
    n = len(stream) // (N_CTX - 1)
    body = stream[: n * (N_CTX - 1)].reshape(n, N_CTX - 1)
    return np.concatenate([np.zeros((n, 1), dtype=np.uint16), body], axis=1)


def prepare_text(plan: TrainingPlan, work: Path, begin_from: Path | None = None) -> None:
    """Write the tokenizer and two files of shuffled sequences, ``packages.npy`` and ``library.npy``.

    The tokenizer is trained, or that of the model in ``begin_from``.
    """
    if (work / "library.npy").exists():
        return
    packages, library = training_documents(plan.seed)
    log.info("%d package files, %d standard-library files", len(packages), len(library))
    if begin_from is None:
        tokenizer = train_tokenizer(library + packages[:4000], work / "model")
    else:
        (work / "model").mkdir(exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(begin_from / name, work / "model" / name)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "model")
    held_out = sequences(encode(tokenizer, list(standard_library("held-out"))))
    characters = sum(len(document.text) for document in standard_library("held-out"))
    np.save(work / "held_out.npy", held_out)
    rng = np.random.default_rng(plan.seed)
    for name, documents in (("packages", packages), ("library", library)):
        rows = sequences(encode(tokenizer, documents))
        np.save(work / f"{name}.npy", rows[rng.permutation(len(rows))])
        log.info("%s: %.1f M tokens", name, rows.size / 1e6)
    facts = {"held_out_characters_per_token": characters / held_out[:, 1:].size}
    write_whole(work / "text.json", json.dumps(facts).encode())


# --------------------------------------------------------------------------------------------------------------- model


def muon_parameters(model: GPT2LMHeadModel) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose matrix updates are orthogonalised by five Newton-Schulz steps.

    ``torch.optim.Muon`` iterates in bfloat16, which most CPUs emulate: measured 3.9 times slower than this float32 form
    on one without native bfloat16.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                buffer = self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[1] / p.shape[0]) ** 0.5)


def orthogonalise(gradient: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end between about 0.7 and 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradient.T if gradient.shape[0] > gradient.shape[1] else gradient
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if gradient.shape[0] > gradient.shape[1] else x


def new_model(seed: int, begin_from: Path | None = None) -> GPT2LMHeadModel:
    """A model with random weights drawn by ``seed``, or with those of the model in ``begin_from``, in float32."""
    if begin_from is not None:
        return GPT2LMHeadModel.from_pretrained(begin_from, dtype=torch.float32)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=D_VOCAB, n_positions=N_CTX, n_embd=256, n_layer=4, n_head=8, n_inner=1024,
        activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0, use_cache=True,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def batches(plan: TrainingPlan, work: Path) -> Iterator[np.ndarray]:
    """Every batch of the run in order: packages first, then packages mixed with the standard library."""
    packages = np.load(work / "packages.npy", mmap_mode="r")
    library = np.load(work / "library.npy", mmap_mode="r")
    per_batch = round(plan.batch * plan.stdlib_share)
    first_mixed = round(plan.steps * (1 - plan.cooldown))
    at = {"packages": 0, "library": 0}
    for step in range(plan.steps):
        n_library = per_batch if step >= first_mixed and at["library"] + per_batch <= len(library) else 0
        n_packages = plan.batch - n_library
        if at["packages"] + n_packages > len(packages):
            raise SystemExit(f"only enough text for {step} of {plan.steps} steps; ask for fewer --tokens")
        rows = [packages[at["packages"] : at["packages"] + n_packages]]
        rows += [library[at["library"] : at["library"] + n_library]]
        at["packages"] += n_packages
        at["library"] += n_library
        yield np.concatenate(rows).astype(np.int64)


def loss_of(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood in nats per token, over every position but the first."""
    logits = model(tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, work: Path, limit: int | None = None) -> float:
    rows = np.load(work / "held_out.npy").astype(np.int64)[:limit]
    losses = [
        float(loss_of(model, torch.from_numpy(chunk))) * len(chunk)
        for chunk in np.array_split(rows, max(1, len(rows) // 32))
    ]
    return sum(losses) / len(rows)


def train(model: GPT2LMHeadModel, plan: TrainingPlan, work: Path, *, compile_model: bool, bf16: bool) -> None:
    """Train ``model`` in place by the plan, going on from the last checkpoint in ``work`` where there is one."""
    matrices = muon_parameters(model)
    is_matrix = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in is_matrix]
    muon = Muon(matrices, lr=plan.lr_matrices)
    adam = torch.optim.AdamW(others, lr=plan.lr_others, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    first_step = load_checkpoint(model, [muon, adam], work)

    def autocast_loss(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return loss_of(model, tokens)

    objective = torch.compile(autocast_loss) if compile_model else autocast_loss
    started, losses = time.time(), []
    for step, rows in enumerate(batches(plan, work)):
        if step < first_step:
            continue
        factor = learning_rate_factor(step, plan)
        for optimizer, lr in ((muon, plan.lr_matrices), (adam, plan.lr_others)):
            optimizer.param_groups[0]["lr"] = lr * factor
        loss = objective(model, torch.from_numpy(rows))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"the loss is {losses[-1]} at step {step}; the last checkpoint is kept in {work}")
        if (step + 1) % 20 == 0:
            rate = (step + 1 - first_step) * rows.size / (time.time() - started)
            record = {"step": step + 1, "loss": round(sum(losses) / len(losses), 4), "tokens_per_second": round(rate)}
            if (step + 1) % 200 == 0:
                record["held_out"] = round(held_out_loss(model, work, limit=128), 4)
                save_checkpoint(model, [muon, adam], step + 1, work)
            with (work / "train.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            log.info("%s", record)
            losses.clear()
    save_checkpoint(model, [muon, adam], plan.steps, work)


def learning_rate_factor(step: int, plan: TrainingPlan) -> float:
    """Linear warm-up over 100 steps, constant, linear to zero over the last ``cooldown`` of the steps."""
    return min((step + 1) / 100, 1.0, (plan.steps - step) / (plan.steps * plan.cooldown))


def save_checkpoint(model: GPT2LMHeadModel, optimizers: list[torch.optim.Optimizer], step: int, work: Path) -> None:
    tensors = {f"model.{name}": p.detach().contiguous() for name, p in model.named_parameters()}
    tensors |= pack_optimizers(optimizers)
    with whole(work / "checkpoint.safetensors") as partial:
        save_file(tensors, partial, metadata={"step": str(step)})


def load_checkpoint(model: GPT2LMHeadModel, optimizers: list[torch.optim.Optimizer], work: Path) -> int:
    """Put the last checkpoint into the model and optimisers; the step to go on from, 0 where there is none."""
    if not (work / "checkpoint.safetensors").exists():
        return 0
    with safe_open(work / "checkpoint.safetensors", framework="pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"model.{name}"])
    if optimizers:
        unpack_optimizers(optimizers, tensors)
    log.info("going on from step %d", step)
    return step


# -------------------------------------------------------------------------------------------------------------- export

MODEL_CARD = """\
# The bundled model

A small GPT-2-architecture language model of Python source code, made to look inside: 4 layers, d_model 256, 8 heads,
d_mlp 1024, n_ctx 256, byte-level BPE of 4096 tokens, {parameters:,} parameters, weights in float16.

| | |
|---|---|
| data | Python files of the standard library, its tests, and the packages the project installs, no file twice |
| held out | the standard-library modules {held_out_modules} |
| also left out | their tests, and files of which over 5 % of the long lines are theirs |
| trained on | {trained_on} |
| held-out loss | {loss:.3f} nats per token, {bits:.3f} bits per character ({characters:.2f} characters per token) |
| licence | the weights are MIT, as the project; the text it learned from is under its own free licences |
| made by | {made_by} |
"""


def export(model: GPT2LMHeadModel, plan: TrainingPlan, work: Path, *, steps_done: int, begin_from: Path | None) -> None:
    """Write ``work/model``: weights in half precision, configuration, tokenizer, model card."""
    trained_on = f"{steps_done * plan.batch * (N_CTX - 1):,} tokens, {steps_done:,} steps of {plan.batch} sequences"
    made_by = f"`python -m interp.demo.train_model --work build/demo-model --tokens {plan.tokens}`"
    if begin_from is not None:
        card = (begin_from / "README.md").read_text()
        trained_on = f"{_row(card, 'trained on')}; then {trained_on}"
        options = f"--tokens {plan.tokens} --seed {plan.seed} --stdlib-share {plan.stdlib_share:g} --bf16"
        made_by = f"{_row(card, 'made by')}, then `--from` its result `{options}`"
    model = model.half()
    model.save_pretrained(work / "model")
    rounded = GPT2LMHeadModel.from_pretrained(work / "model", torch_dtype=torch.float32).eval()
    loss = held_out_loss(rounded, work)
    characters = json.loads((work / "text.json").read_text())["held_out_characters_per_token"]
    card = MODEL_CARD.format(
        parameters=sum(p.numel() for p in rounded.parameters()),
        held_out_modules=", ".join(f"`{name}`" for name in HELD_OUT_MODULES),
        trained_on=trained_on,
        loss=loss,
        bits=loss / math.log(2) / characters,
        characters=characters,
        made_by=made_by,
    )
    write_whole(work / "model" / "README.md", card.encode())
    log.info("held-out loss %.4f nats per token; the model is in %s", loss, work / "model")


def _row(card: str, name: str) -> str:
    """What a model card says in the row of this name."""
    return next(line for line in card.splitlines() if line.startswith(f"| {name} |")).split("|")[2].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the bundled language model.")
    parser.add_argument("--work", type=Path, required=True, help="folder for text, checkpoints and the result")
    parser.add_argument("--tokens", type=int, default=TrainingPlan.tokens, help="tokens to train on")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--compile", action="store_true", help="compile the model (needs a C++ compiler; faster)")
    parser.add_argument("--from", dest="begin_from", type=Path, help="folder of a finished model to go on from")
    parser.add_argument("--seed", type=int, default=TrainingPlan.seed, help="seed of order and initial weights")
    parser.add_argument("--stdlib-share", type=float, default=TrainingPlan.stdlib_share, help="in the cool-down")
    parser.add_argument("--bf16", action="store_true", help="passes in bfloat16 (faster on CPUs that have it natively)")
    parser.add_argument("--export-now", action="store_true", help="write the last checkpoint as a model and stop")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    plan = TrainingPlan(tokens=arguments.tokens, seed=arguments.seed, stdlib_share=arguments.stdlib_share)
    arguments.work.mkdir(parents=True, exist_ok=True)
    prepare_text(plan, arguments.work, arguments.begin_from)
    write_whole(arguments.work / "plan.json", json.dumps(asdict(plan), indent=1).encode())
    model, steps_done = new_model(plan.seed, arguments.begin_from), plan.steps
    if arguments.export_now:
        steps_done = load_checkpoint(model, [], arguments.work)
    else:
        train(model, plan, arguments.work, compile_model=arguments.compile, bf16=arguments.bf16)
    export(model, plan, arguments.work, steps_done=steps_done, begin_from=arguments.begin_from)


if __name__ == "__main__":
    main()
