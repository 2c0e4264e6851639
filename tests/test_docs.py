"""The code of tutorials and examples runs."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_the_code_of_tutorials_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, path.name, "exec"), names)
    if path.name == "pyro.md":
        assert "site 'weight' is observed, but its distribution" in capsys.readouterr().out


def test_poisson_counts(tmp_path: Path) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "poisson_counts.py"))["main"]
    main(size=6, num_samples=8, path=tmp_path / "counts.png")
    assert (tmp_path / "counts.png").stat().st_size > 1000
