# mypy: disable-error-code="no-untyped-def, var-annotated"
"""What torch spellings of op rows call. Exported files carry the text of those that they use."""

import math

import torch


def _divide(x, y):
    """X / y, and 0 where y is 0."""
    return torch.where(y == 0, 0.0, x / torch.where(y == 0, 1.0, y))


def _quantile(x, q):
    """The value that a share q of the elements do not exceed, interpolated; NaN outside [0, 1]."""
    q, flat = float(q), x.flatten()
    if not 0 <= q <= 1 or not bool(torch.isfinite(flat).all()):
        return x.new_full((), math.nan)
    ordered = flat.sort().values
    place = q * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def _stacked(function, *lists):
    """The function of each matrix, of those alike in shape at once where a call costs more than its products."""
    alike = {}
    for place, xs in enumerate(zip(*lists, strict=True)):
        alone = xs[0].device.type == "cpu" and xs[0].numel() > 4096  # a CPU is slower on stacks of large ones
        alike.setdefault((place if alone else -1, *(x.shape for x in xs)), []).append(place)
    found = [None] * len(lists[0])
    for places in alike.values():
        several = [[xs[i] for i in places] for xs in lists]
        if len(places) > 1:  # a number of each matrix goes before its axes
            stacks = [x if x.dim() > 1 else x.reshape(-1, 1, 1) for x in map(torch.stack, several)]
            results = function(*stacks)
        else:
            results = [function(*(xs[0] for xs in several))]
        for i, x in zip(places, results, strict=True):
            found[i] = x
    return found


def _wide(x):
    """The shorter side first."""
    return x if x.shape[-2] <= x.shape[-1] else x.mT


def _unwide(x, like):
    """Back from _wide to the sides of `like`."""
    return x if like.shape[-2] <= like.shape[-1] else x.mT


def _eye(x):
    """The identity matrix of a square one's size; beside shards, which do not go with plain tensors, one of theirs."""
    eye = torch.eye(len(x), dtype=x.dtype, device=x.device)
    return type(x).from_local(eye, x.device_mesh, run_check=False) if hasattr(x, "to_local") else eye


def _finite(x):
    """Whether a decomposition is defined; elsewhere it is NaN."""
    return bool(torch.isfinite(x).all())


def _signed(basis):
    """The largest element of each column positive; of equal ones, within a part in a million, the first."""
    size = basis.abs()
    largest = (size >= (1 - 1e-6) * size.amax(0, keepdim=True)).to(torch.uint8).argmax(0, keepdim=True)
    return basis * torch.where(basis.gather(0, largest) < 0, -1.0, 1.0).to(basis.dtype)


def _quintic(x, a, b, c):
    """One Newton-Schulz iteration, a X + b X X'X + c X X'X X'X, over the shorter side."""
    y = _wide(x)
    s = y @ y.mT
    y = a * y + (b * s + c * (s @ s)) @ y
    return _unwide(y, x)


def _orthogonalize(x):
    """X over its norm, then five iterations of Muon's quintic."""
    y = _divide(x, torch.sqrt(torch.sum(x * x, (-2, -1), keepdim=True)))
    for _ in range(5):
        y = _quintic(y, 3.4445, -4.7750, 2.0315)
    return y


def _eigh(x):
    """Eigenvectors of a symmetric matrix by falling eigenvalue."""
    if not _finite(x):
        return torch.full_like(x, math.nan)
    return _signed(torch.linalg.eigh((x + x.mT) / 2)[1].flip(1))


def _qr(x):
    """The orthogonal factor."""
    return _signed(torch.linalg.qr(x)[0]) if _finite(x) else torch.full_like(x, math.nan)


def _svd(x, rank):
    """The first left singular vectors."""
    rank = min(int(rank), *x.shape)
    if not _finite(x):
        return x.new_full((x.shape[0], rank), math.nan)
    return _signed(torch.linalg.svd(x, full_matrices=False)[0][:, :rank])


def _inverse_sqrt(x):
    """Symmetric X to the power -1/2, on the span of eigenvalues that rounding cannot have made."""
    if not _finite(x):
        return torch.full_like(x, math.nan)
    values, vectors = torch.linalg.eigh((x + x.mT) / 2)
    kept = values > max(1e-12, len(x) * torch.finfo(x.dtype).eps) * values.max()
    return (vectors * torch.where(kept, 1 / torch.sqrt(torch.where(kept, values, 1.0)), 0.0)) @ vectors.mT


def _projection(x, rank, period, t, draw):
    """A Gaussian map to `rank` dimensions, elements N(0, 1 / rank), redrawn every `period` steps."""
    rank = min(int(rank), *x.shape)
    drawn = draw((rank, x.shape[0]), int((float(t) - 1) // float(period)))
    return torch.as_tensor(drawn, dtype=x.dtype, device=x.device) / math.sqrt(rank)


def _filled(x, w, rows, columns):
    """A value written out along these axes of the matrix w."""
    sides = {"fan_out": w.shape[0], "fan_in": w.shape[1], "short": min(w.shape), "long": max(w.shape)}
    shape = [sides[axis] if isinstance(axis, str) else min(axis, *w.shape) for axis in (rows, columns)]
    return torch.as_tensor(x, dtype=w.dtype, device=w.device).expand(shape).clone()


def _worker_mean(xs):
    """The mean over the processes of torch.distributed's default group; of one process the same."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return xs
    xs = [x.clone() for x in xs]
    for x in xs:
        torch.distributed.all_reduce(x)
    return torch._foreach_div(xs, torch.distributed.get_world_size())
