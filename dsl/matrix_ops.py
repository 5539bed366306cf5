"""The rows of the op table that need a matrix: axes, products, orthogonal bases, projections.

A matrix decomposition is defined up to signs; ours are fixed, so that every lowering gives the same: in each
basis vector the element of largest size is positive (of equal ones, within a part in a million, the first).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .kind import Kind
from .op import Array, Op, row

#: Muon's quintic (Jordan et al. 2024): singular values go near 1 in five iterations.
QUINTIC = (3.4445, -4.7750, 2.0315)
_TIED = 1 - 1e-6

# --- meanings -------------------------------------------------------------------------------------------


def _over(reduce: Any) -> Any:
    return lambda x, axis: reduce(x, axis=axis, keepdims=True)


def _rms(x: Array, axis: int) -> Array:
    return np.sqrt(np.mean(x * x, axis=axis, keepdims=True))


def _norm(x: Array, axis: int) -> Array:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=True))


def _wide(x: Array) -> Array:
    return x if x.shape[0] <= x.shape[1] else x.T


def signed(basis: Array) -> Array:
    """The basis with the signs of its columns fixed."""
    size = np.abs(basis)
    largest = np.argmax(size >= _TIED * size.max(axis=0, keepdims=True), axis=0)
    sign = np.where(np.take_along_axis(basis, largest[None], axis=0) < 0, -1.0, 1.0)
    return basis * sign


def _finite(x: Array, result: Any) -> Array:
    """A decomposition of a matrix that is not finite is NaN."""
    return result() if np.isfinite(x).all() else np.full_like(x, np.nan)


def quintic(x: Array, a: float, b: float, c: float) -> Array:
    """One Newton-Schulz iteration, a X + b X X'X + c X X'X X'X, over the shorter side."""
    y = _wide(x)
    s = y @ y.T
    y = a * y + (b * s + c * (s @ s)) @ y
    return y if x.shape[0] <= x.shape[1] else y.T


def _orthogonalize(x: Array) -> Array:
    norm = np.sqrt(np.sum(x * x))
    y = x / (norm if norm else 1.0)
    for _ in range(5):
        y = quintic(y, *QUINTIC)
    return y


def _eigh(x: Array) -> Array:
    """Columns by falling eigenvalue."""
    return _finite(x, lambda: signed(np.linalg.eigh((x + x.T) / 2)[1][:, ::-1]))


def _qr(x: Array) -> Array:
    return _finite(x, lambda: signed(np.linalg.qr(x)[0]))


def _svd(x: Array, rank: float) -> Array:
    count = min(int(rank), *x.shape)
    if not np.isfinite(x).all():
        return np.full((x.shape[0], count), np.nan)
    return signed(np.linalg.svd(x, full_matrices=False)[0][:, :count])


def _inverse_sqrt(x: Array) -> Array:
    """Symmetric X to the power -1/2, on the span of eigenvalues above 1e-12 of the largest."""

    def made() -> Array:
        values, vectors = np.linalg.eigh((x + x.T) / 2)
        kept = values > 1e-12 * values.max()
        return (vectors * np.where(kept, 1 / np.sqrt(np.where(kept, values, 1.0)), 0.0)) @ vectors.T

    return _finite(x, made)


