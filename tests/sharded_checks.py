"""Two processes train together: python sharded_checks.py STORE NAME...

Each rule must move the shards of a model as it moves the whole, and means over workers must be over the processes;
prints a line for each.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import stepsmith as ss
from stepsmith import Program
from stepsmith.dsl.interpret import Interpreter

WORLD = 2
#: Ops that no catalogued rule has with shards.
OWN = {"bounded": "def bounded(w, g, lr=0.1):\n  return lr * g / norm(g) * min(max(g, 0.25), 0.5)"}


def rule_of(name: str) -> Program:
    return Program.parse(OWN[name]) if name in OWN else ss.load(name)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(100, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 7))


def batch(step: int) -> torch.Tensor:
    return torch.randn(6 * WORLD, 100, generator=torch.Generator().manual_seed(step))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, rank: int | None, steps: range) -> None:
    for step in steps:
        x = batch(step)
        net(x if rank is None else x.chunk(WORLD)[rank]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def check(name: str, rank: int) -> None:
    whole, sharded = model(), model()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (WORLD,)))
    rule = rule_of(name).torch()
    one, two = rule(whole.parameters()), rule(sharded.parameters())
    train(whole, one, None, range(3))
    train(sharded, two, rank, range(3))
    saved = get_optimizer_state_dict(sharded, two)
    two = rule(sharded.parameters())
    set_optimizer_state_dict(sharded, two, saved)
    train(whole, one, None, range(3, 6))
    train(sharded, two, rank, range(3, 6))
    for p, q in zip(whole.parameters(), sharded.parameters(), strict=True):
        assert q.to_local().numel() < q.numel()
        difference = (p - q.full_tensor()).abs()
        # gradients are averaged in another order, and a sign may see the difference
        assert (difference > 1e-6).float().mean() < 1e-3, (name, p.shape, difference.max())


def check_workers(rank: int) -> None:
    """1-bit Adam, which averages what workers send, against its meaning for two workers."""
    rule = Program.parse(str(ss.load("onebit_adam")).replace("freeze=100000.0", "freeze=2.0"))
    w = np.random.default_rng(7).standard_normal((4, 3))
    p = nn.Parameter(torch.tensor(w))
    optimizer, runner = rule.torch()([p]), Interpreter(rule, [w.shape], workers=WORLD)
    for t in range(1, 6):
        grads = [np.random.default_rng((t, worker)).standard_normal(w.shape) for worker in range(WORLD)]
        p.grad = torch.tensor(grads[rank])
        optimizer.step()
        w = w - runner.step([w], grads, 1.0, t, t / 5)[-1]
        assert np.allclose(p.detach().numpy(), w, rtol=1e-12, atol=1e-14), t


def main(rank: int, store: str, names: list[str]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    for name in names:
        check(name, rank)
        if rank == 0:
            print(f"{name} moves shards as the whole", flush=True)
    check_workers(rank)
    if rank == 0:
        print("onebit_adam averages over processes", flush=True)
    for name in ("adam8bit", "apollo", "onebit_adam"):
        try:
            check(name, rank)
        except RuntimeError as error:
            if rank == 0:
                print(f"{name}: {error}", flush=True)
    dist.barrier()  # no process takes down what another still sends
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, (sys.argv[1], sys.argv[2:]), nprocs=WORLD)
