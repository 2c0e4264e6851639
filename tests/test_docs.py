"""The code of tutorials and examples runs."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_code_of_the_tutorial_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "pyro.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "pyro.md", "exec"), names)
    assert "site 'weight' is observed, but its distribution" in capsys.readouterr().out


def test_poisson_counts(tmp_path: Path) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "poisson_counts.py"))["main"]
    main(size=6, num_samples=8, path=tmp_path / "counts.png")
    assert (tmp_path / "counts.png").stat().st_size > 1000
