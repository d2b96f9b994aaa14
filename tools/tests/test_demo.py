import importlib.util
import json
import sys

import pytest


@pytest.fixture
def demo(root, tmp_path, monkeypatch, capsys):
    """Runs tools/demo.py in a checkout whose packages' commands are the scripts given."""
    spec = importlib.util.spec_from_file_location("demo", root / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: tmp_path / name)
    (tmp_path / "scripts").mkdir()

    def run(*options, **scripts):
        for name, body in scripts.items():
            command = tmp_path / "scripts" / name
            command.write_text(f"#!{sys.executable}\nimport json, pathlib, sys\n{body}\n")
            command.chmod(0o755)
        code = module.main([*scripts, *options])
        return code, *capsys.readouterr()

    return run


def script(summary):
    return (
        "assert sys.argv[1:3] == ['demo', '--out']\n"
        "out = pathlib.Path(sys.argv[3]); out.mkdir(parents=True, exist_ok=True)\n"
        f"(out / 'summary.json').write_text({json.dumps(summary)!r})\n"
    )


def test_table_across_packages(demo):
    first = script({"headline": {"balanced accuracy": 0.61249, "gain": 0.04}})
    code, out, err = demo(air=first, afl=script({"headline": {"clients": 12, "off": 3.2e-14}}))
    assert code == 0, err
    rows = [line.split("│") for line in out.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row[1:4]] for row in rows]
    assert cells == [
        ["air", "balanced accuracy", "0.612"],
        ["", "gain", "0.040"],
        ["afl", "clients", "12"],
        ["", "off", "3.2e-14"],
    ]


def test_one_failure_leaves_the_others_table(demo):
    demo(air=script({"headline": {"stale": 1}}))
    code, out, err = demo(
        air="sys.exit(3)", afl=script({"headline": {"clients": 12, "off": 3.2e-14}})
    )
    assert code == 1
    assert "clients" in out
    assert "stale" not in out
    assert "air: " in err


@pytest.mark.parametrize("summary", [{}, {"headline": {}}, {"headline": 3}])
def test_demo_without_headline_fails(demo, summary):
    code, _, err = demo(air=script(summary))
    assert code == 1
    assert 'no "headline"' in err


def test_quick_leaves_out_the_long_ones_and_says_so(demo):
    quick = script({"headline": {"clients": 12}})
    code, out, err = demo("--quick", afl=quick, dpcr="sys.exit(3)")
    assert code == 0, err
    assert "left out, being long: dpcr" in out
    assert "clients" in out
