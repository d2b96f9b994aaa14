"""The README's example runs as it stands, on a small model that knows small facts."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(files, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for shown, meant in (
        ('"smollm2"', repr(str(files / "vanilla"))),
        ('ProbeSet.builtin("facts")', f"ProbeSet.from_jsonl({str(files / 'facts.jsonl')!r})"),
        ('preset("smollm2-facts")', 'preset("smollm2-facts", learning_rate=1e-3)'),
    ):
        assert code.count(shown) == 1
        code = code.replace(shown, meant)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README", "exec"), {})
    assert "Interval(value=" in capsys.readouterr().out
    assert Path("runs/capitals/report.html").stat().st_size > 50_000


def test_every_command_of_the_readme_is_known():
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"^ftunlearn ([a-z-]+)", text, re.MULTILINE))
    from ftunlearn.cli import app

    known = {c.name or c.callback.__name__ for c in app.registered_commands}
    assert named == known
