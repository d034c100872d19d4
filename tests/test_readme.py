import pathlib
import re

import jax
import numpy as np

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_readme_snippets_run():
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(snippets) == 3
    names = {}
    for snippet in snippets:
        exec(snippet, names)
    assert names["sampled"].shape == (20, 8)
    norms = [float(np.abs(x).max()) for x in jax.tree.leaves(names["gradient"])]
    assert min(norms) > 0 and np.isfinite(norms).all()
    assert int(names["state"].step) == 1


def test_readme_map_names_the_modules_in_order_of_import():
    order = re.search(r"types -> .* -> experiment", README.read_text(), re.DOTALL)
    assert order
    modules = [name.strip() for name in order.group().split("->")]
    package = README.parent / "pf_jax"
    for position, module in enumerate(modules):
        files = [package / f"{module}.py"]
        if (package / module).is_dir():
            files = sorted((package / module).glob("*.py"))
        source = "\n".join(file.read_text() for file in files)
        pattern = r"^from pf_jax\.(\w+)[\w.]* import"
        imported = set(re.findall(pattern, source, re.MULTILINE))
        later = imported & set(modules[position + 1 :])
        assert not later, f"{module} imports {later}"
