import numpy as np
import pytest

from scidiff.arrays import npz_keys, read_npz


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(5_000), name=np.array("text"))
    return path


def test_arrays_come_back(archive):
    assert npz_keys(archive) == {"x", "name"}
    arrays = read_npz(archive)
    assert np.array_equal(arrays["x"], np.arange(5_000))
    assert str(arrays["name"]) == "text"
    assert set(read_npz(archive, keys=("x", "absent"))) == {"x"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"plain text, no archive",
        lambda content: content[:200] + bytes(40) + content[240:],
    ],
    ids=["truncated", "empty", "text", "overwritten"],
)
def test_damage_is_a_value_error_that_names_the_file(archive, damage):
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.npz is (no npz archive|damaged)"):
        read_npz(archive)


def test_single_arrays_and_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match="no npz archive"):
        read_npz(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="more than plain arrays"):
        read_npz(tmp_path / "b.npz")
    with pytest.raises(FileNotFoundError, match="no file"):
        npz_keys(tmp_path / "c.npz")
