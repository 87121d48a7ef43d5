"""What is published: the files of the package, and the files that name the project."""

import re
import tomllib
from fnmatch import fnmatch

from conftest import ROOT

import cvae_tf

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ADDRESS = PROJECT["project"]["urls"]["Repository"]
CITATION = (ROOT / "CITATION.cff").read_text()


def test_every_file_of_the_package_goes_into_the_wheel():
    patterns = [f"{package.replace('.', '/')}/{pattern}" for package, several in
                PROJECT["tool"]["setuptools"]["package-data"].items() for pattern in several]
    for path in (ROOT / "cvae_tf").rglob("*"):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert any(fnmatch(name, pattern) for pattern in patterns), name


def test_the_projects_address_is_the_same_everywhere():
    assert all(url.startswith(ADDRESS) for url in PROJECT["project"]["urls"].values())
    assert re.search(r'^repository-code: "(.+)"$', CITATION, re.MULTILINE)[1] == ADDRESS
    notebook = (ROOT / "notebooks" / "colab.ipynb").read_text()
    place = ADDRESS.removeprefix("https://github.com/")
    assert set(re.findall(r"github(?:\.com)?/(\w[\w-]*/[\w-]+)", notebook)) == {place}


def test_the_citation_names_this_version():
    assert re.search(r'^version: "(.+)"$', CITATION, re.MULTILINE)[1] == cvae_tf.__version__
