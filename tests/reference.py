"""The mathematics once more, slow and obvious: numpy, float64, a loop for every index.

Nothing here is shared with `pf_jax`; parameters are its named tuples with numpy leaves.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log(1 + np.exp(x))


def gru_step(kernel, bias, recurrent_kernel, candidate_bias, h, x):
    """One row, one step: the new `h` and the pre-tanh activation."""
    w_r, w_z, w_n = np.split(kernel, 3, axis=1)
    b_r, b_z, b_n = np.split(bias, 3)
    u_r, u_z, u_n = np.split(recurrent_kernel, 3, axis=1)
    r = sigmoid(x @ w_r + h @ u_r + b_r)
    z = sigmoid(x @ w_z + h @ u_z + b_z)
    a = x @ w_n + b_n + r * (h @ u_n + candidate_bias)
    return (1 - z) * np.tanh(a) + z * h, a


def unroll_teacher_forced(params, inputs, carry):
    """Tokens `[T, B]` and carries `[B, H]` of every layer.

    Returns `hidden` and `preactivation`, `[T, B, H]` of every layer, and `logits`.
    """
    num_steps, num_rows = inputs.shape
    num_layers, size = len(params.layers), carry[0].shape[1]
    hidden = np.zeros((num_layers, num_steps, num_rows, size))
    preactivation = np.zeros((num_layers, num_steps, num_rows, size))
    logits = np.zeros((num_steps, num_rows, params.readout.bias.size))
    for row in range(num_rows):
        h = [layer_carry[row] for layer_carry in carry]
        for t in range(num_steps):
            x = params.input[inputs[t, row]]
            for index, layer in enumerate(params.layers):
                h[index], a = gru_step(*layer, h[index], x)
                hidden[index, t, row] = x = h[index]
                preactivation[index, t, row] = a
            logits[t, row] = x @ params.readout.kernel + params.readout.bias
    return hidden, preactivation, logits


def discriminator_logits(params, features, mask):
    """One logit for each of `[T, N, F]`; a masked step is as if it were cut out."""
    logits = np.zeros(features.shape[1])
    for row in range(features.shape[1]):
        valid = features[mask[:, row] == 1, row]
        logits[row] = np.clip(_mean_step_logit(params, valid), -10, 10)
    return logits


def _mean_step_logit(params, steps):
    """Mean over the steps of one sequence, `[T, F]`, of their logits."""
    size = params.recurrent.bias.shape[1]
    forward = _gru_direction(params, 0, steps, size)
    backward = _gru_direction(params, 1, steps[::-1], size)[::-1]
    step_logits = []
    for before, after in zip(forward, backward, strict=True):
        x = np.concatenate([before, after])
        for layer in params.mlp:
            x = np.maximum(x @ layer.kernel + layer.bias, 0)
        step_logits.append((x @ params.output.kernel + params.output.bias)[0])
    return sum(step_logits) / len(step_logits)


def _gru_direction(params, direction, steps, size):
    columns = slice(3 * size * direction, 3 * size * (direction + 1))
    h, outputs = np.zeros(size), []
    for x in steps:
        h, _ = gru_step(
            params.input.kernel[:, columns],
            params.input.bias[columns],
            params.recurrent.kernel[direction],
            params.recurrent.bias[direction],
            h,
            x,
        )
        outputs.append(h)
    return outputs


def nll(logits, targets, mask):
    """`-log P(y)` of each sequence, summed over its valid steps."""
    total = np.zeros(targets.shape[1])
    for t in range(targets.shape[0]):
        for row in range(targets.shape[1]):
            probabilities = np.exp(logits[t, row]) / np.sum(np.exp(logits[t, row]))
            total[row] -= mask[t, row] * np.log(probabilities[targets[t, row]])
    return total


def discriminator_loss(teacher_forced, free_running):
    """Binary cross-entropy; teacher-forced is label 1."""
    of_teacher_forced = [-np.log(sigmoid(s)) for s in teacher_forced]
    of_free_running = [-np.log(1 - sigmoid(s)) for s in free_running]
    return np.mean(of_teacher_forced) + np.mean(of_free_running)


def free_running_loss(free_running):
    return np.mean([-np.log(sigmoid(s)) for s in free_running])


def teacher_forced_loss(teacher_forced):
    return np.mean([-np.log(1 - sigmoid(s)) for s in teacher_forced])


def accuracy(teacher_forced, free_running):
    """The mean of the accuracies in the two modes."""
    of_teacher_forced = [s > 0 for s in teacher_forced]
    of_free_running = [s < 0 for s in free_running]
    return (np.mean(of_teacher_forced) + np.mean(of_free_running)) / 2


def adam(value, gradients, learning_rate):
    """One array after one step of Adam for each of its gradients."""
    first, second = np.zeros_like(value), np.zeros_like(value)
    for step, gradient in enumerate(gradients, start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        value = value - learning_rate * mean / (np.sqrt(square) + 1e-8)
    return value
