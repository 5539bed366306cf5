# mypy: disable-error-code="no-untyped-def, attr-defined"
"""What JAX spellings of op rows and exported optax files call. Exported files carry the text of those that they use."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

# --- rows ---------------------------------------------------------------------------------------------------


def _divide(x, y):
    """X / y, and 0 where y is 0."""
    zero = jnp.equal(y, 0)
    return jnp.where(zero, 0.0, x / jnp.where(zero, 1.0, y))


def _mod(x, y):
    """X - y floor(x / y), and x where y is 0."""
    # Without the barrier XLA multiplies by 1 / y, which takes 41 times a number for less than that.
    y = jax.lax.optimization_barrier(jnp.asarray(y, jnp.result_type(x, y)))
    return x - y * jnp.floor(_divide(x, y))


def _quantile(x, q):
    """The value that a share q of the elements do not exceed, interpolated; NaN outside [0, 1]."""
    if not x.size:
        return jnp.full((), jnp.nan, x.dtype)
    ordered = jnp.sort(x.ravel())
    place = jnp.clip(q, 0, 1) * (x.size - 1)
    low = ordered[jnp.floor(place).astype(jnp.int32)]
    high = ordered[jnp.ceil(place).astype(jnp.int32)]
    good = jnp.isfinite(x).all() & (q >= 0) & (q <= 1)
    return jnp.where(good, low + (high - low) * (place - jnp.floor(place)), jnp.nan)


def _wide(x):
    """The shorter side first."""
    return x if x.shape[0] <= x.shape[1] else x.T


def _unwide(x, like):
    """Back from _wide to the sides of `like`."""
    return x if like.shape[0] <= like.shape[1] else x.T


def _quintic(x, a, b, c):
    """One Newton-Schulz iteration, a X + b X X'X + c X X'X X'X, over the shorter side."""
    y = _wide(x)
    s = y @ y.T
    y = a * y + (b * s + c * (s @ s)) @ y
    return _unwide(y, x)


def _orthogonalize(x):
    """X over its norm, then five iterations of Muon's quintic."""
    y = _divide(x, jnp.sqrt(jnp.sum(x * x)))
    for _ in range(5):
        y = _quintic(y, 3.4445, -4.7750, 2.0315)
    return y


def _finite(x, decompose):
    """A decomposition, and NaN where the matrix is not finite."""
    good = jnp.isfinite(x).all()
    return jnp.where(good, decompose(jnp.where(good, x, 0.0)), jnp.nan)


def _signed(basis):
    """The largest element of each column positive; of equal ones, within a part in a million, the first."""
    size = jnp.abs(basis)
    largest = jnp.argmax(size >= (1 - 1e-6) * size.max(0, keepdims=True), axis=0)
    return basis * jnp.where(jnp.take_along_axis(basis, largest[None], axis=0) < 0, -1.0, 1.0)


def _eigh(x):
    """Eigenvectors of a symmetric matrix by falling eigenvalue."""
    return _finite(x, lambda x: _signed(jnp.linalg.eigh((x + x.T) / 2)[1][:, ::-1]))


def _qr(x):
    """The orthogonal factor."""
    return _finite(x, lambda x: _signed(jnp.linalg.qr(x)[0]))


def _svd(x, rank):
    """The first left singular vectors."""
    rank = min(int(rank), *x.shape)
    return _finite(x, lambda x: _signed(jnp.linalg.svd(x, full_matrices=False)[0][:, :rank]))


def _inverse_sqrt(x):
    """Symmetric X to the power -1/2, on the span of eigenvalues that rounding cannot have made."""

    def power(x):
        values, vectors = jnp.linalg.eigh((x + x.T) / 2)
        kept = values > max(1e-12, len(x) * float(jnp.finfo(x.dtype).eps)) * values.max()
        return (vectors * jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1.0)), 0.0)) @ vectors.T

    return _finite(x, power)


def _projection(x, rank, period, t, place, seed):
    """A Gaussian map to `rank` dimensions, elements N(0, 1 / rank), redrawn every `period` steps by numpy."""
    shape = min(int(rank), *x.shape), x.shape[0]

    def draw(seed, turn):
        key = np.array((int(seed), int(turn)), np.uint64)
        bits = np.random.Philox(key=key, counter=np.array((0, 0, place, 5), np.uint64))
        return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)

    turn = jnp.floor((t - 1) / period).astype(jnp.int32)
    drawn = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.pure_callback(draw, drawn, seed, turn, vmap_method="sequential").astype(x.dtype) / math.sqrt(shape[0])


def _when(wanted, make):
    """What `make` gives where it is wanted; elsewhere zeros, which nothing reads."""
    made = jax.eval_shape(make)
    return jax.lax.cond(wanted, make, lambda: [jnp.zeros(x.shape, x.dtype) for x in made])


