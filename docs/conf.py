"""How Sphinx makes the documentation site: ``make docs``.

The source directory is the root of the repository, so that a link between two pages is the same on the site and in the
repository. The API pages (``docs/reference/api/*.rst``) are made from the docstrings.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

project = "colocache"
author = "the colocache authors"
copyright = author
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["*.md", "docs/**", "examples/**.md"]
exclude_patterns = ["docs/proof/*.txt"]
default_role = "py:obj"  # `Cache` in a docstring is a link wherever the name is known
highlight_language = "text"  # a block without a language is a command or its output

myst_heading_anchors = 4  # the anchors that the hosts of repositories make
myst_enable_extensions = ["colon_fence"]

autoclass_content = "both"  # the docstring of the class, and that of its constructor
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"colocache {release}"
html_show_copyright = False

#: The navigation: a caption, and the pages below it, some with a shorter title. docs/README.md groups them alike.
NAVIGATION = (
    ("Begin", ("docs/tutorial", "examples/README", "examples/demo/README")),
    (
        "Use it in a framework",
        (
            "Django <docs/howto/django>",
            "Flask <docs/howto/flask>",
            "FastAPI and Starlette <docs/howto/fastapi>",
            "Any other WSGI application <docs/howto/wsgi>",
            "Any other ASGI application <docs/howto/asgi>",
            "SQLAlchemy <docs/howto/sqlalchemy>",
            "dogpile.cache <docs/howto/dogpile>",
        ),
    ),
    (
        "Run it",
        (
            "gunicorn <docs/howto/gunicorn>",
            "Any other server <docs/howto/servers>",
            "gevent <docs/howto/gevent>",
            "Celery <docs/howto/celery>",
            "Scripts and cron jobs <docs/howto/scripts>",
            "Containers <docs/howto/containers>",
            "Several hosts <docs/howto/hosts>",
            "Keep others out <docs/howto/security>",
            "Keep the cache while all workers restart <docs/howto/dedicated>",
            "Docker <docs/howto/docker>",
            "Kubernetes <docs/howto/kubernetes>",
        ),
    ),
    (
        "Work with it",
        (
            "Choose a ttl <docs/howto/choose-ttl>",
            "Keep sessions <docs/howto/sessions>",
            "Test <docs/howto/testing>",
            "Find forgotten invalidations <docs/howto/audit>",
            "Look what is cached <docs/howto/look-inside>",
            "Prometheus and Grafana <docs/howto/prometheus>",
            "OpenTelemetry <docs/howto/opentelemetry>",
            "Look into it from a shell <docs/howto/shell>",
            "Watch a group in a browser <docs/howto/dashboard>",
            "Troubleshoot <docs/howto/troubleshoot>",
        ),
    ),
    (
        "Topics",
        (
            "docs/topics/story",
            "docs/topics/consistency",
            "docs/topics/keys",
            "docs/topics/values",
            "docs/topics/processes",
            "docs/topics/interruptions",
            "docs/topics/hosts",
            "docs/topics/counters",
            "docs/topics/memory",
            "docs/topics/performance",
            "docs/topics/alternatives",
            "docs/topics/django",
            "docs/topics/conformance",
        ),
    ),
    ("Reference", ("docs/reference/api", "docs/reference/api/*", "docs/reference/*")),
    ("Decisions", ("docs/decisions/*",)),
    ("Proof", ("docs/proof/README",)),
    ("Project", ("docs/README", "CONTRIBUTING", "SECURITY", "CHANGELOG")),
)
TREE = "\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {}\n\n{}\n```\n"


def add_navigation(app: Any, page: str, source: list[str]) -> None:
    """Give the first page the navigation, which the README of the repository has no use for."""
    if page == root_doc:
        source[0] += "".join(TREE.format(caption, "\n".join(pages)) for caption, pages in NAVIGATION)


def make_index(app: Any, exception: Exception | None) -> None:
    """Make the first page the one that a server shows for the directory."""
    if exception is None and app.builder.format == "html":
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", make_index)
