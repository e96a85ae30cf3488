import os
import stat
import threading

import pytest

from scidiff.files import atomic_path, check_writable


def test_atomic_path_replaces_only_on_success(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_reader_of_the_old_file_never_sees_a_mixture(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old content")
    with target.open() as reader:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old content"
    assert target.read_text() == "new"


def test_atomic_path_keeps_the_old_file_when_the_body_fails(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")

    def half_a_run():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        half_a_run()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_atomic_path_notices_that_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was written"), atomic_path(tmp_path / "a.csv"):
        pass
    assert os.listdir(tmp_path) == []


def test_atomic_path_obeys_the_umask(tmp_path):
    """A file made by open() has mode 0o666 & ~umask; an output must not be private because of a temporary name."""
    (tmp_path / "plain").write_text("x")
    with atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "out")]
    assert modes[0] == modes[1]


def test_atomic_path_follows_links_and_leaves_devices_in_place(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"

    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    with atomic_path(tmp_path / "pipe") as direct:
        direct.write_text("through")
    reader.join(5)
    assert received == ["through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_check_writable_speaks_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        check_writable(tmp_path / "file" / "out.csv")
    check_writable(tmp_path / "new" / "folder" / "out.csv")
    assert os.listdir(tmp_path / "new" / "folder") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_writable_refuses_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="no write permission"):
        check_writable(tmp_path / "a.csv")
