"""Encoders, attention and the generator's losses once more, in numpy, row by row.

Everything works on complex numbers, so that a derivative is the imaginary part of a value
at a point that is moved by `1e-30 i`, exact to rounding.
"""

import jax
import numpy as np

MOVE = 1e-30


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log(1 + np.exp(x))


def relu(x):
    return np.where(np.real(x) > 0, x, 0)


def gru(kernel, bias, recurrent_kernel, candidate_bias, h, x):
    """One row, one step: the new `h` and the pre-tanh activation."""
    w, b, u = (np.split(each, 3, axis=-1) for each in (kernel, bias, recurrent_kernel))
    r = sigmoid(x @ w[0] + h @ u[0] + b[0])
    z = sigmoid(x @ w[1] + h @ u[1] + b[1])
    a = x @ w[2] + b[2] + r * (h @ u[2] + candidate_bias)
    return (1 - z) * np.tanh(a) + z * h, a


def encode(params, condition, row):
    """First carries, addition to embeddings, memory `[S, M]` without padding, summary."""
    if not isinstance(condition, tuple):
        label = int(condition[row])
        constant = params.input[label]
        return [table[label] for table in params.carry], constant, None, constant
    symbols = [
        int(value)
        for value, counts in zip(
            condition.values[:, row], condition.mask[:, row], strict=True
        )
        if counts
    ]
    size = params.recurrent.bias.shape[1]
    states = []
    for direction, order in enumerate((1, -1)):
        columns = slice(3 * size * direction, 3 * size * (direction + 1))
        h, hidden = np.zeros(size), []
        for symbol in symbols[::order]:
            h, _ = gru(
                params.input.kernel[:, columns],
                params.input.bias[columns],
                params.recurrent.kernel[direction],
                params.recurrent.bias[direction],
                h,
                params.embedding[symbol],
            )
            hidden.append(h)
        states.append((h, hidden[::order]))
    last = np.concatenate([h for h, _ in states])
    memory = [
        np.concatenate(pair) for pair in zip(*(h for _, h in states), strict=True)
    ]
    carry = [np.tanh(last @ layer.kernel + layer.bias) for layer in params.carry]
    return carry, 0, memory, sum(memory) / len(memory)


def attend(params, h, memory):
    scores = []
    for state in memory:
        if params.query is None:
            scores.append(h @ (state @ params.memory))
        else:
            scores.append(
                np.tanh(h @ params.query + state @ params.memory) @ params.score
            )
    weights = np.exp(scores) / np.sum(np.exp(scores))
    context = sum(w * state for w, state in zip(weights, memory, strict=True))
    joined = np.concatenate([h, context])
    return np.tanh(joined @ params.output.kernel + params.output.bias)


def run_row(params, inputs, condition, row):
    """Logits `[T, V]`, pre-tanh activations `[T, L H]`, and the condition's summary."""
    h, constant, memory, summary = encode(params.encoder, condition, row)
    h, logits, preactivations = list(h), [], []
    for symbol in inputs[:, row]:
        x, of_layers = params.input[int(symbol)] + constant, []
        for index, layer in enumerate(params.layers):
            x, a = gru(*layer, h[index], x)
            h[index] = x
            of_layers.append(a)
        if params.attention is not None:
            x = attend(params.attention, x, memory)
        logits.append(x @ params.readout.kernel + params.readout.bias)
        preactivations.append(np.concatenate(of_layers))
    return np.array(logits), np.array(preactivations), summary


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def nll(params, batch, row):
    """`-log P(y)` of a row, summed over the steps that count."""
    logits, *_ = run_row(params, batch.inputs, batch.condition, row)
    log_probs = log_softmax(logits)
    steps = [t for t in range(len(logits)) if batch.mask[t, row]]
    return -sum(log_probs[t, int(batch.targets[t, row])] for t in steps)


def behavior(params, inputs, batch, row):
    """Pre-tanh activations, outputs and the condition's summary: `[T, F]`, valid steps."""
    logits, preactivation, summary = run_row(params, inputs, batch.condition, row)
    summaries = np.tile(summary, (len(logits), 1))
    outputs = np.exp(log_softmax(logits))
    steps = np.concatenate([preactivation, outputs, summaries], axis=1)
    return steps[batch.mask[:, row] == 1]


def discriminator_logit(params, steps):
    size, directions = params.recurrent.bias.shape[1], []
    for direction, order in enumerate((1, -1)):
        columns = slice(3 * size * direction, 3 * size * (direction + 1))
        h, hidden = np.zeros(size), []
        for x in steps[::order]:
            h, _ = gru(
                params.input.kernel[:, columns],
                params.input.bias[columns],
                params.recurrent.kernel[direction],
                params.recurrent.bias[direction],
                h,
                x,
            )
            hidden.append(h)
        directions.append(hidden[::order])
    total = 0
    for pair in zip(*directions, strict=True):
        x = np.concatenate(pair)
        for layer in params.mlp:
            x = relu(x @ layer.kernel + layer.bias)
        total = total + (x @ params.output.kernel + params.output.bias)[0]
    return total / len(steps)


def derivatives(function, tree, seed=0, num_entries=3):
    """`d function / d x` of some entries of each leaf: `(path, index, derivative)`."""
    source = np.random.default_rng(seed)
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    for number, (path, leaf) in enumerate(leaves):
        for _ in range(num_entries):
            index = tuple(int(source.integers(size)) for size in leaf.shape)
            moved = leaf.astype(complex)
            moved[index] += MOVE * 1j
            changed = [each for _, each in leaves]
            changed[number] = moved
            value = function(jax.tree_util.tree_unflatten(structure, changed))
            yield jax.tree_util.keystr(path), index, np.imag(value) / MOVE
