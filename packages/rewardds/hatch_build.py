"""Build hook: inside the checkout, `lipogram` is taken from the checkout.

The metadata names `lipogram` with a version range, which is what a published file must say. A wheel
that is built in the checkout, as `pip install packages/NAME` does, names the folder beside it
instead. A source distribution has no such folder, and a wheel built from one keeps the range.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet


class SharedFromCheckout(BuildHookInterface):
    """Rewrites requirements on `lipogram` to the checkout's `shared` folder."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before the wheel's metadata is written; an sdist is left alone."""
        root = Path(self.root).resolve()
        shared = root.parents[1] / "shared"
        from_sdist = (root / "PKG-INFO").exists()
        if self.target_name != "wheel" or from_sdist or not (shared / "pyproject.toml").is_file():
            return
        core = self.metadata.core
        for requirements in (core.dependencies, *core.optional_dependencies.values()):
            requirements[:] = [located(text, shared.as_uri()) for text in requirements]


def located(text: str, uri: str) -> str:
    """The requirement with its range replaced by `uri`, extras and markers kept."""
    requirement = Requirement(text)
    if requirement.name != "lipogram":
        return text
    requirement.specifier, requirement.url = SpecifierSet(), uri
    return str(requirement)
