import subprocess
import sys

import pytest

import lipogram.llm


def test_the_package_imports_neither_torch_nor_transformers():
    code = "import sys, lipogram.llm; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_every_name_is_there():
    for name in lipogram.llm.__all__:
        assert getattr(lipogram.llm, name) is not None
    with pytest.raises(AttributeError, match=r"lipogram\.llm.*utils"):
        _ = lipogram.llm.utils
