import sys
import warnings

import pytest

from lipogram import errors
from lipogram.console import run_command


@pytest.fixture
def ended(monkeypatch, capsys):
    """Exit code and stderr of a command that raises what is given."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(error, *arguments):
        def app():
            raise error

        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        with pytest.raises(SystemExit) as stopped:
            run_command(app)
        return stopped.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CorruptState("torn"), 1),
        (errors.UnsafeCheckpoint("a pickle"), 1),
        (OSError("disk"), 1),
        (errors.InvalidSetting("window"), 2),
        (errors.InvalidProbes("line 3"), 2),
        (errors.IncompatiblePair("depth", 2, 3), 2),
        (errors.MissingAsset("weights"), 3),
        (errors.ModelNotFound("nowhere"), 3),
        (errors.MissingExtra("peft", "pip install peft"), 3),
        (errors.NothingMeasurable("all excluded"), 3),
        (errors.IdenticalModels("the same"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(ended, error, code):
    found, said = ended(error)
    assert found == code
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_message_of_several_lines_is_one_line(ended):
    _, said = ended(errors.InvalidSetting("first\n  second"))
    assert said == "error: first second\n"


@pytest.mark.parametrize(
    ("error", "arguments"), [(TypeError("bug"), ()), (errors.InvalidSetting("x"), ("--debug",))]
)
def test_bugs_and_debug_show_the_traceback(monkeypatch, error, arguments):
    def app():
        raise error

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(type(error)):
        run_command(app)
