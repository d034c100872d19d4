import ast
import pathlib
import re

import jax
import numpy as np
import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"
PACKAGE = README.parent / "pf_jax"


def test_readme_snippets_run():
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(snippets) == 5
    names = {}
    for snippet in snippets:
        exec(snippet, names)
    assert names["sampled"].shape == (20, 8)
    norms = [float(np.abs(x).max()) for x in jax.tree.leaves(names["gradient"])]
    assert min(norms) > 0 and np.isfinite(norms).all()
    assert int(names["state"].step) == 1
    np.testing.assert_array_equal(names["continued"].inputs[:20], names["tokens"][:20])
    assert names["nll"].shape == (3,) and len(set(names["nll"])) == 3


def readme_map():
    """Top-level modules and packages in order, and of each package its modules."""
    text = README.read_text()
    block = re.search(r"```\npf_jax/\n(.*?)^configs/", text, re.DOTALL | re.MULTILINE)
    assert block
    known = {path.stem for path in PACKAGE.rglob("*.py")} | {
        path.name for path in PACKAGE.rglob("*") if path.is_dir()
    }
    order, packages, current = [], {}, None
    for line in block[1].splitlines():
        words = re.findall(r"\w+/?", line)
        if line.startswith("  ") and line[2] != " ":
            current = None
        for word in words:
            name = word.rstrip("/")
            if name not in known:
                break  # What follows describes the line.
            if word.endswith("/") and current is None:
                order.append(name)
                current = packages.setdefault(name, [])
            elif current is None:
                order.append(name)
            else:
                current.append(name)
    return order, packages


def imports_of(path):
    """Dotted names inside pf_jax that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "pf_jax"
        ):
            parts = node.module.split(".")[1:]
            for alias in node.names:
                yield [*parts, alias.name]


def test_readme_map_names_every_module():
    order, packages = readme_map()
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(order) == sorted(modules | folders)
    assert sorted(packages) == sorted(folders)
    for name, listed in packages.items():
        found = {path.stem for path in (PACKAGE / name).glob("*.py")} - {"__init__"}
        inner = [path.parent for path in (PACKAGE / name).glob("*/__init__.py")]
        found |= {folder.name for folder in inner}
        found |= {path.stem for folder in inner for path in folder.glob("*.py")}
        assert set(listed) == found - {"__init__"}, name


def test_readme_map_is_in_order_of_import():
    order, packages = readme_map()
    for position, name in enumerate(order):
        files = [PACKAGE / f"{name}.py"]
        if name in packages:
            files = sorted((PACKAGE / name).rglob("*.py"))
        imported = {parts[0] for file in files for parts in imports_of(file)}
        later = imported & set(order[position + 1 :])
        assert not later, f"{name} imports {later}"


@pytest.mark.parametrize(
    "package", ["recurrence", "objectives", "experiment", "study", "rating"]
)
def test_readme_map_of_a_package_is_in_order_of_import(package):
    listed = readme_map()[1][package]
    listed = listed[: listed.index("kernels")] if "kernels" in listed else listed
    for position, name in enumerate(listed):
        imports = imports_of(PACKAGE / package / f"{name}.py")
        imported = {
            part for parts in imports if parts[0] == package for part in parts[1:]
        }
        later = imported & set(listed[position + 1 :])
        assert not later, f"{package}.{name} imports {later}"
