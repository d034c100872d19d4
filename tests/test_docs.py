"""The pages of docs/: their examples run, and what they name exists."""

import collections
import doctest
import importlib
import json
import pathlib
import re
import sys
import types

import pytest

import pf_jax
from configs import default

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


def examples(page):
    """The page's blocks of Python, each with the number of its first line."""
    text = page.read_text()
    blocks = re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text[: block.start(1)].count("\n"), block[1]) for block in blocks]


# Each compiles several loops.
@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples(page)], ids=lambda page: page.stem
)
def test_examples_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    # As a module, which classes that are saved can be imported from again.
    module = types.ModuleType(page.stem)
    monkeypatch.setitem(sys.modules, page.stem, module)
    monkeypatch.chdir(tmp_path)
    names = vars(module)
    for first, block in examples(page):
        # Errors name the page's own lines.
        exec(compile("\n" * first + block, str(page), "exec"), names)


def modules_with_examples():
    files = (ROOT / "pf_jax").rglob("*.py")
    paths = [file for file in files if ">>> " in file.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return sorted(name.removesuffix(".__init__") for name in names)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_give_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def has_field(config, path):
    section, _, field = path.partition(".")
    return section in config and (not field or has_field(config[section], field))


def test_fields_that_pages_name_exist():
    config, named = default.get_config(), collections.defaultdict(set)
    for page in PAGES:
        for path in re.findall(r"`([a-z_]+\.[a-z_]+)(?:=[^`]*)?`", page.read_text()):
            section, _, field = path.partition(".")
            # `train.py` is a program, `behavior.mask` a field of an array's type.
            is_other = field in ("py", *pf_jax.Behavior._fields)
            if section in config and not is_other:
                named[path].add(page.name)
    assert len(named) > 10
    assert not {path: at for path, at in named.items() if not has_field(config, path)}


def test_commands_on_pages_name_configurations_and_fields():
    commands = [
        command
        for page in PAGES
        for command in page.read_text().replace("\\\n", " ").splitlines()
        if re.match(r"    python (train|study)\.py ", command)
    ]
    assert len(commands) > 10
    for command in commands:
        name = re.search(r"--config configs/(\w+)\.py", command)
        module = importlib.import_module(f"configs.{name[1] if name else 'default'}")
        config = module.get_config()
        fields = re.findall(r"--config\.([\w.]+)=", command)
        fields += re.findall(r"--vary ([\w.]+)=", command)
        missing = [field for field in fields if not has_field(config, field)]
        assert not missing, command


def test_the_api_page_has_every_public_name_once():
    text = (ROOT / "docs" / "api.md").read_text()
    named = re.findall(r"^\.\. (?:auto|py:)\w+:: (\w+)$", text, re.MULTILINE)
    lazy = [name for name in pf_jax._MODULES if name not in pf_jax.__all__]
    assert sorted(named) == sorted([*pf_jax.__all__, *lazy])


def test_the_table_of_platforms_has_the_devices_of_all_results():
    text = (ROOT / "docs" / "platforms.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    paths = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    results = {path.name: json.loads(path.read_text()) for path in paths}
    results = {name: each for name, each in results.items() if "device" in each}
    assert len(results) > 5
    for name, result in results.items():
        device = "CPU" if result["device"] == "cpu" else result["device"]
        versions = result["versions"]
        needed = (f"{device}", versions["python"], versions["jax"])
        assert any(all(word in row for word in needed) for row in rows), name
