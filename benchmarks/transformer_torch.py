"""The PyTorch side of transformer_step.py: the same transformer, trained as one would.

Needs torch and numpy, nothing of this kit. Reads one JSON object of settings from the
first line of stdin and answers every further line, ``hello``, ``check`` or ``train``,
with one JSON object on stdout.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def main() -> None:
    """Serves until stdin ends."""
    settings = json.loads(sys.stdin.readline())
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    trainer = Trainer(settings)
    for line in sys.stdin:
        match line.strip():
            case "train":
                start, spent = time.perf_counter(), time.process_time()
                loss = trainer.train(settings["updates"])
                wall = time.perf_counter() - start
                cpu = time.process_time() - spent
                answer({"seconds": wall, "cpu_seconds": cpu, "loss": loss})
            case "check":
                answer(check(settings))
            case _:
                answer(about(trainer.model))


class Transformer(nn.Module):
    """Returns logits [B, T, A] of the actions; a step sees those before it alone."""

    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        width, self.actions = sizes["width"], sizes["actions"]
        last, mlp = sizes["observation"] + self.actions + 2, []
        for size in sizes["hidden"]:
            mlp += [nn.Linear(last, size), nn.GELU(approximate="tanh")]
            last = size
        self.embed = nn.Sequential(*mlp, nn.Linear(last, width))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes["layers"]))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.policy = nn.Linear(width, self.actions)
        cos, sin = rotation(sizes["context"], width // sizes["heads"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(
        self,
        obs: torch.Tensor,
        action: torch.Tensor,
        reward: torch.Tensor,
        done: torch.Tensor,
    ) -> torch.Tensor:
        hot = F.one_hot(action, self.actions).float()
        side = torch.cat([hot, reward[..., None], done[..., None].float()], dim=-1)
        # A step knows what came before it; the first of a window knows nothing.
        before = F.pad(side[:, :-1], (0, 0, 1, 0))
        x = self.embed(torch.cat([obs, before], dim=-1))
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.policy(self.norm(x))


class Block(nn.Module):
    """Returns x [B, T, width] after pre-norm attention and feed-forward."""

    def __init__(self, sizes: dict[str, Any]):
        super().__init__()
        width, self.heads = sizes["width"], sizes["heads"]
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, sizes["feedforward"])
        self.contract = nn.Linear(sizes["feedforward"], width)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        batch, length, width = x.shape
        packed = self.query_key_value(self.attention_norm(x))
        query, key, value = (
            y.view(batch, length, self.heads, -1).transpose(1, 2)
            for y in packed.chunk(3, dim=-1)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(batch, length, width))
        y = F.gelu(self.expand(self.norm(x)), approximate="tanh")
        return x + self.contract(y)


def rotation(length: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (cos, sin) [length, size] of rotary positions, both halves alike."""
    speed = 10_000.0 ** (-torch.arange(0, size, 2) / size)
    angle = torch.outer(torch.arange(length), speed).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Returns ``x`` [B, H, T, D], its pairs (j, j + D/2) turned."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class Trainer:
    """A model, its optimiser, and windows of histories to draw from."""

    def __init__(self, settings: dict[str, Any]):
        self.settings, hp = settings, settings["hparams"]
        self.model = Transformer(settings["model"])
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=hp["learning_rate"],
            betas=(0.9, 0.99),
            eps=hp["adam_eps"],
            weight_decay=hp["weight_decay"],
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda count: warm_cosine(count, hp)
        )
        self.call = torch.compile(self.model) if settings["compiled"] else self.model
        self.data = tensors(settings["data"])

    def train(self, updates: int) -> float:
        """Returns the mean loss of so many updates, each on windows of its own."""
        losses = [self.update(*self.windows())[0] for _ in range(updates)]
        return torch.stack(losses).mean().item()

    def update(self, *fields: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (loss, norm of its gradient) before a step of the optimiser."""
        logits = self.call(*fields)
        loss = F.cross_entropy(logits.flatten(0, 1), fields[1].flatten())
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), self.settings["hparams"]["max_grad_norm"]
        )
        self.optimiser.step()
        self.schedule.step()
        return loss.detach(), norm

    def windows(self) -> list[torch.Tensor]:
        """Returns (obs, action, reward, done) of random windows, [B, T, ...]."""
        batch, length = self.settings["batch"], self.settings["model"]["context"]
        histories, rows = self.data[1].shape
        history = torch.randint(histories, (batch, 1))
        row = torch.randint(rows - length + 1, (batch, 1)) + torch.arange(length)
        return [x[history, row] for x in self.data]


def warm_cosine(count: int, hp: dict[str, float]) -> float:
    """Returns the share of the learning rate after ``count`` updates."""
    warmup, end = hp["warmup_updates"], hp["decay_updates"]
    angle = math.pi * min(max((count - warmup) / max(end - warmup, 1.0), 0.0), 1.0)
    falling = 0.5 * (1.0 + math.cos(angle)) if end else 1.0
    return min((count + 1) / max(warmup, 1.0), 1.0) * falling


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns how far logits are from ours, and losses and gradient norms of updates.

    Parameters, windows and our logits are those of ``settings["check"]``; the updates are
    all on the same windows.
    """
    trainer = Trainer({**settings, "compiled": False})
    given = np.load(settings["check"])
    named = trainer.model.state_dict()
    trainer.model.load_state_dict({k: torch.from_numpy(given[k]) for k in named})
    fields = tensors(settings["check"])
    with torch.no_grad():
        logits = trainer.model(*fields).numpy()
    off = np.abs(logits - given["logits"]).max() / np.abs(logits).max()
    updates = [trainer.update(*fields) for _ in range(settings["check_updates"])]
    losses, norms = ([float(x) for x in each] for each in zip(*updates))
    return {"logits": float(off), "losses": losses, "grad_norms": norms}


def tensors(path: str) -> list[torch.Tensor]:
    """Returns (obs, action, reward, done) of a file."""
    file = np.load(path)
    fields = [torch.from_numpy(file[n]) for n in ("obs", "action", "reward", "done")]
    return [x.long() if x.dtype == torch.int32 else x for x in fields]


def about(model: nn.Module) -> dict[str, Any]:
    """Returns what the numbers depend on beside the code."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "parameters": sum(x.numel() for x in model.parameters()),
    }


def answer(value: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