def _projection(x: Array, rank: float, period: float, t: float, draw: Any) -> Array:
    """A Gaussian map to `rank` dimensions, elements N(0, 1 / rank), redrawn every `period` steps."""
    count = min(int(rank), *x.shape)
    return draw((count, x.shape[0]), int((t - 1) // period)) / np.sqrt(count)


# --- rows -----------------------------------------------------------------------------------------------

_REDUCTIONS: dict[str, dict[str, Any]] = {
    "mean": {"traits": "degree:1", "meaning": _over(np.mean), "torch": "torch.mean({0}, {axis}, keepdim=True)",
             "jax": "jnp.mean({0}, {axis}, keepdims=True)"},
    "sum": {"traits": "degree:1", "meaning": _over(np.sum), "torch": "torch.sum({0}, {axis}, keepdim=True)",
            "jax": "jnp.sum({0}, {axis}, keepdims=True)"},
    "rms": {"traits": "by_size degree:1", "meaning": _rms, "cost": 2,
            "torch": "torch.sqrt(torch.mean({0} * {0}, {axis}, keepdim=True))",
            "jax": "jnp.sqrt(jnp.mean({0} * {0}, {axis}, keepdims=True))"},
    "norm": {"traits": "by_size degree:1", "meaning": _norm, "cost": 2,
             "torch": "torch.sqrt(torch.sum({0} * {0}, {axis}, keepdim=True))",
             "jax": "jnp.sqrt(jnp.sum({0} * {0}, {axis}, keepdims=True))"},
    "amax": {"traits": "degree:1", "meaning": _over(np.max), "torch": "torch.amax({0}, {axis}, keepdim=True)",
             "jax": "jnp.max({0}, {axis}, keepdims=True, initial=-jnp.inf)"},
    "std": {"traits": "degree:1", "meaning": _over(np.std), "cost": 4,
            "torch": "torch.std({0}, {axis}, correction=0, keepdim=True)",
            "jax": "jnp.std({0}, {axis}, keepdims=True)"},
    "size": {
        "meaning": lambda x, axis: np.float64(x.shape[axis]), "traits": "degree:0", "cost": 0, "result": Kind.SCALAR,
        "torch": "torch.tensor(float({0}.shape[{axis}]), dtype=torch.float64)", "jax": "float({0}.shape[{axis}])",
    },
}  # fmt: skip
#: The axes that a reduction may name: those of a parameter, those by size, and the rank of a projection.
REDUCED = ("fan_in", "fan_out", "short", "long", "rank")

# fmt: off
MATRIX_ROWS: tuple[Op, ...] = (
    *(row(f"{name}:{axis}", 1, axis=axis, doc=f"{name} along {axis}", **fields)
      for name, fields in _REDUCTIONS.items() for axis in REDUCED),
    row("matmul", 2, np.matmul, "bilinear",
        torch="{0} @ {1}", jax="{0} @ {1}", symbol="@", cost=16, stacks=True, shape="a b, b c -> a c"),
    row("transpose", 1, np.transpose, "linear degree:1", torch="{0}.mT", jax="{0}.T", cost=0, shape="a b -> b a"),
    row("wide", 1, _wide, "linear degree:1", torch="_wide({0})", jax="_wide({0})", cost=0, shape="O I -> S L",
        doc="the shorter side first"),
    row("unwide", 1, lambda x, like: x if like.shape[0] <= like.shape[1] else x.T, "linear degree:1", like=True,
        torch="_unwide({0}, {like})", jax="_unwide({0}, {like})", cost=0, shape="S L -> O I",
        doc="back from wide to the rows and columns of the parameter"),
    row("eye", 1, lambda x: np.eye(x.shape[0]), "degree:0 bounded:1",
        torch="_eye({0})", jax="jnp.eye(len({0}), dtype={0}.dtype)",
        cost=0, shape="a a -> a a", doc="the identity matrix of a square one's size"),
    row("newton_schulz", 4, quintic,
        torch="_quintic({0}, {1}, {2}, {3})", jax="_quintic({0}, {1}, {2}, {3})", cost=64, shape="a b, ., ., . -> a b",
        stacks=True,         doc="one iteration a X + b X X'X + c X X'X X'X"),
    row("orthogonalize", 1, _orthogonalize, "degree:0 bounded:1.21",
        torch="_orthogonalize({0})", jax="_orthogonalize({0})", cost=320, stacks=True,
        shape="a b -> a b",
        doc="X over its norm, then five iterations of Muon's quintic: singular values between 0.7 and 1.2"),
    row("inverse_sqrt", 1, _inverse_sqrt, "degree:-0.5",
        torch="_inverse_sqrt({0})", jax="_inverse_sqrt({0})", cost=200, shape="a a -> a a",
        doc="the power -1/2 of a symmetric matrix"),
    row("eigh_basis", 1, _eigh, "degree:0 bounded:1",
        torch="_eigh({0})", jax="_eigh({0})", cost=200, shape="a a -> a a",
        doc="eigenvectors of a symmetric matrix as columns, by falling eigenvalue"),
    row("qr_basis", 1, _qr, "degree:0 bounded:1", torch="_qr({0})", jax="_qr({0})", cost=50, shape="a a -> a a",
        doc="the orthogonal factor of a QR decomposition"),
    row("svd_basis", 2, _svd, "degree:0 bounded:1",
        torch="_svd({0}, {1})", jax="_svd({0}, {1})", cost=400, shape="a b, k -> a k",
        doc="the first k left singular vectors as columns"),
    row("random_projection", 3, _projection, "degree:0",
        torch="_projection({0}, {1}, {2}, {3}, {draw})", jax="_projection({0}, {1}, {2}, {3}, {draw})", cost=10,
        shape="a b, k, # -> k a", draws=True,
        doc="a k by a Gaussian matrix, elements N(0, 1/k), redrawn every # steps"),
)
# fmt: on
