"""Algorithms 3 and 4 from their formulas alone, in NumPy: slow, and read in a minute."""

import numpy as np


def column_t(d):  # rows of an embedding table are the columns of the method
    lengths = np.linalg.norm(d, axis=1, keepdims=True)
    unit = np.divide(d, lengths, out=np.zeros_like(d), where=lengths > 0)
    return np.sqrt(d.shape[1]) * unit


def spectral_conv(d, at_least=0.0):
    u, _, vt = np.linalg.svd(d.reshape(d.shape[0], -1), full_matrices=False)
    scale = max(at_least, np.sqrt(d.shape[0] / d.shape[1])) / np.prod(d.shape[2:])
    return scale * (u @ vt).reshape(d.shape)


def sign(d):
    return np.sign(d) / d.shape[1]


def rms(d):
    return np.sqrt(d.size) * d / np.linalg.norm(d)


def norm_column_t(w):
    return np.linalg.norm(w, axis=1).max() / np.sqrt(w.shape[1])


def norm_spectral_conv(w, at_least=0.0):
    scale = max(at_least, np.sqrt(w.shape[0] / w.shape[1])) / np.prod(w.shape[2:])
    return np.linalg.norm(w.reshape(w.shape[0], -1), 2) / scale


def norm_sign(w):
    return w.shape[1] * np.abs(w).max()


def norm_rms(w):
    return np.sqrt(np.mean(w**2))


# v_l = -lmo_l(d_l), the norm, the radius: one row per parameter of tests/optim/network.py
LAYERS = {
    "table.weight": (column_t, norm_column_t, 2.0),
    "conv1.weight": (spectral_conv, norm_spectral_conv, 3.0),
    "conv2.weight": (lambda d: spectral_conv(d, 1.0), lambda w: norm_spectral_conv(w, 1.0), 4.0),
    "head.weight": (sign, norm_sign, 20.0),
    "conv1.bias": (rms, norm_rms, 1.5),
    "conv2.bias": (rms, norm_rms, 1.5),
    "gain.weight": (rms, norm_rms, 1.5),
    "gain.bias": (rms, norm_rms, 1.5),
    "head.bias": (rms, norm_rms, 1.5),
}


def ratios(model):
    """Return the norm of every weight in units of its radius: at most 1 inside the ball."""
    return {
        n: LAYERS[n][1](p.detach().double().numpy()) / LAYERS[n][2]
        for n, p in model.named_parameters()
    }


def seen(g, axis):
    """Return 1 for the parts along an axis whose gradient has an entry that is not 0; None: all."""
    if axis is None:
        return 1.0
    return np.any(g != 0, tuple(i for i in range(g.ndim) if i != axis), keepdims=True) * 1.0


def step(x, d, g, *, lr, alpha, rho, variant=None, nesterov=False, layers=LAYERS, parts=()):
    """Advance weights and momenta, dicts of arrays, in place; return the step factor.

    `variant=None` is Algorithm 3, 1 and 2 those of Algorithm 4; `rho=None` does not clip. `parts`
    names the layers whose parts along an axis rest where they have no gradient: {name: axis}.
    """
    e, on = {}, {}
    for n in x:
        on[n] = seen(g[n], dict(parts).get(n))
        d[n] = on[n] * ((1 - alpha) * d[n] + alpha * g[n]) + (1 - on[n]) * d[n]
        e[n] = on[n] * ((1 - alpha) * d[n] + alpha * g[n] if nesterov else d[n])
    v = {n: layers[n][0](e[n]) for n in x}
    if variant is None:
        size = sum(layers[n][2] * np.sum(e[n] * v[n]) for n in x)
        factor = 1.0 if rho is None else min(1.0, size / rho)
        for n in x:
            x[n] = x[n] - lr * factor * layers[n][2] * v[n]
        return factor
    w = {n: on[n] * (x[n] + layers[n][2] * v[n]) for n in x}
    gap = sum(np.sum(e[n] * w[n]) for n in x)
    if rho is None:
        factor = 1.0
    else:
        corner = max(layers[n][1](w[n]) / layers[n][2] for n in x) if variant == 1 else 1.0
        factor = min(1.0, max(0.0, gap / (rho * corner**2)))
    for n in x:
        x[n] = x[n] - lr * factor * w[n]
    return factor


def average(m, x, t, weight):
    """Return the average after step t, from the one before and the weights."""
    share = min(1.0, 1 / (weight * t))
    return {n: (1 - share) * m[n] + share * x[n] for n in x}
