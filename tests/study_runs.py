"""Workdirs of runs that were never trained, written file by file."""

import json
import pathlib

import numpy as np
from PIL import Image

from configs import default
from pf_jax.analysis.sound import write_wav
from pf_jax.data import Vocabulary, save_encoding
from pf_jax.experiment.saved_config import write_config

OBJECTIVES = (
    "teacher_forcing",
    "professor_forcing",
    "scheduled_sampling",
    "state_matching",
    "input_noise",
)


def write_run(
    workdir: pathlib.Path,
    *,
    seed: int = 0,
    objective: str = "teacher_forcing",
    value: float = 2.0,
    measures: dict | None = None,
    curves: dict | None = None,
    sample: str = "abc",
    lines: list | None = None,
    evaluated: bool = True,
    fields: dict | None = None,
    split: str = "valid",
) -> pathlib.Path:
    """Writes a run with the files of `train.py` and `evaluate.py`, but no checkpoint."""
    folder = workdir / "evaluation"
    folder.mkdir(parents=True)
    config = default.get_config()
    config.seed, config.objective = seed, objective
    config.update_from_flattened_dict(fields or {})
    write_config(config, workdir)
    save_encoding(Vocabulary(("a", "b", "c")), workdir / "encoding.json")
    if lines is None:
        lines = log(value, objective, seed)
    (workdir / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    if evaluated:
        write_evaluation(workdir, value, measures or {}, curves or {}, split)
        (folder / "samples.txt").write_text(f"=== sample 1 of 1 ===\n{sample}\n")
    return workdir


def write_evaluation(
    workdir: pathlib.Path, value: float, measures: dict, curves: dict, split: str
) -> None:
    metrics = {
        "split": split,
        "step": 500,
        "nll": value * np.log(2),
        "bits_per_char": value,
        "hidden_gap": {
            "within_training_length": 0.01,
            "within_training_length_floor": 0.004,
        },
        "measures": measures,
        "curves": curves,
        "environment": {"python": "3.11", "device": "cpu"},
    }
    path = workdir / "evaluation" / "metrics.json"
    path.write_text(json.dumps(metrics))


def log(value: float, objective: str = "", seed: int = 0, count: int = 20) -> list:
    """Lines that fall towards `value`, 500 updates in all."""
    lines = []
    has_gates = objective == "professor_forcing"
    random = np.random.default_rng(seed)
    for step in np.linspace(0, 500, count + 1)[1:]:
        nll = (value + np.exp(-step / 100)) * np.log(2)
        entry = {"step": int(step), "nll": nll, "bits_per_char": nll / np.log(2)}
        entry["seconds"] = step / 10 * (2 if has_gates else 1) + seed
        train = entry | {"split": "train"}
        if has_gates:
            train["discriminator_accuracy"] = 0.5 + 0.4 * random.random()
            train["generator_gate_open"] = float(random.random() > 0.5)
            train["discriminator_gate_open"] = 1.0
        lines += [train, entry | {"split": "valid"}]
    return lines


def number(value: float | None, *, label: str, better: str = "lower", reference=None):
    """An entry of `measures` in `metrics.json`."""
    return {
        "label": label,
        "value": value,
        "reference": reference,
        "better": better,
        "interval": None,
    }


def curve(values, *, label: str, reference=None, **fields):
    """An entry of `curves` in `metrics.json`."""
    steps = list(range(1, len(values) + 1))
    return {
        "label": label,
        "steps": steps,
        "values": list(values),
        "reference": reference,
        **fields,
    }


def write_states(workdir: pathlib.Path, random, *, size: int = 16, count: int = 400):
    """Writes `states.npz`; free-running states are a little off."""
    center = random.standard_normal(size)
    states = center + random.standard_normal((2, count, size)).astype(np.float32) / 2
    states[1, :, 0] += 0.8
    np.savez(
        workdir / "evaluation" / "states.npz",
        teacher_forced=states[0].astype(np.float32),
        free_running=states[1].astype(np.float32),
        steps=np.arange(count),
    )


def write_picture(workdir: pathlib.Path, random, size: tuple[int, int] = (880, 920)):
    """Writes `samples.png`, as hard to compress as a picture of samples can be."""
    tiles = random.integers(0, 2, (size[1] // 4, size[0] // 4), np.uint8) * 255
    pixels = tiles.repeat(4, axis=0).repeat(4, axis=1)
    (workdir / "evaluation" / "samples.txt").unlink()
    Image.fromarray(pixels).save(workdir / "evaluation" / "samples.png")


def write_sound(workdir: pathlib.Path, random, seconds: float = 10.0):
    """Writes `sample_1.wav`."""
    signal = random.uniform(-1, 1, int(8000 * seconds))
    write_wav(signal, 8000, workdir / "evaluation" / "sample_1.wav")


def write_study(
    folder: pathlib.Path,
    *,
    seeds: int = 6,
    objectives=OBJECTIVES,
    full: bool = True,
) -> dict[str, list[pathlib.Path]]:
    """Writes a study of all that a report can show."""
    workdirs: dict[str, list[pathlib.Path]] = {}
    for index, objective in enumerate(objectives):
        for seed in range(seeds):
            random = np.random.default_rng(1000 * index + seed)
            luck = np.random.default_rng(seed).normal()
            gap = 0.1 / (1 + index) * (1 - np.exp(-np.arange(400) / 80))
            noise = random.normal(0, 0.004, 400)
            run = write_run(
                folder / objective / f"seed_{seed}",
                seed=seed,
                objective=objective,
                value=1.7 + 0.05 * luck + random.normal(0.01 * index, 0.01),
                measures={
                    "d_stsp": number(
                        1.5 + 0.5 * luck - 0.2 * index + random.normal(0, 0.1),
                        label="D_stsp, nats",
                        reference=0.05,
                    ),
                    "fresh_critic": number(
                        0.75 - 0.03 * index + random.normal(0, 0.02),
                        label="accuracy of a fresh critic",
                        reference=0.5,
                    ),
                    "repetition": number(
                        0.4 + 0.02 * index + random.normal(0, 0.02),
                        label="repeated 4-grams, share",
                        better="reference",
                        reference=0.36,
                    ),
                    "valid_time": number(
                        None if index == 1 and seed == 0 else 2.0 + random.normal(),
                        label="valid prediction time, Lyapunov times",
                        better="higher",
                    ),
                },
                curves={
                    "hidden_gap": curve(
                        gap + noise,
                        label="hidden-state gap, relative energy distance",
                        reference=[0.01] * 400,
                    ),
                    "judge": curve(
                        3 * gap + 4 * noise, label="judge's excess cross-entropy, nats"
                    ),
                },
                sample=f"<script>alert({seed})</script> & {objective} " * 9,
                lines=log(1.7 + 0.05 * luck + 0.01 * index, objective, seed),
            )
            if full:
                write_states(run, random)
                write_picture(run, random)
                write_sound(run, random)
            workdirs.setdefault(objective, []).append(run)
    return workdirs
