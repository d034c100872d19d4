"""Experiments: from a config to a workdir with a trained model, and from there to figures.

Everything that needs absl, ml_collections, orbax or tensorboardX is in this package. Its
names are imported on first use, so that `import pf_jax` loads none of these libraries.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pf_jax.experiment.build import Experiment
    from pf_jax.experiment.evaluation import evaluate
    from pf_jax.experiment.loop import train_and_evaluate
    from pf_jax.experiment.runs import load_run
    from pf_jax.experiment.sampling import sample
    from pf_jax.experiment.together import train_together

_MODULES = {
    "Experiment": "build",
    "evaluate": "evaluation",
    "load_run": "runs",
    "sample": "sampling",
    "train_and_evaluate": "loop",
    "train_together": "together",
}
"""The module of this package that defines each name."""

__all__ = [
    "Experiment",
    "evaluate",
    "load_run",
    "sample",
    "train_and_evaluate",
    "train_together",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
