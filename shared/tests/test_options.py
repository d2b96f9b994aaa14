from dataclasses import dataclass, field

import pytest

from lipogram.errors import InvalidSetting
from lipogram.options import choice, configured, number, settings_in


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-5
    steps: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    window: int = 5
    redact: bool = False
    name: str = "aligned"
    inner: Inner | None = field(default_factory=Inner)

    def __post_init__(self):
        if self.window < 1:
            raise InvalidSetting(f"window must be >= 1, got {self.window}")


def test_defaults_and_kinds():
    assert configured(Outer, {}) == Outer()
    given = {"window": 3, "inner": {"lr": 1e-4, "steps": [4]}}
    assert configured(Outer, given) == Outer(window=3, inner=Inner(1e-4, (4,)))
    assert configured(Outer, {"inner": None}).inner is None
    lr = configured(Inner, {"lr": 1}).lr
    assert (lr, type(lr)) == (1.0, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"windows": 3}, "windows.*window"),
        ({"window": "five"}, "window.*five.*int"),
        ({"window": True}, "window"),
        ({"window": 2.5}, "window"),
        ({"redact": 1}, "redact"),
        ({"window": 0}, ">= 1, got 0"),
        ({"inner": {"lr": "fast"}}, "lr.*fast"),
        ({"inner": {"lr": True}}, "lr"),
        ({"inner": {"rate": 1}}, "rate"),
        ({"inner": 3}, "inner"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(InvalidSetting, match=message):
        configured(Outer, values)


def test_choice():
    assert choice("part", "train", ("train", "test")) == "train"
    with pytest.raises(InvalidSetting, match=r"'all'.*train, test"):
        choice("part", "all", ("train", "test"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"- 1\n- 2", "no settings"), (b"a: [1", "no YAML"), (b"\xff\xfe\x00", "no YAML")],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "s.yaml").write_bytes(content)
    with pytest.raises(InvalidSetting, match=message):
        settings_in(tmp_path / "s.yaml")


def test_numbers_without_a_point_are_numbers(tmp_path):
    (tmp_path / "s.yaml").write_text("a: 1e-5\nb: {c: [2E3, x1e3, '1e']}\nd: 1.5e-3\n")
    assert settings_in(tmp_path / "s.yaml") == {
        "a": 1e-5,
        "b": {"c": [2000.0, "x1e3", "1e"]},
        "d": 1.5e-3,
    }


def test_dashes_are_underscores_and_nothing_is_run(tmp_path):
    (tmp_path / "s.yaml").write_text("a-b: 1\n")
    assert settings_in(tmp_path / "s.yaml") == {"a_b": 1}
    (tmp_path / "s.yaml").write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(InvalidSetting):
        settings_in(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-2", -2), ("0.5", 0.5), ("1.0", 1.0), ("1e3", 1000), ("3a", "3a"), ("", "")],
)
def test_what_is_typed_is_a_number_where_it_is_one(text, value):
    found = number(text)
    assert (found, type(found)) == (value, type(value))
