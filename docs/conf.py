"""Settings of the documentation: ``sphinx-build -W docs docs/_build``."""

import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a clone, in which the package need not be installed
import cvae_tf  # noqa: E402

project, author, version = "cvae_tf", "The cvae_tf authors", cvae_tf.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme, html_title = "furo", f"cvae_tf {version}"
myst_heading_anchors = 3
autodoc_member_order, autodoc_typehints, add_module_names = "bysource", "none", False
default_role = "code"  # names in single backticks


def setup(app):
    """Show the arguments of a class as its ``__init__`` has them; Keras hides them behind ``(*args, **kwargs)``."""
    def signature(app, what, name, obj, options, signature, returns):
        if what != "class":
            return None
        arguments = list(inspect.signature(obj.__init__).parameters.values())[1:]
        return str(inspect.Signature([argument.replace(annotation=argument.empty) for argument in arguments])), None

    app.connect("autodoc-process-signature", signature)
