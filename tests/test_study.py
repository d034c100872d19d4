import json
import shutil

import pytest
from errors import error_of
from study_runs import number, write_run

from configs import default
from pf_jax.study import conduct, trial
from pf_jax.study.equal_seconds import add_equal_seconds
from pf_jax.study.plan import Study, Variant, make_variants, with_fields
from pf_jax.study.record import Record, open_record
from pf_jax.study.trial import Outcome, Task

SETTINGS = {
    "split": "test",
    "judge": "none",
    "critic": False,
    "reverse": False,
    "together": False,
}
TWO = ["objective=teacher_forcing,professor_forcing"]


def test_make_variants_takes_every_combination_and_the_named_ones():
    variants = make_variants(
        [*TWO, "gate.generator_upper=0.99,1"],
        ["both terms: adversarial.teacher_forced_term=true behavior.fields=hidden"],
    )
    assert [variant.name for variant in variants] == [
        "teacher_forcing,generator_upper=0.99",
        "teacher_forcing,generator_upper=1",
        "professor_forcing,generator_upper=0.99",
        "professor_forcing,generator_upper=1",
        "both_terms",
    ]
    assert variants[3].fields == {
        "objective": "professor_forcing",
        "gate.generator_upper": "1",
    }
    assert variants[4].fields == {
        "adversarial.teacher_forced_term": "true",
        "behavior.fields": "hidden",
    }


def test_make_variants_names_alike_fields_in_full():
    variants = make_variants(
        ["train.learning_rate=1,2", "discriminator.learning_rate=3"], []
    )
    assert variants[0].name == "train.learning_rate=1,discriminator.learning_rate=3"


@pytest.mark.parametrize(
    ("vary", "named", "words"),
    [
        ([], [], ["at least two variants", "--vary=objective="]),
        (["objective=teacher_forcing"], [], ["at least two variants"]),
        (["seed=1,2"], [], ["seed", "--seeds=NUMBER"]),
        (["data.path=a,b"], [], ["data.path cannot vary", "one study for each"]),
        (["data.noise=1,2"], [], ["data.noise cannot vary"]),
        (["objective=teacher_forcing,"], [], ["FIELD=VALUE,VALUE"]),
        (["objective"], [], ["FIELD=VALUE,VALUE"]),
        (TWO, ["objective=input_noise"], ["NAME: FIELD=VALUE"]),
        (TWO, ["a/b: train.num_steps=1"], ["NAME: FIELD=VALUE"]),
        (TWO, ["a: train.num_steps"], ["NAME: FIELD=VALUE"]),
        (TWO, ["a: seed=3"], ["--seeds=NUMBER"]),
        (TWO, ["a: dropout=1", "a: dropout=2"], ["two variants are called a"]),
        (["objective=a,a"], [], ["--vary=objective=a,a: a value is given twice"]),
        (["dropout=1,2", "dropout=3,4"], [], ["--vary: dropout is given twice"]),
        (TWO, ["a: dropout=1 dropout=2"], ["--variant=a:", "a field is given twice"]),
    ],
)
def test_make_variants_refuses(vary, named, words):
    message = error_of(make_variants, vary, named)
    assert all(word in message for word in words)


def test_with_fields_gives_values_of_the_fields_types():
    config = default.get_config()
    before = config.to_json()
    fields = {
        "train.num_steps": "7",
        "train.learning_rate": "1e-3",
        "adversarial.teacher_forced_term": "true",
        "behavior.fields": "hidden+outputs",
        "discriminator.learning_rate": "2e-4",
        "objective": "professor_forcing",
    }
    changed = with_fields(config, fields, 5)
    assert changed.train.num_steps == 7
    assert changed.train.learning_rate == 1e-3
    assert changed.adversarial.teacher_forced_term is True
    assert changed.behavior.fields == ("hidden", "outputs")
    assert changed.discriminator.learning_rate == 2e-4
    assert changed.seed == 5
    assert config.to_json() == before


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("train.num_steps", "many", "train.num_steps=many: must be an integer"),
        ("train.num_steps", "0", "train.num_steps=0: must be at least 1"),
        ("train.num_stops", "1", "unknown field --config.train.num_stops"),
        ("train", "1", "is a group"),
        ("objective", "gan", "objective=gan: must be one of"),
        ("train.learning_rate", "fast", "must be a number"),
        ("adversarial.teacher_forced_term", "maybe", "must be true or false"),
    ],
)
def test_with_fields_refuses(field, value, words):
    config = default.get_config()
    assert words in error_of(with_fields, config, {field: value}, 0)


