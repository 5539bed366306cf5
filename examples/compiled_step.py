"""A whole training step (model, gradients, optimizer) in one function for torch.compile."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import stepsmith as ss

digits = load_digits()
images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
CLion = ss.load("c_lion").torch()


def train(model: nn.Module, steps: int, **options) -> list[float]:
    """The losses of some steps; `options` are those of torch.compile."""
    # The rate is a tensor, so that a new one is a new number and not a new program to compile.
    optimizer = CLion(model.parameters(), lr=torch.tensor(3e-3), weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    @torch.compile(**options)
    def step(x, y):
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    losses = []
    for number in range(steps):
        rows = torch.arange(number * 64, number * 64 + 64) % len(images)
        losses.append(step(images[rows], labels[rows]).item())
        scheduler.step()
    return losses


if __name__ == "__main__":
    torch.manual_seed(0)
    compiled = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10))
    eager = copy.deepcopy(compiled)
    losses = train(compiled, 60)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    train(eager, 60, disable=True)
    apart = max((x - y).abs().max().item() for x, y in zip(compiled.parameters(), eager.parameters(), strict=True))
    print(f"weights differ from an eager run's by {apart:.1e} at most")
