"""Sphinx's settings for the documentation: `make docs` builds it into `build/docs`."""

project = "pf_jax"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = "pf_jax"
html_show_copyright = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
default_role = "code"  # single backticks in docstrings
autodoc_preserve_defaults = True
autodoc_typehints = "none"
napoleon_use_ivar = True


def mark_equations(app, what, name, obj, options, lines):
    """Makes indented equations of docstrings literal blocks, which keep their lines."""
    last, marked = "", []
    for number, line in enumerate(lines):
        is_first = number > 0 and not lines[number - 1].strip()
        if is_first and line.startswith("    ") and not last.startswith(" "):
            marked += ["::", ""]
        marked.append(line)
        last = line if line.strip() else last
    lines[:] = marked


def shorten_defaults(app, what, name, obj, options, signature, returns):
    """Defaults of a named tuple that are functions or tuples as `...`."""
    defaults = getattr(obj, "_field_defaults", None)
    if what != "class" or not defaults:
        return None

    def argument(field):
        if field not in defaults:
            return field
        is_short = isinstance(defaults[field], (str, int, float, type(None)))
        return f"{field}={repr(defaults[field]) if is_short else '...'}"

    return f"({', '.join(map(argument, obj._fields))})", returns


def setup(app):
    """Called by Sphinx."""
    # Before napoleon reads the docstrings.
    app.connect("autodoc-process-docstring", mark_equations, priority=400)
    app.connect("autodoc-process-signature", shorten_defaults)