def a_record(folder, seeds=2, seconds=(1.0, 3.3)):
    (folder / "w").mkdir()
    (folder / "w" / "config.json").touch()
    variants = make_variants(TWO, [])
    config = default.get_config()
    record = open_record(folder, config, variants, SETTINGS)
    for variant, cost in zip(variants, seconds, strict=True):
        for seed in reversed(range(seeds)):
            entry = {"workdir": "w", "step": 10, "seconds": 10 * cost}
            record.add_run(variant.name, seed, entry)
    return record


@pytest.mark.parametrize(("sizes", "is_told"), [((2, 2), False), ((2, 1), True)])
def test_groups_of_other_sizes_are_told(tmp_path, capsys, sizes, is_told):
    record = a_record(tmp_path)
    for size in sizes:
        record.add_run("professor_forcing", size, {"workdir": "w", "group": size})
    conduct._warn_of_groups(record, [[None] * 2])
    expected = f"warning: {tmp_path}: has runs that were trained 1 and 2 at a time: "
    assert capsys.readouterr().err.startswith(expected) == is_told


def test_open_record_refuses_a_variant_called_as_a_longer_baseline(tmp_path):
    record = a_record(tmp_path)
    config, fields = default.get_config(), {"train.num_steps": "20"}
    record.add_equal_seconds(Variant("longer", fields), ["professor_forcing"])
    variants = make_variants(TWO, ["longer: train.learning_rate=0.1"])
    message = error_of(open_record, tmp_path, config, variants, SETTINGS)
    assert message == (
        "--variant: longer is this study's longer run of its baseline: rename the variant"
    )


def test_record_is_read_back_and_keeps_its_order(tmp_path):
    record = a_record(tmp_path)
    again = open_record(
        tmp_path, default.get_config(), make_variants(TWO, []), SETTINGS
    )
    assert again.values == json.loads((tmp_path / "study.json").read_text())
    assert again.values == record.values
    assert list(again.values["runs"]["teacher_forcing"]) == ["0", "1"]
    assert again.run("professor_forcing", 1) == {
        "workdir": "w",
        "step": 10,
        "seconds": 33.0,
    }
    assert again.run("professor_forcing", 2) is None


def test_open_record_forgets_a_run_whose_folder_was_removed(tmp_path):
    record = a_record(tmp_path)
    entry = {"workdir": "professor_forcing/seed_1", "step": 10, "seconds": 33.0}
    record.add_run("professor_forcing", 1, entry)
    arguments = default.get_config(), make_variants(TWO, []), SETTINGS
    # A folder that holds no run, such as one with its log alone.
    workdir = tmp_path / entry["workdir"]
    workdir.mkdir(parents=True)
    again = open_record(tmp_path, *arguments)
    assert again.run("professor_forcing", 1) is None
    assert again.run("professor_forcing", 0) == record.run("professor_forcing", 0)
    (workdir / "config.json").touch()
    assert open_record(tmp_path, *arguments).run("professor_forcing", 1) == entry


@pytest.mark.parametrize("runs", [3, {"a": 3}, {"a": {"0": 3}}, {"a": {"0": {}}}])
def test_open_record_refuses_runs_that_are_damaged(tmp_path, runs):
    record = a_record(tmp_path)
    record.values["runs"] = runs
    record.write()
    arguments = default.get_config(), make_variants(TWO, []), SETTINGS
    assert "damaged" in error_of(open_record, tmp_path, *arguments)


