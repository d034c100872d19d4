"""Measures that need another model or train one: critics, judges, models of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from trees import random_like

from pf_jax.analysis.gap import hidden_gap
from pf_jax.analysis.measures import (
    critic,
    intervals,
    judge,
    recovery,
    reverse,
    views,
)
from pf_jax.analysis.measures.divergence import divergence
from pf_jax.analysis.measures.measurement import Subject
from pf_jax.analysis.measures.texts import measure_texts
from pf_jax.analysis.samples import draw_samples
from pf_jax.analysis.states import mode_states
from pf_jax.data import Vocabulary, join_sequences
from pf_jax.data.pixels import Pixels
from pf_jax.data.strokes import Strokes
from pf_jax.data.waveform import Waveform
from pf_jax.emissions import bernoulli, categorical, independent_bernoullis
from pf_jax.mixture import mixture_density
from pf_jax.state import GeneratorSizes, Settings, create_train_state
from pf_jax.unroll import split_modes, unroll_paired, unroll_teacher_forced

VOCABULARY = Vocabulary.from_text("abcdefg")
LENGTH = 12


SIZES = GeneratorSizes(8, 6, 4)


def make_state(seed=0, scale=0.8, sizes=SIZES, settings=Settings()):
    shapes = jax.eval_shape(
        lambda: create_train_state(
            jax.random.key(0), generator=sizes, settings=settings
        )
    )
    return random_like(shapes, seed, scale).replace(step=jnp.zeros((), jnp.int32))


def sequences_of(state, seed, count=300, length=LENGTH, first=0):
    """Sequences that a model samples from a carry of zeros."""
    # Always as many at a time, so that one compiled program draws them all.
    read = np.broadcast_to(np.asarray(first), (1, 300, *np.shape(first)))
    drawn = [
        draw_samples(
            state,
            jax.random.fold_in(jax.random.key(seed), number),
            read,
            num_steps=length,
            num_samples=300,
        )
        for number in range(-(-count // 300))
    ]
    return join_sequences(list(np.concatenate(drawn)[:count]), first)


def make_subject(model, source=None, seed=0, count=300, length=LENGTH):
    """A subject whose data another model samples, itself by default."""
    source = model if source is None else source
    return Subject(
        model,
        VOCABULARY,
        sequences_of(source, 100 + seed, max(count, 600), length),
        sequences_of(source, 200 + seed, count, length),
        jax.random.key(seed),
        LENGTH,
    )


@pytest.fixture(scope="module")
def model():
    return make_state()


def excludes_zero(interval):
    return interval[0] > 0 or interval[1] < 0


@pytest.fixture(scope="module")
def other(model):
    """The model with perturbed weights."""
    noise = random_like(model.generator.params, 5, 0.4)
    params = jax.tree.map(jnp.add, model.generator.params, noise)
    return model.replace(generator=model.generator.replace(params=params))


@pytest.fixture
def small_critic(monkeypatch):
    for name in ("HIDDEN_SIZE", "MLP_SIZE"):
        monkeypatch.setattr(critic, name, 12)
    monkeypatch.setattr(critic, "ROUND", 10)
    monkeypatch.setattr(critic, "MOST_ROUNDS", 4)


@pytest.mark.slow
def test_fresh_critic_of_own_samples_is_at_chance(model, small_critic):
    measured = critic.fresh_critic(make_subject(model))
    assert list(measured.numbers) == ["critic_behavior", "critic_values"]
    for number in measured.numbers.values():
        low, high = number.interval
        assert low <= 0.5 <= high and number.reference == 0.5
        assert low < number.value < high
        assert "2 x 200 windows" in number.label


@pytest.mark.slow
def test_fresh_critic_tells_a_perturbed_model(model, other, small_critic):
    numbers = critic.fresh_critic(make_subject(other, model)).numbers
    assert min(number.interval[0] for number in numbers.values()) > 0.55


@pytest.mark.slow
def test_perturbed_weights_are_told_from_the_original_by_three_measures(
    model, other, small_critic
):
    # The data is the original's own samples, so the original is as good as can be.
    def told_by(state):
        subject = make_subject(state, source=model)
        measured = critic.fresh_critic(subject) | judge.judge_samples(subject, model)
        by_interval = {
            name
            for name, number in measured.numbers.items()
            if number.interval is not None
            and excludes_zero(np.subtract(number.interval, number.reference))
        }
        gap = hidden_gap(
            state, subject.split, subject.key, length=LENGTH, spacing=LENGTH
        )
        mean, floor = gap.summary(slice(None))
        distances = measure_texts(subject).numbers
        is_far = distances["ngrams_2"].value > 1.5 * distances["ngrams_2"].reference
        return (
            by_interval
            | ({"gap"} if mean > floor else set())
            | ({"ngrams_2"} if is_far else set())
        )

    assert len(told_by(other)) >= 3
    assert not told_by(model)


@pytest.mark.slow
def test_fresh_critic_of_own_samples_covers_chance_at_its_level(model, small_critic):
    numbers = [
        number
        for seed in range(20)
        for number in critic.fresh_critic(
            make_subject(model, seed=seed)
        ).numbers.values()
    ]
    covered = sum(low <= 0.5 <= high for low, high in (x.interval for x in numbers))
    # 40 intervals of 95 %: fewer than 34 cover with probability 0.003.
    assert covered >= 34
    mean = np.mean([number.value for number in numbers])
    # 40 accuracies of 400 rows each.
    assert mean == pytest.approx(0.5, abs=4 * 0.5 / (40 * 400) ** 0.5)


def test_fresh_critic_needs_windows(model):
    subject = make_subject(model, count=47)
    assert not critic.fresh_critic(subject).numbers


@pytest.mark.slow
def test_fresh_critic_masks_short_sequences_alike(model, small_critic):
    def shortened(split, more):
        """Starts of `n` and of `LENGTH - 1 - n` steps: as many values as before."""
        lengths = np.random.default_rng(0).integers(3, LENGTH - 3, len(split.lengths))
        parts = []
        for source, counts in ((split, lengths), (more, LENGTH - 1 - lengths)):
            for start, count in zip(source.offsets[:-1], counts, strict=True):
                parts.append(source.values[start + 1 : start + 1 + count])
        return join_sequences(parts)

    subject, more = make_subject(model), make_subject(model, seed=1)
    subject = subject._replace(
        train=shortened(subject.train, more.train),
        split=shortened(subject.split, more.split),
    )
    for number in critic.fresh_critic(subject).numbers.values():
        assert number.interval[0] <= 0.5 <= number.interval[1]


def test_behavior_of_a_view_is_that_of_training(model):
    """Teacher-forced rows first, both from the same first input, standardized."""
    generator = model.settings.generator
    subject = make_subject(model)
    view = views.View(generator, views.see_behavior, (), LENGTH)
    values = jnp.asarray(subject.train.values)
    rows = critic.training_windows(subject.train, LENGTH, 32)
    see = jax.jit(critic._behavior, static_argnums=0)
    data = critic.Data(model.generator.params, values, jnp.ones((2, 14)))
    _, moments = see(view, data, rows, jax.random.key(1))
    seen, _ = see(view, data._replace(moments=moments), rows, jax.random.key(1))
    np.testing.assert_allclose(
        np.mean(seen.features, axis=(0, 1)), 0, atol=1e-4
    )  # the moments' own batch
    inputs = values[rows[:, 0] + np.arange(LENGTH)[:, None]]
    both = jax.jit(unroll_paired)(model.generator.params, jax.random.key(1), inputs)
    teacher_forced, free_running = split_modes(both)
    preactivation = seen.features * moments[1] + moments[0]
    np.testing.assert_allclose(
        preactivation[..., :6],
        jnp.concatenate(
            [teacher_forced.preactivation[0], free_running.preactivation[0]], axis=1
        ),
        atol=1e-4,
    )
    np.testing.assert_array_equal(seen.mask, np.ones((LENGTH, 64)))


def test_held_out_windows_do_not_overlap(model):
    values = np.arange(1000)
    rows = critic.training_windows(join_sequences([values]), 10, 64)
    targets = rows[:, :1] + 1 + np.arange(10)
    assert len(np.unique(targets)) == targets.size == 640


@pytest.mark.parametrize(
    ("encoding", "form", "size"),
    [
        (VOCABULARY, views.ValueForm(8, False), 8),
        (Pixels(2, 2), views.ValueForm(2, False), 2),
        (Waveform(1000, 300, "linear"), views.ValueForm(300, True), 65),
        (Strokes((0.0, 0.0), 1.0, 10.0), views.ValueForm(0, False), 3),
    ],
)
def test_value_form_fits_the_encoding(encoding, form, size):
    assert views.value_form(encoding) == form
    first = jnp.asarray(encoding.first_input)
    values = jnp.broadcast_to(first, (5, *first.shape))
    features = views.value_features(values, form)
    assert features.shape == (5, size)
    np.testing.assert_allclose(features[0], features[4])


kl = jax.jit(divergence, static_argnums=(0, 1))


def test_divergence_of_tokens_equals_scipy():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = kl(categorical, categorical, logits[0], logits[1], jax.random.key(0))
    o, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in logits)
    np.testing.assert_allclose(found, scipy.stats.entropy(o, q, axis=-1), rtol=1e-4)


@pytest.mark.parametrize("emission", [bernoulli, independent_bernoullis])
def test_divergence_of_bernoullis_equals_numpy(emission):
    size = 1 if emission is bernoulli else 3
    logits = np.random.default_rng(0).normal(size=(2, 4, size)).astype(np.float32)
    o, q = 1 / (1 + np.exp(-logits))
    expected = (o * np.log(o / q) + (1 - o) * np.log((1 - o) / (1 - q))).sum(-1)
    found = kl(emission, emission, *logits, jax.random.key(0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_divergence_of_mixtures_has_the_mean_of_the_closed_form():
    # One Gaussian each of unit deviations: |mean - mean'|^2 / 2, and the pen's.
    o, q = np.zeros((2, 400, 7), np.float32)
    q[:, 1], q[:, 6] = 0.5, 0.7
    wider = np.zeros((400, 13), np.float32)  # The same in two components.
    wider[:, 2], wider[:, 4], wider[:, 12] = 0.5, 0.5, 0.7
    expected = 0.125 + float(kl(bernoulli, bernoulli, o[0, 6:], q[0, 6:], None))
    for components, logits in ((1, q), (2, wider)):
        emissions = mixture_density(1), mixture_density(components)
        found = kl(*emissions, o, logits, jax.random.key(0))
        error = np.std(found) / 20
        assert np.mean(found) == pytest.approx(expected, abs=float(4 * error))
        assert error < 0.02
    same = kl(mixture_density(1), mixture_density(1), q, q, jax.random.key(0))
    np.testing.assert_array_equal(same, 0)


def test_judge_of_its_own_samples_is_at_zero(model):
    measured = judge.judge_samples(make_subject(model), model)
    number = measured.numbers["judge_within"]
    # J(t) is within four of its errors, which the 95 % interval has two of.
    assert abs(number.value) < number.interval[1] - number.interval[0]
    assert "judge_beyond" not in measured.numbers
    excess = measured.numbers["excess_error"]
    assert (excess.value, excess.reference) == (0, 0)
    np.testing.assert_array_equal(measured.curves["excess_error"].values, 0)


def test_judge_samples_of_the_data_model_is_at_zero_for_any_judge(model, other):
    numbers = judge.judge_samples(make_subject(model), other).numbers
    for name in ("judge_within", "excess_error"):
        low, high = numbers[name].interval
        assert low < high and abs(numbers[name].value) < high - low


def test_judge_tells_a_perturbed_model_beyond_the_training_length(model, other):
    subject = make_subject(other, model, length=4 * LENGTH)
    numbers, curves = judge.judge_samples(subject, model)
    assert excludes_zero(numbers["judge_within"].interval)
    assert excludes_zero(numbers["judge_beyond"].interval)
    assert len(curves["judge"].values) == 4 * LENGTH
    assert numbers["judge_within"].value == pytest.approx(
        np.mean(curves["judge"].values[:LENGTH]), abs=1e-5
    )
    # The same first inputs, and nothing else, are read before the first step.
    assert curves["excess_error"].values[0] == pytest.approx(0, abs=1e-3)
    assert numbers["excess_error"].value == pytest.approx(
        curves["excess_error"].values[-1]
    )


def test_judge_scores_equal_one_unroll(model, other, monkeypatch):
    values = np.random.default_rng(0).integers(0, 8, (10, 3)).astype(np.int32)
    monkeypatch.setattr("pf_jax.analysis.measures.windows.STEPS_AT_A_TIME", 12)
    scores = judge.judge_scores(model, other, values, jax.random.key(0))
    unroll = jax.jit(unroll_teacher_forced)
    o, q = (unroll(x.generator.params, values[:-1]).logits for x in (model, other))
    nll = -categorical.log_prob(o, values[1:])
    np.testing.assert_allclose(scores.nll, nll, rtol=1e-4)
    expected = kl(categorical, categorical, o, q, jax.random.key(0))
    np.testing.assert_allclose(scores.divergence, expected, rtol=1e-3, atol=1e-5)


def test_excess_error_of_contexts_that_drift():
    real = np.full((3, 4), 0.5)
    own = real * np.array([[1.0], [2.0], [4.0]])
    # (0.5, 1.5, 3.5) less (0.5, 1, 1.5), over the latter.
    np.testing.assert_allclose(
        judge.excess_error(own, real), [0, 50, 400 / 3], rtol=1e-6
    )
    np.testing.assert_array_equal(judge.excess_error(real, real), 0)
    np.testing.assert_array_equal(judge.excess_error(0 * real, 0 * real), 0)


def test_intervals_equal_scipy():
    values = np.random.default_rng(0).normal(size=30)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert intervals.mean_interval(values) == pytest.approx(tuple(expected))
    assert intervals.mean_interval(values[:1]) is None
    ratio = intervals.ratio_interval(values, np.ones(30))
    assert ratio == pytest.approx(tuple(expected))
    assert intervals.ratio_interval(values, np.zeros(30)) is None
    assert intervals.accuracy_interval(50, 100) == pytest.approx(
        (0.40383, 0.59617), 1e-4
    )


def test_recovery_steps_of_hand_built_excess():
    row = np.array([8.0, 4, 2, 1, 0.5, 0.3, 0.2])
    exact = np.repeat(row[:, None], 9, axis=1)
    assert recovery.recovery_steps(exact) == 5  # 0.3 <= 0.4 < 0.5
    assert recovery.recovery_steps(exact[:4]) == 3  # Not back within what is seen.
    assert recovery.recovery_steps(0 * exact) == 0
    # An error of 1 in a mean of 9 rows: 1.96 is above 1 but not above 2.
    noise = np.array([-1.0, 0, 1] * 3) * 3 / np.std([-1.0, 0, 1] * 3, ddof=1)
    assert recovery.recovery_steps(exact + noise) == 3


def memory_of_one_step():
    """A model that predicts the token it reads, whatever it has read before."""
    state = make_state(sizes=GeneratorSizes(8, 8, 8))
    params = jax.tree.map(jnp.zeros_like, state.generator.params)
    layer = params.layers[0]
    # Update gate closed: the state is tanh of the candidate, that of the token alone.
    bias = layer.input_bias.at[8:16].set(-30.0)
    kernel = layer.input_kernel.at[:, 16:].set(3 * jnp.eye(8))
    layer = layer._replace(input_bias=bias, input_kernel=kernel)
    params = params._replace(
        input=jnp.eye(8),
        layers=(layer,),
        readout=params.readout._replace(kernel=5 * jnp.eye(8)),
    )
    return state.replace(generator=state.generator.replace(params=params))


def test_recovery_of_a_model_without_memory_takes_one_step():
    # Each sequence repeats one token, and the model expects repetition.
    source = np.random.default_rng(0)
    parts = [
        np.full(3 * LENGTH, token, np.int32) for token in source.integers(1, 8, 40)
    ]
    split = join_sequences(parts)
    subject = Subject(
        memory_of_one_step(), VOCABULARY, split, split, jax.random.key(0), LENGTH
    )
    measured = recovery.recovery(subject)
    # Windows have 24 steps: 20 corrupted ones after the first 6 do not fit.
    assert {name: x.value for name, x in measured.numbers.items()} == {
        "recovery_1": 1,
        "recovery_5": 1,
    }
    curve = measured.curves["recovery"]
    np.testing.assert_allclose(curve.values, 0, atol=1e-5)
    assert len(curve.steps) == 13 and curve.steps[0] == 1
    assert curve.x_label == "steps after the last corrupted input"


def test_recovery_is_not_known_where_no_float_holds_a_likelihood(model, monkeypatch):
    nll = np.ones((3, 2 * LENGTH, 16))
    nll[:, -1, 3] = np.inf
    monkeypatch.setattr(recovery, "_nll_of_variants", lambda *_: nll)
    numbers = recovery.recovery(make_subject(model, count=17)).numbers
    assert numbers and all(np.isnan(number.value) for number in numbers.values())


def test_recovery_needs_windows(model):
    subject = make_subject(model, count=15)
    assert recovery.recovery(subject).numbers == {}


def test_continuation_of_real_prefixes_by_the_data_model_is_at_zero(model, other):
    subject = make_subject(model, length=4 * LENGTH)
    number = recovery.continuation(subject, model).numbers["continuation"]
    width = number.interval[1] - number.interval[0]
    assert abs(number.value) < width and abs(number.reference) < width
    worse = recovery.continuation(subject._replace(state=other), model)
    assert excludes_zero(worse.numbers["continuation"].interval)
    assert len(worse.curves["continuation"].steps) == LENGTH
    assert worse.curves["continuation"].x_label == "steps after the prefix"
    short = make_subject(model)
    assert recovery.continuation(short, model).numbers == {}


@pytest.fixture
def few_updates(monkeypatch):
    monkeypatch.setattr(reverse, "NUM_UPDATES", 40)
    monkeypatch.setattr(reverse, "BATCH_SIZE", 8)


@pytest.mark.slow
def test_reverse_cross_entropy_of_own_samples_is_that_of_real_data(model, few_updates):
    fast = model.settings._replace(
        optimizer=critic.make_optimizer(0.02), max_gradient_norm=1.0
    )
    subject = make_subject(model.replace(settings=fast), model)
    measured = reverse.reverse_cross_entropy(subject)
    number = measured.numbers["reverse_cross_entropy"]
    assert number.value == pytest.approx(number.reference, abs=0.05)
    curve = measured.curves["reverse_cross_entropy"]
    np.testing.assert_array_equal(curve.steps, reverse.TEMPERATURES)
    assert curve.values[3] == number.value
    assert np.ptp(curve.reference) == 0


def test_forward_cross_entropy_rises_with_temperature(model):
    measured = reverse.forward_cross_entropy(make_subject(model), model)
    curve = measured.curves["forward_cross_entropy"]
    assert curve.x_label == "temperature"
    values = curve.values
    assert np.all(np.diff(values) > 0)
    number = measured.numbers["forward_cross_entropy"]
    assert number.value == pytest.approx(number.reference, abs=0.1)
    assert number.value == values[3]


def test_sample_windows_have_the_real_ones_first_inputs_and_masks(model, monkeypatch):
    monkeypatch.setattr(reverse, "ROWS_AT_A_TIME", 4)
    split = join_sequences([np.arange(n, dtype=np.int32) % 8 for n in (30, 14, 9)])
    rows = reverse.training_windows(split, LENGTH, 8)
    real = reverse.gather(split, rows, LENGTH)
    sampled = reverse.sample_windows(model, real, jax.random.key(0), 1.0)
    np.testing.assert_array_equal(sampled.inputs[0], real.inputs[0])
    np.testing.assert_array_equal(sampled.inputs[1:], sampled.targets[:-1])
    np.testing.assert_array_equal(sampled.mask, real.mask)
    assert sampled.targets.dtype == real.targets.dtype


def test_model_sizes_are_those_it_was_made_with():
    sizes = GeneratorSizes(7, 6, 4, 2, 3)
    settings = Settings()
    settings = settings._replace(
        generator=settings.generator._replace(emission=mixture_density(1))
    )
    state = make_state(sizes=sizes, settings=settings)
    encoding = Strokes((0.0, 0.0), 1.0, 10.0)
    assert reverse.model_sizes(state, encoding) == sizes


@pytest.mark.slow
def test_measures_take_strokes(small_critic, few_updates):
    """Numbers, a mixture, and sequences of many lengths."""
    settings = Settings()
    settings = settings._replace(
        generator=settings.generator._replace(emission=mixture_density(2))
    )
    state = make_state(
        sizes=GeneratorSizes(13, 5, 4, 1, 3), settings=settings, scale=0.2
    )
    encoding = Strokes((0.0, 0.0), 1.0, 10.0)
    split = sequences_of(state, 1, 300, 4 * LENGTH, encoding.first_input)
    subject = Subject(state, encoding, split, split, jax.random.key(0), LENGTH)
    measured = judge.judge_samples(subject, state) | recovery.recovery(subject)
    assert abs(measured.numbers["excess_error"].value) == 0
    assert 0 <= measured.numbers["recovery_5"].value <= LENGTH
    values = views.View(
        settings.generator, views.see_values, (views.ValueForm(0, False),), LENGTH
    )
    logits = critic.train_and_test(subject, values)
    assert logits is not None and np.isfinite(logits.free_running).all()


def test_mode_states_are_those_of_both_unrolls(model):
    subject = make_subject(model, count=40)
    states = mode_states(model, subject.split, jax.random.key(2), length=LENGTH)
    assert states is not None
    assert states.teacher_forced.shape == (4 * 40, 6)
    np.testing.assert_array_equal(states.steps, np.repeat([3, 6, 9, 12], 40))
    starts = subject.split.offsets[:-1]
    inputs = subject.split.values[starts + np.arange(LENGTH)[:, None]]
    both = jax.jit(unroll_paired)(model.generator.params, jax.random.key(2), inputs)
    for unroll, found in zip(split_modes(both), states, strict=False):
        expected = np.concatenate(np.asarray(unroll.hidden[0])[[2, 5, 8, 11]])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    one = join_sequences([np.zeros(LENGTH - 1, np.int32)])
    assert mode_states(model, one, jax.random.key(2), length=2) is not None
    one = join_sequences([np.zeros(1, np.int32)])
    assert mode_states(model, one, jax.random.key(2), length=LENGTH) is None
