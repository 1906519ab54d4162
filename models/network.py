"""The decoder that train.py trains: llama architecture, small, in PyTorch.

Rotary embedding turns neighbouring pairs (2i, 2i+1), as llama-architecture GGUF files expect, so the weights need no
permutation when they are written. Embedding and output share one matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of the network. The defaults are the bundled model's."""

    n_vocab: int = 1280
    dim: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 32
    hidden_dim: int = 384
    context: int = 2048
    rope_base: float = 500000.0
    norm_eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks `Network.forward` for A2SF scores: those of the keys [0, end) after the queries [end - window, end)."""

    end: int
    window: int
    forgetting_factor: float


def rope_table(config: Config) -> Tensor:
    """Cos + i sin of every position and pair: [context, 1, head_dim / 2], complex."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angle = torch.arange(config.context, dtype=torch.float32)[:, None] * config.rope_base**-exponent
    return torch.polar(torch.ones_like(angle), angle)[:, None]


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i+1) of x [batch, length, heads, head_dim]: one complex product each."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def a2sf_scores(q: Tensor, k: Tensor, probe: Probe) -> Tensor:
    """A2SF scores after query end - 1, from the probe's queries alone.

    q [batch, heads, length, head_dim], k [batch, kv_heads, length, head_dim] -> float32 [batch, kv_heads, end].
    """
    start, n_kv_heads = probe.end - probe.window, k.shape[1]
    group = q.shape[1] // n_kv_heads
    with torch.autocast("cpu", enabled=False):
        q = q[:, :, start : probe.end].float().unflatten(1, (n_kv_heads, group))
        logits = q @ k[:, :, None, : probe.end].float().transpose(-1, -2) * q.shape[-1] ** -0.5
        hidden = torch.ones(probe.window, probe.end, dtype=torch.bool).triu(start + 1)
        weights = logits.masked_fill(hidden, float("-inf")).softmax(-1)
        age = torch.arange(probe.window - 1, -1, -1, dtype=torch.float32)
        return torch.einsum("bkgqs,q->bks", weights, probe.forgetting_factor**age)


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and added to the stream [batch, length, dim]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.attn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attn_q = nn.Linear(config.dim, q_dim, bias=False)
        self.attn_k = nn.Linear(config.dim, kv_dim, bias=False)
        self.attn_v = nn.Linear(config.dim, kv_dim, bias=False)
        self.attn_output = nn.Linear(q_dim, config.dim, bias=False)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_gate = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.ffn_up = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.ffn_down = nn.Linear(config.hidden_dim, config.dim, bias=False)

    def forward(self, x: Tensor, turn: Tensor, probe: Probe | None) -> tuple[Tensor, Tensor | None]:
        """Returns the stream and, with a probe, the scores [batch, kv_heads, probe.end]."""
        shape = (-1, self.config.head_dim)
        normed = self.attn_norm(x)
        q = rotate(self.attn_q(normed).unflatten(-1, shape), turn).transpose(1, 2)
        k = rotate(self.attn_k(normed).unflatten(-1, shape), turn).transpose(1, 2)
        v = self.attn_v(normed).unflatten(-1, shape).transpose(1, 2)
        group = self.config.n_heads // self.config.n_kv_heads
        y = F.scaled_dot_product_attention(
            q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True
        )
        x = x + self.attn_output(y.transpose(1, 2).flatten(-2))
        normed = self.ffn_norm(x)
        x = x + self.ffn_down(F.silu(self.ffn_gate(normed)) * self.ffn_up(normed))
        return x, None if probe is None else a2sf_scores(q, k, probe)


class Network(nn.Module):
    """Token ids [batch, length] -> final stream [batch, length, dim]; `logits` turns (part of) it into logits."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.n_vocab, config.dim)
        self.blk = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.output_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self._initialise()
        self.register_buffer("turn", rope_table(config), persistent=False)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Gaussian, except that attention starts out as "see what stands before; find what is alike; copy it".

        Each head's output matrix starts as its transposed value matrix, and queries start near their KV head's keys;
        after the mimetic initialisation of Trockman and Kolter, arXiv 2305.09828. In the first layer queries look at
        the tokens just before instead. Looking up is what the model is for; from here it is learnt much sooner.
        """
        config = self.config
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                small = name.endswith("ffn_down.weight")
                nn.init.normal_(
                    parameter, std=0.05 / (2 * config.n_layers) ** 0.5 if small else 0.05
                )
        group = config.n_heads // config.n_kv_heads
        for i, block in enumerate(self.blk):
            per_head = (config.n_kv_heads, config.head_dim, config.dim)
            key = block.attn_k.weight.view(per_head).repeat_interleave(group, 0).flatten(0, 1)
            value = block.attn_v.weight.view(per_head).repeat_interleave(group, 0).flatten(0, 1)
            block.attn_output.weight.copy_(0.3 * value.T)
            if i > 0:
                block.attn_q.weight.copy_(2.5 * key + 0.5 * block.attn_q.weight)
        # A direction all tokens share (no effect on the softmax over tokens) from which positions can be compared.
        shared = torch.randint(0, 2, (config.dim,)) * 2.0 - 1.0
        self.token_embd.weight.add_(0.05 * shared)
        self._look_back(
            self.blk[0], shared / config.dim**0.5, strength=2.75 / (config.dim / 2) ** 0.5
        )

    def _look_back(
        self, block: Block, direction: Tensor, strength: float, n_pairs: int = 6
    ) -> None:
        """Make head h of a block attend mostly to the token h + 1 places back, by the fast rotary pairs alone."""
        config = self.config
        frequency = config.rope_base ** (-torch.arange(n_pairs) * 2.0 / config.head_dim)
        key = torch.zeros(config.head_dim)
        key[0 : 2 * n_pairs : 2] = strength
        for head in range(config.n_kv_heads):
            block.attn_k.weight.view(config.n_kv_heads, config.head_dim, -1)[head] += torch.outer(
                key, direction
            )
        for head in range(config.n_heads):
            query = torch.zeros(config.head_dim)
            query[0 : 2 * n_pairs : 2] = strength * torch.cos(frequency * (head + 1))
            query[1 : 2 * n_pairs : 2] = -strength * torch.sin(frequency * (head + 1))
            block.attn_q.weight.view(config.n_heads, config.head_dim, -1)[head] += torch.outer(
                query, direction
            )

    def forward(
        self, ids: Tensor, pos: Tensor, probe: Probe | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns the normed final stream and, with a probe, one score tensor per layer. pos: as ids, rising."""
        x = self.token_embd(ids)
        turn = self.turn[pos]
        scores = []
        for block in self.blk:
            x, score = block(x, turn, probe)
            if score is not None:
                scores.append(score)
        return self.output_norm(x), scores

    def logits(self, stream: Tensor) -> Tensor:
        """[..., dim] -> [..., n_vocab] in float32."""
        return F.linear(stream, self.token_embd.weight).float()