def test_record_keeps_a_failure_until_the_run_is_finished(tmp_path):
    record = a_record(tmp_path)
    record.add_failure("professor_forcing", 2, "diverged")
    saved = json.loads((tmp_path / "study.json").read_text())
    assert saved["failed"] == {"professor_forcing": {"2": "diverged"}}
    record.add_run("professor_forcing", 2, {"workdir": "w"})
    assert record.values["failed"]["professor_forcing"] == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {"train.batch_size": 16}}, "train.batch_size is 32 there, 16"),
        ({"vary": ["objective=teacher_forcing,input_noise"]}, "its variants are"),
        ({"vary": ["objective=professor_forcing,teacher_forcing"]}, "its variants are"),
        ({"settings": {"critic": True}}, "critic is False there, True here"),
    ],
)
def test_open_record_refuses_another_study(tmp_path, change, words):
    a_record(tmp_path)
    config = default.get_config()
    config.update_from_flattened_dict(change.get("config", {}))
    variants = make_variants(change.get("vary", TWO), [])
    settings = SETTINGS | change.get("settings", {})
    message = error_of(open_record, tmp_path, config, variants, settings)
    assert "holds another study" in message and words in message


def test_open_record_takes_more_variants(tmp_path):
    record = a_record(tmp_path)
    add_equal_seconds(record, default.get_config(), range(2))
    more = make_variants(
        ["objective=teacher_forcing,input_noise,professor_forcing"], []
    )
    again = open_record(tmp_path, default.get_config(), more, SETTINGS)
    names = ["teacher_forcing", "input_noise", "professor_forcing"]
    assert [variant.name for variant in again.variants] == [
        *names,
        "teacher_forcing_x4",
    ]
    assert again.run("professor_forcing", 1) == record.run("professor_forcing", 1)
    assert again.run("input_noise", 0) is None
    again.add_run("input_noise", 0, {"workdir": "w"})
    assert list(again.values["runs"]) == names


def test_open_record_takes_other_places_and_seeds(tmp_path):
    a_record(tmp_path)
    config = default.get_config()
    config.data.path = "/elsewhere"
    config.seed = 3
    open_record(tmp_path, config, make_variants(TWO, []), SETTINGS)


def test_open_record_continues_a_study_from_before_some_fields(tmp_path):
    a_record(tmp_path)
    path = tmp_path / "study.json"
    saved = json.loads(path.read_text())
    del saved["failed"], saved["together"], saved["config"]["train.weight_decay"]
    saved["config"]["generator.kernels"] = True
    # What runs without the field behaved by.
    saved["config"].pop("generator.readout_bias")
    path.write_text(json.dumps(saved))
    config = default.get_config()
    config.generator.readout_bias = "zeros"
    record = open_record(tmp_path, config, make_variants(TWO, []), SETTINGS)
    assert record.run("professor_forcing", 1)["step"] == 10


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"variants": 3}'])
def test_open_record_refuses_a_damaged_file(tmp_path, content):
    (tmp_path / "study.json").write_text(content)
    message = error_of(
        open_record,
        tmp_path,
        default.get_config(),
        make_variants(TWO, []),
        SETTINGS,
    )
    assert "damaged" in message


def test_add_equal_seconds_rounds_in_the_baselines_favor_and_stays(tmp_path):
    record = a_record(tmp_path, seconds=(1.0, 2.1))
    config = default.get_config()
    added = add_equal_seconds(record, config, range(2))
    fields = {"objective": "teacher_forcing", "train.num_steps": "1250"}
    assert added == [Variant("teacher_forcing_x2.5", fields)]
    assert record.values["equal_seconds"] == {
        "professor_forcing": "teacher_forcing_x2.5"
    }
    # Other seconds, such as of more seeds, do not change what is settled.
    record.add_run(
        "professor_forcing", 0, {"workdir": "w", "step": 1, "seconds": 100.0}
    )
    again = Record(tmp_path, json.loads((tmp_path / "study.json").read_text()))
    assert add_equal_seconds(again, config, range(2)) == added


@pytest.mark.parametrize(
    ("seconds", "name"),
    [(1.2, "x1.25"), (5.7, "x6.3"), (6.3, "x6.3"), (8.1, "x10"), (13.0, "x16")],
)
def test_add_equal_seconds_rounds_up_to_few_steps(tmp_path, seconds, name):
    record = a_record(tmp_path, seconds=(1.0, seconds))
    (added,) = add_equal_seconds(record, default.get_config(), range(2))
    assert added.name == f"teacher_forcing_{name}"


def test_add_equal_seconds_leaves_out_what_costs_the_same(tmp_path):
    record = a_record(tmp_path, seconds=(1.0, 1.05))
    assert add_equal_seconds(record, default.get_config(), range(2)) == []


