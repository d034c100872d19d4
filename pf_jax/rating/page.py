"""The page that raters see: one HTML file that loads nothing."""

import base64
import hashlib
import pathlib
from collections.abc import Mapping

import jinja2
from markupsafe import Markup

from pf_jax.rating.contents import Content
from pf_jax.rating.key import Key

TEMPLATE = "page.html.jinja"
SCRIPT = "page.js"


def write_page(
    key: Key, contents: Mapping[str, Content], noun: str, prompt: str = ""
) -> str:
    """The page as HTML.

    Of the key it has the hash, the identifiers and the raters' codes, not what tells the
    runs apart.

    Args:
        key: The key of the rating.
        contents: What to show of each sample, by its identifier.
        noun: Name of a sample in the question, such as "text".
        prompt: Text that all samples continue.
    """
    script = (pathlib.Path(__file__).parent / SCRIPT).read_text("utf-8")
    digest = hashlib.sha256(f"\n{script}".encode()).digest()
    data = {
        "page": key.page,
        "noun": noun,
        "raters": key.rule.raters,
        "pairs": [(pair.first, pair.second) for pair in key.pairs],
        "items": [tuple(item) for item in key.items],
        "samples": contents,
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pf_jax", "rating"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        data=data,
        noun=noun,
        prompt=prompt,
        has_sound=any("sound" in x or "notes" in x for x in contents.values()),
        script=Markup(f"\n{script}"),
        script_hash=base64.b64encode(digest).decode("ascii"),
    )
