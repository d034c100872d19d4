"""Data sets of the user's own: from a function, and from Python."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
from errors import error_of
from whole_runs import SMALL

from configs import default
from pf_jax import data
from pf_jax.analysis.request import Sampling
from pf_jax.data import own_code
from pf_jax.data.encoded import check_dataset
from pf_jax.experiment import evaluate, load_run, sample, train_and_evaluate
from pf_jax.experiment.build import make_model, own_data
from pf_jax.experiment.trained_start import Source, experiment_of

ROOT = pathlib.Path(__file__).parent.parent
LETTERS = data.Vocabulary.from_text("abc")
RAW = {"train": ["abcab" * 40], "valid": ["abc" * 30], "test": ["cab" * 30]}


def blocks_of_page() -> list[str]:
    page = (ROOT / "docs" / "own_data.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A current folder whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write_module(folder: pathlib.Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(textwrap.dedent(code))


def data_of(name: str):
    section = default.get_config().data
    section.name = name
    return section


def config_of(**fields):
    config = default.get_config()
    others = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict({**SMALL, **others})
    return config


def test_the_pages_module_is_a_data_set(folder):
    block = blocks_of_page()[0]
    assert len(block.strip().splitlines()) < 45
    write_module(folder, "melodies", block)
    dataset = data.load_dataset(data_of("melodies:melodies"))
    sizes = {split: len(part.lengths) for split, part in dataset.splits.items()}
    assert sizes == {"train": 100, "valid": 10, "test": 10}
    encoding = dataset.encoding
    tune = encoding.decode(dataset.splits["test"].values[1:41])
    assert len(tune) == 40 and tune[::2] == tune[1::2]
    assert dataset.splits["train"].values[:41].tolist() == [
        0,
        *encoding.encode(encoding.decode(dataset.splits["train"].values[1:41])),
    ]
    saved = data.encoding_to_json(encoding)
    assert saved == {"kind": "melodies:Notes", "names": "CDEFGAB"}
    # Another process has no such module yet.
    del sys.modules["melodies"]
    loaded = data.encoding_from_json(json.loads(json.dumps(saved)))
    assert (type(loaded).__name__, loaded.names) == ("Notes", "CDEFGAB")
    assert loaded.measure.of_nll(np.log(2)) == 1
    again = data.load_dataset(data_of("melodies:melodies"), loaded)
    assert again.encoding is loaded


# Compiles a training and an evaluation; the programs start anew.
@pytest.mark.slow
def test_programs_follow_the_pages_function(folder, capsys):
    write_module(folder, "melodies", blocks_of_page()[0])
    config = config_of(data__name="melodies:melodies", train__num_steps=4)
    train_and_evaluate(config, folder / "run")
    assert "melodies:melodies: 4,000 train, 400 valid, 400 test notes" in (
        capsys.readouterr().out
    )

    def call(program, *arguments, cwd=folder):
        return subprocess.run(
            [sys.executable, ROOT / f"{program}.py", f"--workdir={folder / 'run'}"]
            + list(arguments),
            cwd=cwd,
            capture_output=True,
            text=True,
        )

    done = call("evaluate", "--sample_length=20")
    assert done.returncode == 0, done.stderr
    assert "bits per note" in done.stdout and "400 notes" in done.stdout
    done = call("sample", "--sample_length=20", "--num_samples=2")
    assert done.returncode == 0, done.stderr
    lines = (folder / "run" / "samples" / "samples.txt").read_text().splitlines()
    assert len(lines) == 2 and all(re.fullmatch("[A-G]{20}", line) for line in lines)
    rows = (folder / "run" / "samples" / "sample_1.csv").read_text().splitlines()
    assert ["CDEFGAB"[int(row)] for row in rows] == list(lines[0])
    done = call("sample", cwd="/")
    assert done.returncode == 2 and done.stderr == (
        "error: the run's encoding, melodies:Notes: no module melodies in / or among "
        "installed packages: run the command in the module's folder, or correct the "
        "name\n"
    )


def test_train_py_error_for_a_module_that_is_not_there(folder):
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--config.data.name=melody:make"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not list(folder.iterdir())
    assert done.stderr == (
        f"error: data.name=melody:make: no module melody in {folder} or among installed "
        "packages: run the command in the module's folder, or correct the name\n"
    )


CODE = """
    import sys
    from pf_jax import data

    LETTERS = data.Vocabulary.from_text("abc")
    RAW = {"train": ["abcab" * 40], "valid": ["abc" * 30], "test": ["cab" * 30]}
    number = 3
    def fails(section):
        return 1 / 0
    def exits(section):
        sys.exit("so long\\nas this")
    def takes_nothing():
        return data.make_dataset(RAW, LETTERS)
    def returns_nothing(section):
        pass
    def raw(section):
        return RAW
    def two_splits(section):
        return data.make_dataset({"train": ["a"], "test": ["b"]}, LETTERS)
    def no_splits(section):
        return data.Dataset({}, LETTERS)
    def empty(section):
        return data.make_dataset({**RAW, "valid": [""]}, LETTERS)
    def other(section):
        return data.make_dataset(RAW, data.Vocabulary.from_text("abcd"))
    def keeps(section, encoding=None):
        return data.make_dataset(RAW, encoding or LETTERS)
    def keeps_all(section, **options):
        return keeps(section, **options)
    def reads(section):
        raise data.dataset.UserError(f"{section.path}: no such file")
    class Local:
        def make(section):
            return keeps(section)
    def within(section):
        class Inner(data.Vocabulary):
            pass
        return data.make_dataset(RAW, Inner.from_text("abc"))
