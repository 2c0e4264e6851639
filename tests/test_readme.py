"""What README and the documents show runs, and what they point to is there."""

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_finds_the_field() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {"print": lambda *_: None}
    exec(compile(code, "README.md", "exec"), names)
    error, x = names["error"], names["x"]
    assert float(error.mean()) < 0.5 * float(x.abs().mean())  # type: ignore[attr-defined]


def test_the_example_is_the_one_of_the_examples_folder() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert (ROOT / "examples" / "compose.py").read_text().endswith(code)


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_examples_of_the_document_on_operators() -> None:
    failed, tried = doctest.testfile(str(ROOT / "docs" / "operators.md"), module_relative=False)
    assert tried >= 12 and not failed
