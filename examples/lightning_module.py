"""A small network learns digits by cautious AdamW, as a Lightning module."""

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import stepsmith as ss

EPOCHS = 4

digits = load_digits()
images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
CAdamW = ss.load("c_adamw").torch()


class Digits(lightning.LightningModule):
    """A network that says how it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10))
        self.losses: list[float] = []

    def training_step(self, batch):
        """The loss of a batch."""
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        """Biases do not decay; the rate rises and falls once."""
        weights, biases = ([p for p in self.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
        optimizer = CAdamW([{"params": weights, "weight_decay": 0.1}, {"params": biases}], lr=5e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps, cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(checkpoint: str | None = None) -> Digits:
    """A module after all epochs, from the start or from a checkpoint."""
    lightning.seed_everything(0, verbose=False)
    model, every = Digits(), ModelCheckpoint("runs/lightning", "{epoch}", save_top_k=-1, enable_version_counter=False)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, callbacks=[every], logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(model, DataLoader(TensorDataset(images, labels), batch_size=128), ckpt_path=checkpoint)
    return model


if __name__ == "__main__":
    whole = fit()
    print(f"loss {whole.losses[0]:.3f} -> {whole.losses[-1]:.3f}")
    resumed = fit(f"runs/lightning/epoch={EPOCHS // 2 - 1}.ckpt")
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    print("resumed, the same weights:", all(torch.equal(x, y) for x, y in pairs))
