"""What the folders and lists of an unpacked data set say, checked before anything relies on it."""

from pathlib import Path

from lipogram.errors import CorruptState, InvalidSetting, MissingAsset


def check_split(split: object) -> None:
    """Raise InvalidSetting unless a split is "train" or "test"."""
    if split not in ("train", "test"):
        raise InvalidSetting(f"split is {split!r}, it must be 'train' or 'test'")


def unpacked(folder: Path | str, base: str) -> Path:
    """``folder / base`` where an archive was unpacked inside ``folder``, else ``folder`` itself."""
    inner = Path(folder) / base
    return inner if inner.is_dir() else Path(folder)


def listed(file: Path) -> list[str]:
    """The lines of a list of a data set that are not blank.

    Raises:
        MissingAsset: the list is not there.
    """
    if not file.is_file():
        raise MissingAsset(f"{file} is not there; unpack the archive again")
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def child(root: Path, path: str) -> str:
    """A path that a list names, once it is known to be a file below ``root``.

    Raises:
        CorruptState: it leads out of ``root``, or there is no such file.
    """
    if ".." in Path(path).parts or Path(path).is_absolute() or not (root / path).is_file():
        raise CorruptState(f"{root}: a list names {path!r}, which is no file in it")
    return path
