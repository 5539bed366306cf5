"""A small network learns digits by NAdamW, in a loop that accelerate takes to any device."""

import math

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import stepsmith as ss

EPOCHS = 4

digits = load_digits()
images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
NAdamW = ss.load("nadamw").torch()


def run(first_epoch: int = 0, checkpoint: str | None = None) -> tuple[nn.Module, torch.optim.Optimizer, list[float]]:
    """The trained model, its optimizer and the losses, from the start or on from a checkpoint."""
    set_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10))
    weights, biases = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    optimizer = NAdamW([{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}], lr=5e-3)
    loader = DataLoader(TensorDataset(images, labels), batch_size=64)
    steps = EPOCHS * math.ceil(len(loader) / 2)  # the last batch of an odd number steps alone
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    if checkpoint:
        accelerator.load_state(checkpoint)
    losses = []
    for epoch in range(first_epoch, EPOCHS):
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        accelerator.save_state(f"runs/accelerate/epoch{epoch}")
    return model, optimizer, losses


if __name__ == "__main__":
    whole, optimizer, losses = run()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    resumed, _, _ = run(EPOCHS // 2, f"runs/accelerate/epoch{EPOCHS // 2 - 1}")
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    print("resumed, the same weights:", all(torch.equal(x, y) for x, y in pairs))