# --- trees --------------------------------------------------------------------------------------------------


def _absent(x):
    """Whether a place of a tree holds no parameter."""
    return x is None or isinstance(x, optax.MaskedNode)


def _leaves(like, tree):
    """The leaves of a tree where `like` has some."""
    wanted, shape = jax.tree.flatten(like, is_leaf=_absent)
    return [x for x, one in zip(shape.flatten_up_to(tree), wanted, strict=True) if not _absent(one)]


def _put(like, tree, new):
    """A tree with new values where `like` has leaves, in the shapes and types of the old."""
    wanted, shape = jax.tree.flatten(like, is_leaf=_absent)
    rest = iter(new)
    old = shape.flatten_up_to(tree)
    return shape.unflatten([x if _absent(one) else _as(next(rest), x) for x, one in zip(old, wanted, strict=True)])


def _as(x, old):
    """A value in the shape and type of another."""
    return jnp.broadcast_to(x, jnp.shape(old)).astype(jnp.result_type(old))


def _in(xs, dtype):
    """Leaves in the dtype of the arithmetic."""
    return [jnp.asarray(x, dtype) for x in xs]


def _places(tree):
    """The index of each leaf."""
    return [i for i, x in enumerate(jax.tree.leaves(tree, is_leaf=_absent)) if not _absent(x)]


def _times(factor, learning_rate):
    """A learning rate, a number or a schedule, times a number."""
    if callable(learning_rate):
        return lambda count: factor * learning_rate(count)
    return factor * learning_rate


def _precision(xs):
    """The dtype of the arithmetic: at least float32."""
    return jnp.result_type(jnp.float32, *xs)


# --- roles --------------------------------------------------------------------------------------------------


def _roles(tree, roles):
    """The role of each leaf: by number of axes, by a tree, or by a function of the tree."""
    if roles is None:
        return ["matrix" if jnp.ndim(x) > 1 else "vector" for x in _leaves(tree, tree)]
    return _leaves(tree, roles(tree) if callable(roles) else roles)


def _assigned(tree, roles, part_of):
    """The tree with the part that acts on each leaf, by its role."""
    parts = [part_of.get(role) for role in _roles(tree, roles)]
    if None in parts:
        raise ValueError(f"a role must be one of {', '.join(part_of)}, not {_roles(tree, roles)[parts.index(None)]!r}")
    wanted, shape = jax.tree.flatten(tree, is_leaf=_absent)
    rest = iter(parts)
    return shape.unflatten([one if _absent(one) else next(rest) for one in wanted])


def _turned(role, outputs_first):
    """Whether a matrix lies with its inputs in rows: an embedding always does."""
    return role == "embedding" or not outputs_first


def _view(x, role, outputs_first):
    """A parameter as a matrix of fan_out rows and fan_in columns."""
    if x.ndim < 2:
        raise ValueError(f"a parameter of shape {x.shape} has no rows and columns: its role is vector, not {role}")
    rows = x.shape[0] if outputs_first or role == "embedding" else math.prod(x.shape[:-1])
    flat = x.reshape(rows, x.size // rows if rows else 0)
    return flat.T if _turned(role, outputs_first) else flat


def _views(xs, dtype, roles, outputs_first):
    """Leaves as such matrices, in the dtype of the arithmetic."""
    return [_view(jnp.asarray(x, dtype), role, outputs_first) for x, role in zip(xs, roles, strict=True)]


def _sides(p, role, outputs_first):
    """Rows and columns of that matrix."""
    return jax.eval_shape(lambda x: _view(x, role, outputs_first), p).shape


def _backs(xs, like, roles, outputs_first):
    """Such matrices, or what is to fill them, in the layout of the parameters."""
    whole = [jnp.broadcast_to(x, _sides(p, role, outputs_first)) for x, p, role in zip(xs, like, roles, strict=True)]
    turned = [x.T if _turned(role, outputs_first) else x for x, role in zip(whole, roles, strict=True)]
    return [x.reshape(jnp.shape(p)) for x, p in zip(turned, like, strict=True)]


def _blank(params, roles, outputs_first, axes, dtype):
    """Zeros along two axes of each parameter's matrix: fan_out, fan_in, short, long, or a rank."""

    def zeros(p, role):
        rows, columns = _sides(p, role, outputs_first)
        sides = {"fan_out": rows, "fan_in": columns, "short": min(rows, columns), "long": max(rows, columns)}
        shape = [sides[axis] if isinstance(axis, str) else min(axis, rows, columns) for axis in axes]
        return jnp.zeros(shape, dtype or p.dtype)

    wanted, shape = jax.tree.flatten(params, is_leaf=_absent)
    rest = iter(_roles(params, roles))
    return shape.unflatten([p if _absent(p) else zeros(p, next(rest)) for p in wanted])
