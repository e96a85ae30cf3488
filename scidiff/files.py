"""Output files that appear complete or not at all: write beside the target, rename when everything is on disk."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path", "check_writable"]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success rename it to ``path``, on failure remove it.

    An existing file under ``path`` keeps its content until the rename, so a failed run never leaves a half-written
    result. The temporary name keeps the suffix, because many writers choose the format by it. Symbolic links are
    followed, and a target that is not a regular file (such as ``/dev/stdout``) is written directly.

    Args:
        path: Final name of the file; missing parent folders are created.

    Raises:
        OSError: If ``path`` cannot be written; raised before the body runs.
        FileNotFoundError: If the body succeeds without having written the temporary file.

    Example:
        >>> with atomic_path("samples.csv") as temporary:
        ...     temporary.write_text("x\n1\n")
    """
    target = check_writable(path)
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        yield target
        return
    temporary = target.with_name(f".{target.stem[:64]}.{uuid.uuid4().hex[:12]}{target.suffix}")
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(
                f"nothing was written for {str(path)!r}; its previous content, if any, is unchanged."
            )
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Resolve an output path and say now, not after an hour of work, when it cannot be written.

    Args:
        path: Name of the file to be written; missing parent folders are created.

    Returns:
        The path with symbolic links followed.

    Raises:
        IsADirectoryError: If ``path`` is a folder.
        NotADirectoryError: If a parent of ``path`` is a file.
        PermissionError: If the folder (or an existing special file) does not allow writing.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"output {str(path)!r} is a folder; give the name of a file in it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"output {str(path)!r} lies below something that is a file, not a folder.") from error
    except OSError as error:
        raise PermissionError(f"the folder of output {str(path)!r} cannot be created ({error.strerror}).") from error
    checked = target if target.exists() and not target.is_file() else target.parent
    if not os.access(checked, os.W_OK):
        raise PermissionError(f"output {str(path)!r} cannot be written: no write permission in {str(checked)!r}.")
    return target


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
