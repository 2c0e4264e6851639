"""Files: all or nothing, nothing replaced unasked, broken ones refused."""

from pathlib import Path

import pytest
import torch

from appa_prob.errors import UserError
from appa_prob.files import load_tensors, refuse_existing, replacing, save_tensors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "half"
    assert names(path.parent) == ["a.txt"]


def test_old_file_stays_until_the_end_and_if_the_writer_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="no space"), replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError("no space")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_folders_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    for content in ("1", "2"):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
        assert names(path) == [content]
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "3").write_text("half")
        raise RuntimeError
    assert names(path) == ["2"]
    assert names(tmp_path) == ["a.zarr"]


def test_a_folder_outlives_a_writer_that_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    path.mkdir()
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert names(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("folder", [False, True])
def test_existing_is_refused(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "a"
    refuse_existing(path, overwrite=False)
    path.mkdir() if folder else path.write_text("old")
    refuse_existing(path, overwrite=True)
    with pytest.raises(UserError, match=r"a exists: .* --overwrite"):
        refuse_existing(path, overwrite=False)
    with pytest.raises(UserError), replacing(path, overwrite=False):
        pytest.fail("the block must not run")


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    x = torch.randn(3, 4).T.requires_grad_()
    tensors = {"x": x, "half": torch.randn(2).half(), "n": torch.tensor(3)}
    metadata: dict[str, object] = {"step": 3, "config": {"a": [1, None, "ä"]}}
    save_tensors(path, tensors, metadata)
    loaded, found = load_tensors(path)
    assert found == metadata
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    assert names(tmp_path) == ["a.safetensors"]


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.randn(100)}, {})
    content = path.read_bytes()
    for size in (0, 4, 20, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"a\.safetensors is truncated") as caught:
            load_tensors(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"no tensors at all, but some text", b"\xff" * 64])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a safetensors file"):
        load_tensors(path)


def test_absent_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_tensors(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="expected a safetensors file"):
        load_tensors(tmp_path)
