"""Roles of parameters: read off a module's structure, overridden by name."""

import pytest
import torch
from torch import nn

from stepsmith.discovered import load
from stepsmith.dsl.roles import roles_of
from stepsmith.dsl.to_torch import compile_step, zero_states


class Gpt(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(32, 8), nn.Embedding(16, 8)
        block = (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.blocks = nn.ModuleList(block)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 32, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.tokens(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))


def test_a_transformer_has_every_role():
    roles = roles_of(Gpt(tied=False))
    assert roles["tokens.weight"] == roles["places.weight"] == "embedding"
    assert roles["head.weight"] == "head"
    assert roles["blocks.1.linear2.weight"] == roles["blocks.0.self_attn.in_proj_weight"] == "matrix"
    assert roles["norm.weight"] == roles["blocks.0.linear1.bias"] == "vector"
    assert list(roles) == [name for name, _ in Gpt(tied=False).named_parameters()]


def test_a_shared_table_is_an_embedding():
    roles = roles_of(Gpt(tied=True))
    assert roles["tokens.weight"] == "embedding" and "head.weight" not in roles
    assert "head" not in roles.values()


def test_the_last_map_of_a_stack_of_blocks_or_an_only_one_is_no_head():
    blocks = nn.Module()
    blocks.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    assert set(roles_of(blocks).values()) == {"matrix", "vector"}
    assert roles_of(nn.Linear(4, 4)) == {"weight": "matrix", "bias": "vector"}
    one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 10))
    assert [r for r in roles_of(one).values() if r != "vector"] == ["matrix", "head"]
    stack = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(2)))
    assert set(roles_of(stack).values()) == {"matrix", "vector"}
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 16), nn.Linear(16, 10))
    assert [r for r in roles_of(convolutions).values() if r != "vector"] == ["matrix", "matrix", "head"]


def test_names_and_patterns_override():
    roles = roles_of(Gpt(tied=False), {"head.weight": "matrix", "*.linear1.*": "vector", "*.linear?.weight": "head"})
    assert roles["head.weight"] == "matrix"
    assert roles["blocks.0.linear1.weight"] == "vector" and roles["blocks.0.linear2.weight"] == "head"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"head.weight": "haed"}, "unknown role 'haed' for 'head.weight'; did you mean 'head'?"),
        ({"haed.weight": "head"}, "no parameter is called 'haed.weight'; did you mean 'head.weight'?"),
    ],
)
def test_a_wrong_override_is_one_line(overrides, line):
    with pytest.raises(ValueError) as error:
        roles_of(Gpt(tied=False), overrides)
    assert str(error.value) == line


def test_a_routed_rule_trains_a_module_by_its_roles():
    torch.manual_seed(0)
    model, muon = Gpt(tied=False), load("muon").with_lr(0.1)
    params, roles = list(model.parameters()), list(roles_of(model).values())
    step, states = compile_step(muon, roles), zero_states(muon, params, roles)
    x = torch.randint(32, (8, 12))
    losses = []
    for t in range(1, 31):
        loss = nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        grads = torch.autograd.grad(loss, params)
        with torch.no_grad():
            update, states = step(params, list(grads), states, 1.0, t, t / 30)
            for p, u in zip(params, update, strict=True):
                p.sub_(u)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
