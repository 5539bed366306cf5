# mypy: ignore-errors
"""Rules that act by role, or on matrices. Exported files of such rules carry this text."""

import torch

from ..dsl.parameter import ROLES, ParameterView, check_matrices, infer_role
from .optimizer import _real


class ByRole:
    """An optimizer that splits each group that it is given into one for each role.

    A group has one "role", and of each rule's numbers those of its own rule, under their plain names: what a group
    says holds for all of its parameters, what it does not say is its rule's default.
    """

    def add_param_group(self, param_group):
        """Adds a group, as one for each role that its parameters have.

        The role is the group's "role"; else that of two axes or more is "matrix", of fewer "vector".
        """
        for group in self._by_role(param_group):
            super().add_param_group(group)
            own = self._rule(group).arguments
            for name in {x for rule in self._rules for pair in rule.arguments.items() for x in pair} - {*own}:
                group.pop(name, None)

    def _by_role(self, given):
        params = given.get("params", ()) if isinstance(given, dict) else ()
        if isinstance(params, (set, torch.Tensor)) or not isinstance(given, dict):
            params = [params] if isinstance(params, torch.Tensor) else []
        params = list(params)
        if not params:
            yield given  # an error, which torch words
            return
        if "role" in given and given["role"] not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, not {given['role']!r}")
        split = {}
        for one in params:
            p = one[1] if isinstance(one, tuple) else one
            split.setdefault(given.get("role") or infer_role(getattr(p, "shape", ())), []).append(one)
        for role, some in split.items():
            group = {**given, "params": some, "role": role}
            rule = self._rule(group)
            if rule.matrices:
                shapes = [tuple((one[1] if isinstance(one, tuple) else one).shape) for one in some]
                check_matrices([ParameterView(i, shape, role) for i, shape in enumerate(shapes)])
            for key, argument in rule.arguments.items():
                group[key] = group.get(key, group.get(argument, self.defaults[argument]))
            yield group

    def _rule(self, group):
        return next(rule for rule in self._rules if not rule.roles or group["role"] in rule.roles)

    def _view(self, group, p):
        return ParameterView(0, tuple(_real(p).shape), group["role"])

    def _seen(self, group, params, xs=None):
        xs = super()._seen(group, params, xs)
        if not self._rule(group).matrices:
            return xs
        return [self._view(group, p).view(x) for p, x in zip(params, xs, strict=True)]

    def _unseen(self, group, params, xs):
        if not self._rule(group).matrices:
            return xs
        return [self._view(group, p).back(x) for p, x in zip(params, xs, strict=True)]
