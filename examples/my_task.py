"""A task of one's own: a small convolutional network with batch norm and dropout on digits.

stepsmith smoketest examples/my_task.py:Digits
stepsmith tune examples/my_task.py:Digits --quick
stepsmith search --task examples/my_task.py:Digits
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import stepsmith as ss

digits = load_digits()
images, labels = torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target)


class Digits:
    """What is trained, on what, and for how long; the loss is the cross-entropy of the labels."""

    steps, batch = 200, 32
    warmup, decay = 0.05, "cosine"
    data = ss.Examples(images[:, None], labels)

    def module(self):
        """The network, with fresh weights."""
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.1), nn.Linear(128, 10),
        )  # fmt: skip
