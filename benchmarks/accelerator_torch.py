"""The process of `run_accelerator` that times PyTorch; each entry is a turn."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import forms
from benchmarks.accelerator_forms import drawn_state
from benchmarks.accelerator_measure import Form, UnavailableError, measure
from benchmarks.accelerator_work import Entry, LSTMShape
from benchmarks.forms import Shape
from benchmarks.peers import torch_peer
from benchmarks.timing import Turn, timed

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def _finish() -> None:
    if _DEVICE == "cuda":
        torch.cuda.synchronize()


# Cached for one shape at a time: the entries of a shape share its parameters.
@functools.lru_cache(maxsize=1)
def _state(shape: Shape) -> Any:
    return drawn_state(shape)


@functools.lru_cache(maxsize=1)
def _updates(shape: Shape) -> dict[str, Turn]:
    return forms.torch_turns(shape, _state(shape))


def _data(shape: Shape, number: int) -> tuple[Tensor, Tensor]:
    drawn = torch.from_numpy(forms.tokens(shape, number)).to(_DEVICE)
    _finish()
    return drawn[:-1], drawn[1:]


def _gradient_turn(shape: Shape, dtype: torch.dtype) -> Turn:
    """A turn of teacher forcing by `nn.GRU`, forward and backward, weights in `dtype`."""
    model = torch_peer.LanguageModel(_state(shape).generator.params).to(_DEVICE, dtype)

    def turn(number: int) -> float:
        inputs, targets = _data(shape, number)

        def run() -> None:
            model.zero_grad()
            torch_peer.mean_nll(model(inputs).float(), targets).backward()
            _finish()

        return timed(run)

    return turn


def _sampler(
    model: torch_peer.LanguageModel, shape: Shape, first_input: Tensor
) -> Callable[[], Tensor]:
    """A function of `T` sampled steps with few operations each.

    The cell is fused, and the noise is sampled before the loop. No operation waits for the
    device, as `multinomial` may: a CUDA graph cannot contain such a wait.
    """
    rnn = model.rnn
    weights = (rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0)

    @torch.no_grad()
    def sample() -> Tensor:
        size = (shape.steps, shape.batch, shape.vocab)
        uniform = torch.rand(size, device=_DEVICE).clamp_min(1e-20)
        h = model.w_out.new_zeros(shape.batch, shape.hidden)
        token, tokens = first_input, []
        for noise in (-torch.log(-torch.log(uniform))).unbind():
            h = torch.gru_cell(model.embedding[token], h, *weights)
            logits = F.linear(h, model.w_out, model.b_out)
            token = torch.argmax(logits + noise, dim=1)
            tokens.append(token)
        return torch.stack(tokens)

    return sample


def _captured(sample: Callable[[], Tensor]) -> Callable[[], None]:
    """The whole sampling loop as one CUDA graph."""
    # Libraries set themselves up in their first call, which a graph cannot contain.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        sample()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sample()
    return graph.replay


def _sample_turn(shape: Shape, dtype: torch.dtype, *, cuda_graph: bool) -> Turn:
    if cuda_graph and _DEVICE != "cuda":
        raise UnavailableError("needs CUDA")
    model = torch_peer.LanguageModel(_state(shape).generator.params).to(_DEVICE, dtype)
    first_input = _data(shape, 0)[0][0].clone()
    sample = _sampler(model, shape, first_input)
    ready: list[Callable[[], Any]] = [] if cuda_graph else [sample]

    def turn(number: int) -> float:
        first_input.copy_(_data(shape, number)[0][0])

        def run() -> None:
            # Captured within the first turn: the capture counts as compilation, and has
            # the precision that is set during a turn.
            if not ready:
                ready.append(_captured(sample))
            ready[0]()
            _finish()

        return timed(run)

    return turn


def _lstm_turn(sizes: LSTMShape, dtype: torch.dtype, *, is_gradient: bool) -> Turn:
    """A turn of `nn.LSTM` on random inputs: forward alone, or forward and backward."""
    lstm = torch.nn.LSTM(sizes.hidden, sizes.hidden).to(_DEVICE, dtype)

    def forward(inputs: Tensor, cotangents: Tensor) -> None:
        with torch.no_grad():
            lstm(inputs)

    def gradient(inputs: Tensor, cotangents: Tensor) -> None:
        lstm.zero_grad()
        lstm(inputs.requires_grad_())[0].backward(cotangents)

    run = gradient if is_gradient else forward

    def turn(number: int) -> float:
        torch.manual_seed(number)
        size = (2, sizes.steps, sizes.batch, sizes.hidden)
        drawn = torch.randn(size, device=_DEVICE, dtype=dtype)
        _finish()

        def call() -> None:
            run(*drawn)
            _finish()

        return timed(call)

    return turn


def _turn(form: str, sizes: Mapping[str, int], dtype: torch.dtype, **how: Any) -> Turn:
    """The turn of a form, in the precision that is set while it runs."""
    if form in ("nn_lstm", "nn_lstm_gradient"):
        is_gradient = form == "nn_lstm_gradient"
        return _lstm_turn(LSTMShape(**sizes), dtype, is_gradient=is_gradient)
    shape = Shape(**sizes)
    if form == "nn_gru_gradient":
        return _gradient_turn(shape, dtype)
    if form == "sample":
        return _sample_turn(shape, dtype, **how)
    names = {"update": "torch", "likelihood_update": "torch_nn_gru_likelihood"}
    return _updates(shape)[names[form]]


def _torch_form(entry: Entry) -> Form:
    """The form of an entry, in its precision."""
    precision = entry["precision"]
    how = entry["shape"], _DTYPES[precision]
    turn = _turn(entry["form"], *how, **entry["setting"])

    def in_precision(number: int) -> float:
        high = precision != "float32"
        torch.set_float32_matmul_precision("high" if high else "highest")
        torch.backends.cudnn.allow_tf32 = high
        return turn(number)

    return Form(in_precision)


def time_torch(job: Mapping[str, Any], result: pathlib.Path) -> None:
    """Times PyTorch's forms."""
    measure(job, result, _torch_form)
