"""Check that built files may be published: `python tools/check_dist.py FOLDER [--tag air-v0.2.0]`.

With a tag, one of the files' distributions has to be the tagged one, in the tagged version.
"""

import argparse
import re
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path


def metadata(file: Path) -> Message:
    """The core metadata inside a wheel or sdist.

    Raises:
        ValueError: `file` is neither, or holds no metadata.
    """
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            for name in wheel.namelist():
                if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
                    return message_from_bytes(wheel.read(name))
    elif file.name.endswith(".tar.gz"):
        with tarfile.open(file) as sdist:
            for member in sdist.getmembers():
                content = sdist.extractfile(member)
                if re.fullmatch(r"[^/]+/PKG-INFO", member.name) and content is not None:
                    return message_from_bytes(content.read())
    raise ValueError(f"{file}: not a wheel or sdist with metadata")


def problems(file: Path) -> list[str]:
    """What keeps `file` from being published."""
    found = metadata(file)
    requirements = found.get_all("Requires-Dist", [])
    wrong = [f"{file.name}: requires a place: {text}" for text in requirements if "@" in text]
    siblings = [text for text in requirements if re.match(r"lipogram\b", text)]
    wrong += [f"{file.name}: no range: {text}" for text in siblings if "<" not in text]
    if found["Name"] != "lipogram" and not siblings:
        wrong.append(f"{file.name}: does not require lipogram")
    if not found.get_all("License-File"):
        wrong.append(f"{file.name}: carries no licence file")
    return wrong


def tag_of(found: Message) -> str:
    """The git tag that releases this distribution: `air-v0.2.0`, or `lipogram-v0.2.0`."""
    return f"{found['Name'].removeprefix('lipogram-')}-v{found['Version']}"


def main(arguments: list[str]) -> int:
    """Check a folder of built files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tag")
    options = parser.parse_args(arguments)
    files = sorted([*options.folder.glob("*.whl"), *options.folder.glob("*.tar.gz")])
    wrong = [line for file in files for line in problems(file)]
    tags = sorted({tag_of(metadata(file)) for file in files})
    if not files:
        wrong.append(f"{options.folder}: no wheel and no sdist")
    if options.tag and options.tag not in tags:
        wrong.append(f"tag {options.tag} fits none of: {', '.join(tags)}")
    print("\n".join(wrong) or f"publishable: {', '.join(tags)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
