"""Train the bundled model on generated notes (PyTorch, CPU) and write it as GGUF.

Each worker process uses one thread and its own documents; gradients are averaged at every step, so a busy machine slows
training down but does not stall it. A checkpoint is written regularly and on Ctrl-C; the same command resumes from it.
The recipe and its results are in README.md.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from export import BEGIN, train_tokenizer, write_gguf
from network import Config, Network, Probe
from notes import ANSWER, END, FACT, PLAIN, REPLY, make_document
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class Stage:
    """`n_steps` steps over documents of `length` tokens, each worker taking `batch` of them.

    With `gaps`, positions jump forward at some places, as if text had been cut out there: short documents then teach
    the distances of a full context (and what a cache looks like after an eviction) at a fraction of the cost.
    """

    length: int
    batch: int
    n_steps: int
    gaps: bool


def parse_stages(text: str) -> list[Stage]:
    """'256x8x1500g,...': length x documents per worker and step x steps, g for gaps."""
    return [
        Stage(*(int(number) for number in part.removesuffix("g").split("x")), part.endswith("g"))
        for part in text.split(",")
    ]


@dataclass(frozen=True, slots=True)
class Batch:
    """ids, role, pos: [batch, length + 1]; role is notes.PLAIN.. per token, -1 for padding; pos the positions."""

    ids: Tensor
    role: Tensor
    pos: Tensor


def make_positions(rng: random.Random, length: int, context: int, gaps: bool) -> Tensor:
    """Positions of `length` tokens: 0, 1, .. or, with gaps, rising by more than one at up to eight places."""
    step = torch.ones(length, dtype=torch.long)
    step[0] = 0
    if gaps:
        n_gaps = rng.randint(0, 8)
        left = rng.randint(0, context - length)
        for _ in range(n_gaps):
            gap = min(left, rng.randint(0, 2 * left // n_gaps))
            left -= gap
            step[rng.randrange(1, length)] += gap
    return step.cumsum(0)


def encode_document(tokenizer: Tokenizer, seed: str, length: int) -> tuple[list[int], list[int]]:
    """Token ids of a training document, <|begin|> first, and the role of each token."""
    rng = random.Random(seed)
    doc = make_document(
        seed,
        int(length * rng.uniform(0.76, 0.93)),
        mention_rate=rng.uniform(0.2, 0.45),
        stated_within=rng.choice([0.15, 0.3, 0.6, 0.9]),
    )
    roles = bytearray(len(doc.text))
    for span in doc.spans:
        roles[span.start : span.end] = bytes([span.role]) * (span.end - span.start)
    encoding = tokenizer.encode(doc.text)
    return (
        [tokenizer.token_to_id(BEGIN), *encoding.ids],
        [PLAIN, *(roles[end - 1] for _, end in encoding.offsets)],
    )


def make_batch(tokenizer: Tokenizer, seed: str, stage: Stage, context: int) -> Batch:
    """A batch of fresh documents, cut or padded to the stage's length."""
    ids = torch.full((stage.batch, stage.length + 1), tokenizer.token_to_id(END))
    role = torch.full((stage.batch, stage.length + 1), -1)
    rng = random.Random(seed)
    pos = torch.stack(
        [make_positions(rng, stage.length + 1, context, stage.gaps) for _ in range(stage.batch)]
    )
    for row in range(stage.batch):
        doc_ids, doc_roles = encode_document(tokenizer, f"{seed}/{row}", stage.length)
        n = min(len(doc_ids), stage.length + 1)
        ids[row, :n], role[row, :n] = torch.tensor(doc_ids[:n]), torch.tensor(doc_roles[:n])
    return Batch(ids, role, pos)


