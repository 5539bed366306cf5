# mypy: ignore-errors
"""Rules that act by role, or on matrices. Exported files of such rules carry this text."""

import torch

from ..dsl.parameter import ROLES, ParameterView, check_matrices, infer_role
from .optimizer import _real


class ByRole:
    """An optimizer that splits each group that it is given into one for each role.

    A group has one "role", and of each rule's numbers those of its own rule, under their plain names. What a group
    that is given says holds for all of its parameters, but that "lr" is the first rule's rate, to which those of the
    others keep their ratio; what it does not say is its rule's default.
    """

    def add_param_group(self, param_group):
        """Adds a group, as one for each role that its parameters have; none where there is an error.

        The role is the group's "role"; else that of two axes or more is "matrix", of fewer "vector".
        """
        before = len(self.param_groups)
        try:
            for group in self._by_role(param_group):
                super().add_param_group(group)
                for name in self._foreign(group):
                    group.pop(name, None)
        except BaseException:
            del self.param_groups[before:]
            raise

    def _by_role(self, given):
        """The groups that are made of one."""
        params = given.get("params") if isinstance(given, dict) else None
        if params is None or isinstance(params, set):
            return [given]  # torch says what is wrong
        params = [params] if isinstance(params, torch.Tensor) else list(params)
        if given.get("role", ROLES[0]) not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, not {given['role']!r}")
        split = {} if params else {given.get("role", ROLES[0]): []}
        for one in params:
            split.setdefault(given.get("role") or infer_role(_shape(one)), []).append(one)
        return [self._group(given, role, some, not place) for place, (role, some) in enumerate(split.items())]

    def _group(self, given, role, params, first):
        group = {**given, "params": params, "role": role}
        rule = self._rule(group)
        if rule.matrices:
            check_matrices([ParameterView(_name(one, i), _shape(one), role) for i, one in enumerate(params)])
        for key, argument in rule.arguments.items():
            usual = self.defaults[argument]
            if key == "lr" and "lr" in given and self.defaults["lr"]:  # rates keep their ratio
                usual = given["lr"] * (float(usual) / float(self.defaults["lr"]))
            value = group.get(argument, usual if key == "lr" else group.get(key, usual))
            # schedulers write into a tensor, and each group has its own rate
            group[key] = value.clone() if isinstance(value, torch.Tensor) and not first else value
        if "initial_lr" in given and rule.arguments:
            group["initial_lr"] = given["initial_lr"] * self._ratio(given, group)
        return group

    def _ratio(self, given, group):
        """The rate of a group over the one that was given, which is the first rule's."""
        one, own = given.get("lr", self.defaults["lr"]), group["lr"]
        if not one:
            one, own = self.defaults["lr"], self.defaults[self._rule(group).arguments["lr"]]
        return float(own) / float(one) if one else 1.0

    def _foreign(self, group):
        """Names of other rules' numbers."""
        names = {x for rule in self._rules for pair in rule.arguments.items() for x in pair}
        return names - {*self._rule(group).arguments}

    def _usual(self, group):
        group.setdefault("role", infer_role(group["params"][0].shape) if group["params"] else ROLES[0])
        shared = {name: value for name, value in self.defaults.items() if name not in self._foreign(group)}
        return shared | {key: self.defaults[name] for key, name in self._rule(group).arguments.items()}

    def load_state_dict(self, state_dict):
        """Loads what `state_dict` gave; raises ValueError where its groups have other roles."""
        for place, (own, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            if saved.get("role", own["role"]) != own["role"]:
                raise ValueError(f"loaded state dict has role {saved['role']!r} for group {place}, which is of role "
                                 f"{own['role']!r} here")  # fmt: skip
        super().load_state_dict(state_dict)

    def _rule(self, group):
        return next(rule for rule in self._rules if not rule.roles or group["role"] in rule.roles)

    def _view(self, group, p):
        return ParameterView(0, tuple(_real(p).shape), group["role"])

    def _to_rule(self, group, params, xs):
        if not self._rule(group).matrices:
            return xs
        return [self._view(group, p).view(x) for p, x in zip(params, xs, strict=True)]

    def _from_rule(self, group, params, xs):
        if not self._rule(group).matrices:
            return xs
        return [self._view(group, p).back(x) for p, x in zip(params, xs, strict=True)]


def _shape(one):
    """The shape of a parameter, or of a (name, parameter) pair; what is no tensor is left to torch."""
    return tuple(getattr(one[1] if isinstance(one, tuple) else one, "shape", (1, 1)))


def _name(one, place):
    """What to call a parameter."""
    return repr(one[0]) if isinstance(one, tuple) else place
