"""The same runs the plain way, without a line of symbreak: torch.optim, and loops in Python floats."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def perceptron(X, y, w, eta, b, epochs, order=None, bias=True, *, update_at_zero=False):
    """w += eta (y - phi(z)) x, one sample at a time; update_at_zero: wherever y z <= 0, y in {-1, +1}."""
    w, y, mistakes, positives_at_zero = [float(p) for p in w], (np.asarray(y) > 0).astype(float), [], 0
    for t in range(epochs):
        visits = range(len(X)) if order is None else order if np.ndim(order) == 1 else order[t]
        mistakes.append(0)
        for i in visits:
            z = 0.0
            for p, q in zip(w, X[i], strict=True):
                z += p * float(q)
            z += b
            positives_at_zero += z == 0 and y[i] == 1
            error = y[i] - (1.0 if z >= 0 else 0.0)
            if update_at_zero and z == 0:
                error = 2 * y[i] - 1
            if error:
                w = [p + eta * error * float(q) for p, q in zip(w, X[i], strict=True)]
                b += eta * error if bias else 0.0
                mistakes[-1] += 1
    return w, b, mistakes, positives_at_zero


def hinge(X, y, w, eta, margin, alpha, epochs):
    w = [float(p) for p in w]
    for _ in range(epochs):
        for x, label in zip(np.asarray(X).tolist(), np.asarray(y), strict=True):
            s = 1.0 if label > 0 else -1.0
            inside = s * sum(p * q for p, q in zip(w, x, strict=True)) <= margin
            w = [p - eta * (alpha * p - (s * q if inside else 0.0)) for p, q in zip(w, x, strict=True)]
    return w


def passive_aggressive(X, y, w, variant, C, margin, epochs):
    w = [float(p) for p in w]
    for _ in range(epochs):
        for x, label in zip(np.asarray(X).tolist(), np.asarray(y), strict=True):
            s = 1.0 if label > 0 else -1.0
            loss, square = max(0.0, margin - s * sum(p * q for p, q in zip(w, x, strict=True))), sum(q * q for q in x)
            if square:
                tau = {"pa": loss / square, "pa1": min(C, loss / square), "pa2": loss / (square + 1 / (2 * C))}[variant]
                w = [p + tau * s * q for p, q in zip(w, x, strict=True)]
    return w


def least_squares(X, y, w0, eta, steps, *, optimizer=torch.optim.SGD, **knobs):
    """Weights [steps + 1, d] of torch.optim on |X w - y|^2 / (2 n)."""
    w = torch.nn.Parameter(torch.tensor(np.asarray(w0, dtype=float)))
    descent, X, y = optimizer([w], lr=eta, **knobs), torch.tensor(np.asarray(X)), torch.tensor(np.asarray(y))
    seen = [w.detach().numpy().copy()]
    for _ in range(steps):
        descent.zero_grad()
        (0.5 * ((X @ w - y) ** 2).mean()).backward()
        descent.step()
        seen.append(w.detach().numpy().copy())
    return np.array(seen)


OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def network(setup):
    """Parameters and gradients [steps + 1, P] of torch.optim, every entry a parameter with knobs of its own."""
    entries = [torch.nn.Parameter(torch.tensor(one)) for t in setup.tensors for one in t.ravel()]
    knobs = {"weight_decay": setup.flat("weight_decay"), "eps": setup.flat("eps")}
    if setup.optimizer == "sgd":
        knobs = {"weight_decay": knobs["weight_decay"]}
    groups = [
        {"params": [p], "lr": float(eta), **{name: float(of[i]) for name, of in knobs.items()}}
        for i, (p, eta) in enumerate(zip(entries, setup.flat("eta"), strict=True))
    ]
    own = {"momentum": setup.momentum, "nesterov": setup.nesterov} if setup.optimizer == "sgd" else {}
    optimizer = OPTIMIZERS[setup.optimizer](groups, **own)
    path, gradients = [], []
    for _ in range(setup.steps + 1):
        optimizer.zero_grad()
        _loss(setup, entries).backward()
        path.append([p.item() for p in entries])
        gradients.append([p.grad.item() for p in entries])
        optimizer.step()
    return np.array(path), np.array(gradients)


def _loss(setup, entries):
    flat, at, tensors = torch.stack(entries), 0, []
    for t in setup.tensors:
        tensors.append(flat[at : at + t.size].reshape(t.shape))
        at += t.size
    depth = len(setup.weights)
    h, y = torch.tensor(np.asarray(setup.X, dtype=float)), torch.tensor(np.asarray(setup.y))
    for k in range(depth):
        h = F.linear(h, tensors[k], tensors[depth + k] if setup.biases is not None else None)
        if k < depth - 1:
            h = _normalised(h, setup.norm_eps)
            h = ACTIVATIONS[setup.activation](h)
    if setup.loss == "cross_entropy":
        loss = F.cross_entropy(h, y.long())
    elif setup.loss == "mse":
        loss = F.mse_loss(h, y.double().reshape(h.shape))
    elif setup.loss == "logistic":
        loss = F.binary_cross_entropy_with_logits(h[:, 0], (y.double() + 1) / 2)
    else:
        loss = torch.relu(setup.margin - y.double() * h[:, 0]).mean()
    return setup.loss_scale * loss


def _normalised(h, eps):
    if eps is None:
        return h
    if eps > 0:
        return F.batch_norm(h, None, None, training=True, eps=eps)
    return (h - h.mean(dim=0)) / h.std(dim=0, correction=0)  # torch refuses eps = 0