def record_of(folder, runs, **variants):
    """A record of one seed: updates and seconds by variant, the first the baseline."""
    values = {
        "baseline": next(iter(runs)),
        "variants": variants,
        "equal_seconds": {},
        "runs": {
            name: {"0": {"workdir": "w", "step": step, "seconds": seconds}}
            for name, (step, seconds) in runs.items()
        },
        "failed": {},
    }
    return Record(folder, values)


def test_add_equal_seconds_counts_the_updates_of_each_variant(tmp_path):
    config = default.get_config()
    config.train.num_steps = 500
    record = record_of(
        tmp_path,
        {"a": (500, 10.0), "few": (100, 9.0), "many": (5000, 250.0), "a2": (900, 18.0)},
        a={"objective": "teacher_forcing"},
        few={"objective": "professor_forcing", "train.num_steps": "100"},
        many={"objective": "professor_forcing", "train.num_steps": "5000"},
        # The baseline trained for longer: there is nothing to compare it with.
        a2={"objective": "teacher_forcing", "train.num_steps": "900"},
    )
    fields = {"objective": "teacher_forcing", "train.num_steps": "12500"}
    assert add_equal_seconds(record, config, [0]) == [Variant("a_x25", fields)]
    assert record.values["equal_seconds"] == {"many": "a_x25"}


def test_add_equal_seconds_counts_the_updates_before_patience_ended(tmp_path):
    config = default.get_config()
    config.train.num_steps, config.train.patience = 500, 2
    variants = {"a": {"objective": "teacher_forcing"}, "b": {}}
    # Updates that take twice as long, but a fourth of them.
    record = record_of(tmp_path, {"a": (500, 50.0), "b": (125, 25.0)}, **variants)
    assert add_equal_seconds(record, config, [0]) == []
    record = record_of(tmp_path, {"a": (100, 10.0), "b": (500, 50.0)}, **variants)
    fields = {"train.patience": "0", "train.num_steps": "500"}
    assert add_equal_seconds(record, config, [0]) == [
        Variant("a_x5", variants["a"] | fields)
    ]


def test_add_equal_seconds_keeps_what_a_longer_baseline_is(tmp_path):
    config = default.get_config()
    config.train.num_steps, config.train.patience = 500, 2
    variants = {"a": {"objective": "teacher_forcing"}, "b": {}, "c": {"dtype": "x"}}
    runs = {"a": (100, 10.0), "b": (500, 50.0)}
    record = record_of(tmp_path, runs, **variants)
    (longer,) = add_equal_seconds(record, config, [0])
    # More seeds that patience ended later, and one more variant.
    record.add_run("a", 1, {"workdir": "w", "step": 300, "seconds": 10.0})
    record.add_run("c", 0, {"workdir": "w", "step": 500, "seconds": 50.0})
    assert add_equal_seconds(record, config, [0, 1]) == [longer]
    assert record.values["equal_seconds"] == {"b": "a_x5", "c": "a_x5"}


def test_add_equal_seconds_reads_numbers_as_the_program_does(tmp_path):
    record = record_of(
        tmp_path,
        {"a": (100, 10.0), "b": (100, 20.0)},
        a={"objective": "teacher_forcing", "train.num_steps": "0x64"},
        b={"train.num_steps": "0x64"},
    )
    (longer,) = add_equal_seconds(record, default.get_config(), [0])
    assert longer.fields["train.num_steps"] == "200"


def test_study_has_the_defaults_of_the_program():
    study = Study()
    assert (study.seeds, study.split, study.judge, study.jobs) == (6, "test", "auto", 1)
    assert study.critic and study.equal_seconds and not study.reverse


@pytest.fixture
def conducted(tmp_path, monkeypatch):
    """A function that conducts a study in which runs are written, not trained.

    It returns the names of the runs that were waiting, each after it was asked for.
    """
    text = tmp_path / "abc.txt"
    text.write_text("abc " * 500)
    config = default.get_config()
    config.update_from_flattened_dict({"data.name": "text", "data.path": str(text)})
    trained = []

    def write_runs(function, groups, jobs):
        for group in groups:
            for task in group:
                trained.append(f"{task.variant} {task.seed}")
                write_run(
                    task.workdir,
                    seed=task.seed,
                    objective=task.config.objective,
                    measures={"d_stsp": number(1.0 + task.seed, label="D_stsp")},
                    split=task.study.split,
                )
            yield group, [Outcome() for _ in group]

    monkeypatch.setattr(conduct, "run_side_by_side", write_runs)

    def run(**settings):
        trained.clear()
        study = Study(seeds=2, judge="none", equal_seconds=False, **settings)
        conduct.run_study(config, tmp_path / "study", make_variants(TWO, []), study)
        return list(trained)

    run.trained, run.folder = trained, tmp_path / "study"
    return run