"""


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("own:", "must be the name of a module, a colon, and a name"),
        (":make", "must be the name of a module, a colon, and a name"),
        ("own.py:make", "no module own.py in "),
        ("./own:make", "must be the name of a module, a colon, and a name"),
        ("own:a:b", "must be the name of a module, a colon, and a name"),
        ("owm:make", "no module owm in "),
        ("own.sub:make", "no module own.sub in "),
        ("own:nothing", "own.py has no nothing: define it there"),
        ("own:number", "must be a function, is int"),
        ("own:fails", "own.py, line 9: ZeroDivisionError: division by zero"),
        ("own:exits", "own.py, line 11: SystemExit: so long as this"),
        ("own:takes_nothing", "TypeError: takes_nothing() takes 0 positional"),
        ("own:returns_nothing", "is a NoneType: must be a pf_jax.data.Dataset"),
        ("own:raw", "is a dict: must be a pf_jax.data.Dataset"),
        ("own:two_splits", "has the splits train, test: must have train, valid, test"),
        ("own:no_splits", "has the splits none: must have"),
        ("own:empty", "split valid is empty: give more data"),
        ("own:within", "Inner: is not defined at the top of a module"),
        ("wrong:make", "wrong.py, line 2: SyntaxError: "),
        ("imports:make", "imports.py, line 1: ModuleNotFoundError: No module named"),
        ("stops_:make", "stops_.py, line 1: SystemExit: 3"),
    ],
)
def test_load_dataset_error_of_the_users_function(folder, name, cause):
    write_module(folder, "own", CODE)
    write_module(folder, "wrong", "def make(\n  x = = 3)")
    write_module(folder, "imports", "import nowhere_at_all")
    write_module(folder, "stops_", "raise SystemExit(3)")
    message = error_of(data.load_dataset, data_of(name))
    assert message.startswith(f"data.name={name}: ") and cause in message


def test_load_dataset_error_that_the_users_function_words_itself(folder):
    write_module(folder, "own", CODE)
    section = data_of("own:reads")
    section.path = "notes.mid"
    assert error_of(data.load_dataset, section) == "notes.mid: no such file"


def test_load_dataset_of_a_function_uses_the_runs_encoding(folder):
    write_module(folder, "own", CODE)
    saved = data.Vocabulary.from_text("abcxyz")
    for name in ("keeps", "keeps_all"):
        assert data.load_dataset(data_of(f"own:{name}")).encoding == LETTERS
        again = data.load_dataset(data_of(f"own:{name}"), saved)
        assert again.encoding is saved
    # A method of a class is a name, too; without the keyword it must give the same.
    name = "own:Local.make"
    assert data.load_dataset(data_of(name), LETTERS).encoding == LETTERS
    message = error_of(data.load_dataset, data_of(name), saved)
    assert message.startswith(f"data.name={name}: its encoding is not the one that the")


def test_load_own_finds_modules_of_the_current_folder_but_hides_none(folder):
    write_module(folder, "own", "import later")
    write_module(folder, "later", "")
    (folder / "package").mkdir()
    write_module(folder / "package", "inside", "def make(): return 5")
    before = [*sys.path]
    assert own_code.load_own("package.inside:make", "here")() == 5
    assert sys.path == [*before, str(folder)]
    assert "own.py has no make" in error_of(own_code.load_own, "own:make", "here")
    assert sys.path == [*before, str(folder)] and "later" in sys.modules


def test_own_name_of_a_class_in_the_running_program(folder, monkeypatch):
    main = types.ModuleType("__main__")
    main.__file__, main.__spec__ = str(folder / "script.py"), None
    monkeypatch.setitem(sys.modules, "__main__", main)
    kind = type("Runes", (data.Vocabulary,), {"__module__": "__main__"})
    main.Runes = kind
    encoding = kind.from_text("abc")
    saved = data.encoding_to_json(encoding)
    assert saved["kind"] == "script:Runes"
    # In the program itself the class is the one that it has.
    assert data.encoding_from_json(saved) == encoding
    del main.__file__  # As in a notebook.
    message = error_of(data.encoding_to_json, encoding)
    assert "encoding Runes: is not defined at the top of a module" in message


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"kind": "own:Local"}, "is no subclass of pf_jax.data.Encoding"),
        ({"kind": "own:Letters"}, "own.py has no Letters"),
        ({"kind": "gone:Letters"}, "no module gone in"),
        ({"kind": "own:LETTERS"}, "is no subclass of pf_jax.data.Encoding"),
        ({"kind": "own:data.Vocabulary"}, "cannot be made from its fields (KeyError"),
    ],
)
def test_load_encoding_error_for_a_class_that_cannot_be_imported(folder, values, cause):
    write_module(folder, "own", CODE)
    (folder / "encoding.json").write_text(json.dumps(values))
    message = error_of(data.load_encoding, folder / "encoding.json")
    assert message.startswith(f"the run's encoding, {values['kind']}: ")
    assert cause in message


@dataclasses.dataclass(frozen=True)
class Points(data.Encoding):
    """Pairs of numbers."""

    scale: float = 2.0
    unit = "points"
    measure = data.Measure("nats", "nats per point", lambda nll: nll)
    first_input = np.zeros(2, np.float32)

    def output(self, num_components):
        raise NotImplementedError

    def encode(self, raw):
        return np.asarray(raw, np.float32) / self.scale

    def decode(self, values):
        return values * self.scale

    def describe(self, values):
        return f"{len(values)} points"

    def to_json(self):
        return {"scale": self.scale}


@dataclasses.dataclass(frozen=True)
class Forgetful(data.Vocabulary):
    """Does not save all of its fields."""

    def to_json(self):
        return {"symbols": ["x"]}


# One number in memory.
MANY = np.broadcast_to(np.int32(0), 2**31)


def dataset_of(encoding=LETTERS, **splits):
    encoded = data.make_dataset(RAW, LETTERS)
    return data.Dataset({**encoded.splits, **splits}, encoding)


@pytest.mark.parametrize(
    ("dataset", "cause"),
    [
        (RAW, "dataset: is a dict: must be a pf_jax.data.Dataset"),
        (dataset_of("abc"), "dataset: its encoding is a str: must be a"),
        (dataset_of(valid=[1, 2]), "split valid is a list: must be pf_jax.data.Seq"),
        (
            dataset_of(test=data.join_sequences([np.array([1, 4])], 0)),
            "split test has values from 0 to 4: must be from 0 to 3, as the encoding's",
        ),
        (
            dataset_of(test=data.join_sequences([np.array([0.5, 1])], 0.0)),
            "split test has values of the shape [] and the type float64: must be [] and "
            "int32",
        ),
        (
            dataset_of(test=data.Sequences(MANY, np.array([0, len(MANY)]))),
            "split test has 2,147,483,648 values, first inputs included: must be at most",
        ),
        (
            dataset_of(data.Vocabulary(("x", "y"))),
            "split train has values from 0 to 3: must be from 0 to 1",
        ),
        (
            dataset_of(Forgetful.from_text("abc")),
            "its encoding is another one when it is read back",
        ),
        (
            data.make_dataset(dict.fromkeys(RAW, [[[1.0, np.nan]]]), Points()),
            "split train has values that are NaN or infinite",
        ),
        (
            data.make_dataset(dict.fromkeys(RAW, [[[1.0, 2.0]]]), Points()),
            "NotImplementedError",
        ),
    ],
)
def test_train_error_for_a_data_set_that_no_model_can_learn(tmp_path, dataset, cause):
    message = error_of(
        train_and_evaluate, config_of(), tmp_path / "run", dataset=dataset
    )
    assert message.startswith("dataset: ") and cause in message
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class Conditional(data.Vocabulary):
    """Letters, each sequence with a class or a source."""

    reads: str = "label"

    @property
    def condition(self):
        return data.Condition(self.reads, 3)

    def to_json(self):
        return {**super().to_json(), "reads": self.reads}

    @classmethod
    def from_json(cls, values):
        return cls(tuple(values["symbols"]), reads=values["reads"])


LABELS = np.array([0, 2, 1])
SOURCES = data.Sources(np.array([[1, 2], [1, 0], [2, 2]]), np.array([2, 1, 2]))


def conditional(conditions, kind="label"):
    encoding = Conditional(LETTERS.symbols, reads=kind)
    right = LABELS if kind == "label" else SOURCES
    parts = data.join_sequences([np.array([0, 1])] * 3, encoding.first_input)
    splits = dict.fromkeys(RAW, parts._replace(conditions=right))
    splits["test"] = parts._replace(conditions=conditions)
    return data.Dataset(splits, encoding)


@pytest.mark.parametrize(("right", "kind"), [(LABELS, "label"), (SOURCES, "sequence")])
def test_check_dataset_takes_conditions_that_the_encoding_knows(right, kind):
    check_dataset(conditional(right, kind), "dataset")


@pytest.mark.parametrize(
    ("conditions", "kind", "cause"),
    [
        (None, "label", "has no conditions, and the encoding has one"),
        (
            LABELS[:2],
            "label",
            "of the shape [2]: must be [S], one for each of its 3 seq",
        ),
        (LABELS - 1, "label", "conditions from -1 to 1: must be integers from 0 to 2"),
        (LABELS + 1, "label", "conditions from 1 to 3: must be integers from 0 to 2"),
        (LABELS / 2, "label", "conditions float64: must be integers from 0 to 2"),
        (SOURCES, "label", "its conditions must be labels [S], as the encoding's"),
        (LABELS, "sequence", "its conditions must be Sources, as the encoding's"),
        (
            SOURCES._replace(lengths=np.array([2, 1, 3])),
            "sequence",
            "has sources whose lengths are not all from 1 to 2",
        ),
        (
            SOURCES._replace(lengths=np.array([2, 1])),
            "sequence",
            "has sources whose lengths are not all from 1 to 2",
        ),
    ],
)
def test_check_dataset_error_for_wrong_conditions(conditions, kind, cause):
    dataset = conditional(conditions, kind)
    message = error_of(check_dataset, dataset, "dataset")
    assert message.startswith("dataset: split test") and cause in message


def test_check_dataset_error_for_conditions_that_the_encoding_has_not():
    parts = dataset_of().splits["test"]
    labels = np.zeros(len(parts.lengths), int)
    dataset = dataset_of(test=parts._replace(conditions=labels))
    message = error_of(check_dataset, dataset, "dataset")
    assert "split test has conditions, and the encoding has none" in message


@pytest.mark.parametrize("offsets", [[0, 9], [1, 6], [0, 4, 2, 6]])
def test_check_dataset_error_for_offsets_of_other_values(offsets):
    wrong = data.Sequences(np.zeros(6, np.int32), np.array(offsets))
    message = error_of(check_dataset, dataset_of(test=wrong), "dataset")
    assert (
        f"offsets from {offsets[0]} to {offsets[-1]}: must rise from 0 to 6" in message
    )


def test_make_dataset_error_for_a_split_without_sequences():
    message = error_of(data.make_dataset, {**RAW, "valid": []}, LETTERS)
    assert message == "the valid split is empty: give more data"


def test_own_data_names_the_config_after_it():
    config = config_of(data__name="text", data__path="a.txt")
    named, dataset = own_data(config, data.make_dataset(RAW, LETTERS))
    assert (named.data.name, named.data.path) == ("dataset", "")
    assert dataset is not None and dataset.unknown == {
        "train": 0,
        "valid": 0,
        "test": 0,
    }
    assert (config.data.name, config.data.path) == ("text", "a.txt")
    assert own_data(config, None) == (config, None)
    assert error_of(data.load_dataset, named.data) == (
        "data.name=dataset: this run's data was built in Python: give it again, as "
        "dataset=... to pf_jax.experiment.train_and_evaluate or evaluate; sample.py "
        "needs no data"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_programs_are_kept")
def test_a_run_on_a_data_set_continues_and_is_evaluated_and_sampled(tmp_path, capsys):
    dataset = data.make_dataset(RAW, LETTERS)
    workdir, config = tmp_path / "run", config_of(train__num_steps=4)
    train_and_evaluate(config, workdir, dataset=dataset)
    assert (
        json.loads((workdir / "config.json").read_text())["data"]["name"] == "dataset"
    )
    config.train.num_steps = 8
    assert int(train_and_evaluate(config, workdir, dataset=dataset).step) == 8
    assert "continues from step 4" in capsys.readouterr().out
    metrics = evaluate(workdir, Sampling(sample_length=9), dataset=dataset)
    assert metrics["num_characters"] == 90 and metrics["num_unknown"] == 0
    sample(str(workdir), Sampling(num_samples=1, sample_length=9))
    assert len((workdir / "samples" / "samples.txt").read_text()) > 9
    needs = "data.name=dataset: this run's data was built in Python"
    assert error_of(evaluate, workdir, Sampling()).startswith(needs)
    config.data.name = "dataset"
    assert error_of(train_and_evaluate, config, workdir).startswith(needs)
    other = data.make_dataset(RAW, data.Vocabulary.from_text("abcd"))
    for call in (
        lambda: load_run(workdir, dataset=other),
        lambda: train_and_evaluate(config, workdir, dataset=other),
    ):
        assert error_of(call).startswith(
            "dataset: its encoding is not the one that the"
        )


def test_a_model_is_trained_on_with_a_data_set_in_its_encoding():
    config, dataset = own_data(config_of(), data.make_dataset(RAW, LETTERS))
    source = Source(pathlib.Path("run"), make_model(config, LETTERS), None)
    assert experiment_of(config, source, dataset).dataset is dataset
    other = source._replace(model=make_model(config, data.Vocabulary.from_text("ab")))
    assert error_of(experiment_of, config, other, dataset).startswith(
        "dataset: its enc"
    )
