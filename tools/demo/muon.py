"""Muon: momentum whose matrices are made orthogonal before each step (Jordan and others, 2024).

torch.optim.Muon works in bfloat16, which takes twenty times as long on processors that have to emulate it, and every process
repeats the whole work. Here the processes share the matrices, equal shapes go through one product, and the type is the
processor's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor

_CPU = Path("/proc/cpuinfo")
BFLOAT16 = not _CPU.exists() or not {"avx512_bf16", "bf16"}.isdisjoint(_CPU.read_text().split())
"""Whether the processor multiplies in bfloat16."""
COEFFICIENTS, ROUNDS = (3.4445, -4.7750, 2.0315), 5  # of the iteration


def orthogonal(matrices: Tensor) -> Tensor:
    """The matrices (n, rows, columns) with all singular values near 1, by Newton and Schulz's iteration."""
    wide = matrices.transpose(1, 2) if matrices.shape[1] > matrices.shape[2] else matrices
    x = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)
    x = x.to(torch.bfloat16 if BFLOAT16 else torch.float32)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    x = x.to(matrices.dtype)
    return x.transpose(1, 2) if wide is not matrices else x


class Muon(torch.optim.Optimizer):
    """The optimizer.

    Args:
        groups: parameter groups of matrices, each with its learning rate "lr". The step of a matrix has the root mean square
            0.2 * lr, as AdamW's has about, so the two share learning rates.
        rank, ranks: the number of this process, and how many there are. Their gradients must be the same.
        decay, momentum: of the weights, and of the gradients.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        rank: int = 0,
        ranks: int = 1,
        decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(list(groups), {"lr": 0.0, "decay": decay, "momentum": momentum})
        self.rank, self.ranks = rank, ranks

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves the parameters that have a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(tuple(parameter.shape), []).append(parameter)
            for number, (shape, parameters) in enumerate(shapes.items()):
                moved = self._directions(parameters, group["momentum"], number)
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                for parameter, direction in zip(parameters, moved, strict=True):
                    parameter.mul_(1 - group["lr"] * group["decay"]).sub_(direction, alpha=rate)

    def _directions(self, parameters: list[Tensor], momentum: float, number: int) -> Tensor:
        """The orthogonal steps of parameters of one shape. Every process makes its part, and the sum has all.

        The parts rotate with the number of the shape, since the last one is the largest.
        """
        wanted = []
        for parameter in parameters:
            assert parameter.grad is not None
            average = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            average.lerp_(parameter.grad, 1 - momentum)
            wanted.append(parameter.grad.lerp(average, momentum))
        stacked = torch.stack(wanted)
        if self.ranks == 1:
            return orthogonal(stacked)
        part = (self.rank + number) % self.ranks
        mine = slice(len(wanted) * part // self.ranks, len(wanted) * (part + 1) // self.ranks)
        moved = torch.zeros_like(stacked)
        if mine.start < mine.stop:
            moved[mine] = orthogonal(stacked[mine])
        torch.distributed.all_reduce(moved)
        return moved