ALL = [f"{name}_forcing {seed}" for name in ("teacher", "professor") for seed in (0, 1)]
UNKNOWN = "--primary=accuracy: must be one of bits_per_char, hidden_gap_within, d_stsp"


@pytest.mark.parametrize(("together", "first"), [(False, 1), (True, 2)])
def test_run_study_refuses_a_measure_as_soon_as_measures_are_known(
    conducted, together, first
):
    assert error_of(conducted, primary="accuracy", together=together) == UNKNOWN
    assert conducted.trained == ALL[:first]
    runs = json.loads((conducted.folder / "study.json").read_text())["runs"]
    assert runs == {
        "teacher_forcing": {
            str(seed): {"workdir": f"teacher_forcing/seed_{seed}", "step": 500}
            | {"seconds": 50.0 + seed, "jobs": 1, "group": first}
            for seed in range(first)
        }
    }
    assert conducted(primary="d_stsp", together=together) == ALL[first:]
    assert (conducted.folder / "report.html").exists()


def test_run_study_refuses_a_measure_that_finished_runs_do_not_have(conducted):
    assert conducted() == ALL
    before = (conducted.folder / "study.json").read_bytes()
    shutil.rmtree(conducted.folder / "professor_forcing" / "seed_1")
    assert error_of(conducted, primary="accuracy") == UNKNOWN
    assert conducted.trained == []
    assert (conducted.folder / "study.json").read_bytes() == before
    assert conducted(primary="d_stsp") == ["professor_forcing 1"]


def test_run_study_trains_again_what_was_removed_and_nothing_else(conducted):
    assert conducted() == ALL
    path = conducted.folder / "study.json"
    record = json.loads(path.read_text())
    assert conducted() == []
    shutil.rmtree(conducted.folder / "teacher_forcing" / "seed_1")
    assert conducted() == ["teacher_forcing 1"]
    assert json.loads(path.read_text()) == record


def test_run_study_compares_what_was_measured_on_its_own_split(conducted):
    assert conducted() == ALL
    record = json.loads((conducted.folder / "study.json").read_text())
    for variant in ("teacher_forcing", "professor_forcing"):
        folder = conducted.folder / variant / "seed_0" / "evaluation"
        (folder / "test").mkdir()
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "test" / "metrics.json").write_text(json.dumps(metrics))
        # As a later evaluation on the other split leaves it.
        last = metrics | {"split": "valid", "bits_per_char": 9.0}
        (folder / "metrics.json").write_text(json.dumps(last))
    assert conducted() == []
    assert json.loads((conducted.folder / "study.json").read_text()) == record
    shutil.rmtree(folder / "test")
    run = folder.parent
    assert error_of(conducted) == (
        f"{run}: has not been evaluated on test: run python evaluate.py --workdir {run} "
        "--split test first"
    )


def test_run_study_warns_where_runs_had_another_share_of_the_processor(
    conducted, capsys
):
    conducted()
    assert conducted() == [] and "--jobs" not in capsys.readouterr().err
    shutil.rmtree(conducted.folder / "professor_forcing" / "seed_1")
    assert conducted(jobs=2) == ["professor_forcing 1"]
    assert (
        "has runs that were trained with --jobs=1: with --jobs=2 the seconds of a run "
        "differ" in capsys.readouterr().err
    )


def test_run_is_measured_on_data_where_it_lies_now(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "pf_jax.experiment.evaluation.evaluate",
        lambda *_, **keywords: asked.update(keywords),
    )
    config = default.get_config()
    config.data.path, config.data.tfds_manual_dir = "here.txt", "there"
    task = Task("a", 0, config, tmp_path / "a" / "seed_0", Study(), None)
    assert trial._measure(task) == Outcome()
    assert (asked["data_path"], asked["tfds_manual_dir"]) == ("here.txt", "there")