def survival_loss(
    scores: Sequence[Tensor], is_fact: Tensor, keep: float, margin: float = 1.5
) -> Tensor:
    """How far stated facts are from surviving an A2SF eviction that keeps the share `keep` of the tokens.

    Zero once every fact token scores `margin` times the last kept token. The first layer is left out: its keys depend
    on their own token only, so it cannot tell a fact. scores: [batch, kv_heads, end] per layer; is_fact: [batch, end].
    """
    keep = max(
        keep, 2 * float(is_fact.float().mean())
    )  # a short text is dense with facts: they must fit
    total = torch.zeros(())
    for score in scores[1:]:
        score = score.clamp_min(1e-9).log()
        limit = score.detach().quantile(1 - keep, dim=-1, keepdim=True) + math.log(margin)
        short = F.relu(limit - score).masked_fill(~is_fact[:, None], 0)
        total = total + short.sum() / (is_fact.sum().clamp_min(1) * score.shape[1])
    return total / (len(scores) - 1)


def choose_probe(rng: random.Random, length: int) -> tuple[Probe, float]:
    """A place in the story where facts should survive, and the share of the tokens kept there."""
    end = rng.randint(length // 3, int(length * 0.85))
    return Probe(end, min(end, 192), rng.choice([0.97, 0.99, 0.99])), rng.uniform(0.12, 0.3)


def losses(
    network: Network, batch: Batch, rng: random.Random, args: argparse.Namespace
) -> dict[str, Tensor]:
    """answer, text and survival losses, and the share of answer tokens predicted."""
    inputs, targets, role = batch.ids[:, :-1], batch.ids[:, 1:], batch.role[:, 1:]
    probe, keep = choose_probe(rng, inputs.shape[1])
    survive = args.survival > 0 and inputs.shape[1] >= args.survival_from
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stream, scores = network(inputs, batch.pos[:, :-1], probe if survive else None)
        is_answer = (role == ANSWER) | (role == REPLY)
        chosen = is_answer | ((role >= 0) & (torch.rand(role.shape) < args.text_share))
        logits = network.logits(stream[chosen])
    each = F.cross_entropy(logits, targets[chosen], reduction="none")
    is_answer = is_answer[chosen]
    right = logits[is_answer].argmax(-1) == targets[chosen][is_answer]
    out = {
        "answer": each[is_answer].mean(),
        "text": each[~is_answer].mean(),
        "right": right.float().mean(),
    }
    if survive:
        out["survival"] = survival_loss(scores, batch.role[:, : probe.end] == FACT, keep)
    return out


class Trainer:
    """Network, optimizers and step counter of one worker; worker 0 writes the files."""

    def __init__(self, args: argparse.Namespace, rank: int) -> None:
        self.args, self.rank, self.step = args, rank, 0
        torch.manual_seed(args.seed)
        self.tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
        self.network = Network(Config())
        matrices = [p for p in self.network.blk.parameters() if p.dim() == 2]
        others = [p for p in self.network.parameters() if not any(p is m for m in matrices)]
        self.optimizers = [
            torch.optim.Muon(
                matrices, lr=args.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.stages = parse_stages(args.stages)
        self.n_steps = sum(stage.n_steps for stage in self.stages)
        self.stop = False

    def stage(self) -> Stage:
        """The stage of the current step."""
        step = self.step
        for stage in self.stages:
            if step < stage.n_steps:
                return stage
            step -= stage.n_steps
        return self.stages[-1]

    def learning_rate(self) -> float:
        """Linear warm-up, then level, then a cosine fall over the last part."""
        warm = min(1.0, (self.step + 1) / self.args.warm_up)
        fall = max(0.0, self.step / self.n_steps - (1 - self.args.fall)) / self.args.fall
        return self.args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fall)))

    def train_step(self) -> dict[str, float]:
        """One step on fresh documents; returns this worker's losses."""
        seed = f"train/{self.args.seed}/{self.step}"
        batch = make_batch(
            self.tokenizer, f"{seed}/{self.rank}", self.stage(), self.network.config.context + 1
        )
        parts = losses(self.network, batch, random.Random(seed), self.args)
        loss = parts["answer"] + self.args.text_weight * parts["text"]
        if "survival" in parts:
            loss = loss + self.args.survival * parts["survival"]
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        self.average_gradients()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.step()
        self.step += 1
        return {name: float(value.detach()) for name, value in parts.items()}

    def average_gradients(self) -> None:
        """Mean over the workers; the wish to stop travels with it, so that all stop at the same step."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients] + [torch.tensor([float(self.stop)])])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, mean in zip(
            gradients, flat.split([g.numel() for g in gradients] + [1]), strict=False
        ):
            gradient.copy_(mean.view_as(gradient))
        self.stop = bool(flat[-1] > 0)

    def save(self) -> None:
        """Write checkpoint and GGUF, each atomically."""
        if self.rank == 0:
            path = self.args.work / "checkpoint.pt"
            torch.save(
                {
                    "step": self.step,
                    "network": self.network.state_dict(),
                    "optimizers": [o.state_dict() for o in self.optimizers],
                },
                path.with_suffix(".tmp"),
            )
            os.replace(path.with_suffix(".tmp"), path)
            write_gguf(self.args.output, self.network, self.tokenizer)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        path = self.args.work / "checkpoint.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True)
            self.step = saved["step"]
            self.network.load_state_dict(saved["network"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=False):
                optimizer.load_state_dict(state)


def run_worker(rank: int, args: argparse.Namespace) -> None:
    """Train until the last step or Ctrl-C."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{args.work}/rendezvous", rank=rank, world_size=args.workers
    )
    trainer = Trainer(args, rank)
    trainer.resume()
    signal.signal(signal.SIGINT, lambda *_: setattr(trainer, "stop", True))
    mean: dict[str, float] = {}
    began, saved = time.time(), time.time()
    with tqdm(
        total=trainer.n_steps, initial=trainer.step, disable=rank != 0, mininterval=10
    ) as bar:
        while trainer.step < trainer.n_steps and not trainer.stop:
            for name, value in trainer.train_step().items():
                mean[name] = value if name not in mean else 0.95 * mean[name] + 0.05 * value
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in mean.items()}, refresh=False)
            if rank == 0 and trainer.step % 50 == 0:
                text = " ".join(f"{name} {value:.4f}" for name, value in mean.items())
                tqdm.write(
                    f"step {trainer.step} length {trainer.stage().length} {text} "
                    f"lr {trainer.learning_rate():.5f} {time.time() - began:.0f} s"
                )
            if time.time() - saved > args.save_every:
                trainer.save()
                saved = time.time()
    trainer.save()
    dist.destroy_process_group()


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).with_name("notes-1m-f16.gguf"),
        help="GGUF file",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/notes"), help="folder for checkpoint and tokenizer"
    )
    parser.add_argument(
        "--stages",
        default="256x8x200,256x8x400g,512x4x300g,2048x1x450",
        help="curriculum: tokens x documents per worker and step x steps, ...",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument(
        "--seed", type=int, default=1, help="of documents, vocabulary and first weights"
    )
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--warm-up", type=int, default=100, help="steps")
    parser.add_argument(
        "--fall", type=float, default=0.3, help="share of the steps over which the rate falls"
    )
    parser.add_argument(
        "--text-weight", type=float, default=0.3, help="weight of the loss on other text"
    )
    parser.add_argument(
        "--text-share", type=float, default=0.3, help="share of the other text that is scored"
    )
    parser.add_argument(
        "--survival", type=float, default=0.1, help="weight of the survival loss, 0: none"
    )
    parser.add_argument(
        "--survival-from", type=int, default=512, help="shortest length that uses the survival loss"
    )
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    return parser.parse_args()


def main() -> None:
    """Make the vocabulary if there is none, then train."""
    args = parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "rendezvous").unlink(missing_ok=True)
    if not (args.work / "tokenizer.json").exists():
        train_tokenizer(Config().n_vocab, args.seed).save(str(args.work / "tokenizer.json"))
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the workers hear Ctrl-C, finish their step and save
    torch.multiprocessing.spawn(run_worker, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
