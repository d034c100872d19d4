"""The scores of a rating in words, and as a file."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from pf_jax.errors import warn
from pf_jax.files import write_whole
from pf_jax.rating.judgements import read_judgements
from pf_jax.rating.key import Key, read_key, read_page
from pf_jax.rating.scores import RESPONSES, Scores, Share, scores_of
from pf_jax.study.statistics import CONFIDENCE

SCORES_FILE = "scores.json"


def score(folder: pathlib.Path, files: Sequence[str]) -> Scores:
    """Prints the scores of a rating, and writes them to `scores.json`.

    Args:
        folder: Folder that `make` wrote; `judgements.jsonl` in it is read too.
        files: Paths of files that the page downloaded.

    Raises:
        UserError: If the key, or a file, is missing or damaged, or nobody has rated.
    """
    key = read_key(folder)
    read_page(
        folder, key
    )  # Whose hash shows that the key is the one before the ratings.
    judgements = read_judgements(key, folder, files)
    scores = scores_of(key, judgements)
    for line in describe(key, scores):
        print(line)
    num_kept = len(scores.prefers_a.by_rater)
    if num_kept < 2:
        number = "one rater counts" if num_kept else "no rater counts"
        warn(f"{number}: there is no interval, and nothing can be said about others")
    write_whole(folder / SCORES_FILE, json.dumps(to_json(key, scores), indent=1) + "\n")
    return scores


def describe(key: Key, scores: Scores) -> list[str]:
    """The scores in lines of text."""
    total, num_kept = sum(scores.counts), len(scores.prefers_a.by_rater)
    lines = [
        f"A is {key.a['workdir']} ({key.a['objective']}, step {key.a['step']:,})",
        f"B is {key.b['workdir']} ({key.b['objective']}, step {key.b['step']:,})",
        f"{total:,} judgements of {key.num_by_kind['runs']} pairs by "
        f"{num_kept} {'rater' if num_kept == 1 else 'raters'}",
    ]
    for response, count in zip(RESPONSES, scores.counts, strict=True):
        share = f"{100 * count / total:5.1f} %" if total else "    – "
        lines.append(f"  {response:<18} {share} {count:6,}")
    alpha = "not defined" if scores.alpha is None else f"{scores.alpha:.3f}"
    lines += [
        f"preference for A: {_shown(scores.prefers_a)}{_verdict(scores.prefers_a)}",
        f"preference for the left side: {_shown(scores.prefers_left)}",
        f"same sample on repeated pairs: {_shown(scores.consistent)}",
        f"real data rather than noise: {_shown(scores.attentive)}",
        f"Krippendorff's alpha, ordinal: {alpha}",
    ]
    for rater, reason in scores.dropped.items():
        lines.append(f"dropped: {rater}: {reason}")
    if scores.num_changed:
        lines.append(
            f"{scores.num_changed:,} answers were changed later: the last one counts"
        )
    return lines


def to_json(key: Key, scores: Scores) -> dict[str, Any]:
    """The scores as JSON values."""
    total = sum(scores.counts)
    return {
        "page": key.page,
        "a": dict(key.a),
        "b": dict(key.b),
        "num_raters": len(scores.prefers_a.by_rater),
        "num_judgements": total,
        "responses": {
            response: {"count": count, "share": count / total if total else None}
            for response, count in zip(RESPONSES, scores.counts, strict=True)
        },
        "confidence": CONFIDENCE,
        **{
            name: getattr(scores, name)._asdict()
            for name in ("prefers_a", "prefers_left", "consistent", "attentive")
        },
        "alpha": scores.alpha,
        "rule": {
            "max_failed_catches": key.rule.max_failed_catches,
            "min_answered": key.rule.min_answered,
        },
        "dropped": dict(scores.dropped),
        "num_changed": scores.num_changed,
    }


def _shown(share: Share) -> str:
    if share.mean is None:
        return "no judgements"
    text = f"{100 * share.mean:.1f} %"
    if share.interval is None:
        return text
    low, high = (f"{100 * x:.1f}" for x in share.interval)
    return f"{text} (95 % interval {low} to {high})"


def _verdict(share: Share) -> str:
    """What the interval says of chance."""
    if share.interval is None:
        return ""
    low, high = share.interval
    if low > 0.5:
        return ": A is preferred"
    if high < 0.5:
        return ": B is preferred"
    return ": neither is preferred"
