import re
import subprocess
import sys
import tarfile
import zipfile

import pytest


@pytest.fixture(scope="module")
def dist(root, run, tools, packages, tmp_path_factory):
    """Sdists of everything, and the wheels built from these."""
    folder = tmp_path_factory.mktemp("dist")
    for source in ["shared", *(f"packages/{name}" for name in packages)]:
        flags = ["--offline", "--no-build-isolation", "--quiet", "--python", sys.executable]
        run(tools / "uv", "build", *flags, "--out-dir", folder, root / source)
    return folder


@pytest.fixture(scope="module")
def wheel_in_place(root, run, tools, tmp_path_factory):
    """The wheel of air that pip builds from a checkout: without an sdist in between."""
    folder = tmp_path_factory.mktemp("in_place")
    flags = ["--wheel", "--offline", "--no-build-isolation", "--quiet", "--python", sys.executable]
    run(tools / "uv", "build", *flags, "--out-dir", folder, root / "packages/air")
    return next(folder.glob("*.whl"))


def requirements(file):
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
            text = wheel.read(name).decode()
    else:
        with tarfile.open(file) as sdist:
            name = next(n for n in sdist.getnames() if re.fullmatch(r"[^/]+/PKG-INFO", n))
            text = sdist.extractfile(name).read().decode()
    return re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE)


def check(folder, root, *arguments):
    return subprocess.run(
        [sys.executable, root / "tools/check_dist.py", folder, *arguments],
        capture_output=True,
        text=True,
    )


def test_published_files_name_lipogram_by_version(dist, packages):
    files = [f for f in dist.iterdir() if "lipogram_" in f.name and f.suffix in (".whl", ".gz")]
    assert len(files) == 2 * len(packages)
    for file in files:
        siblings = [line for line in requirements(file) if re.match(r"lipogram\b", line)]
        assert siblings
        for line in siblings:
            assert re.match(r"lipogram(\[[a-z0-9,]+\])?<0\.2,>=0\.1( ?;.*)?$", line), line
        assert not any("file:" in line or "@" in line for line in requirements(file))


def test_files_carry_licence_types_and_tests(dist):
    with zipfile.ZipFile(next(dist.glob("lipogram_air-*.whl"))) as wheel:
        names = wheel.namelist()
    assert "air/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("test" in name for name in names)
    with tarfile.open(next(dist.glob("lipogram_air-*.tar.gz"))) as sdist:
        members = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "README.md", "hatch_build.py", "pyproject.toml"} <= members


def test_files_pass_twine_and_our_own_check(dist, root, run):
    files = [file for file in dist.iterdir() if file.suffix in (".whl", ".gz")]
    run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files)
    result = check(dist, root, "--tag", "air-v0.1.0")
    assert result.returncode == 0, result.stdout
    assert "lipogram-v0.1.0" in result.stdout


def test_wheel_built_in_the_checkout_points_at_it(wheel_in_place, root):
    place = (root / "shared").as_uri()
    # Versions of the packaging library differ by the spaces around these signs.
    lines = [re.sub(r"\s*([@;])\s*", r"\1", line) for line in requirements(wheel_in_place)]
    assert f"lipogram[analytic,cli,vision]@{place}" in lines
    assert f"lipogram[lite0]@{place};extra == 'lite0'" in lines
    assert not any(re.match(r"lipogram\b[^@]*<", line) for line in lines)


def test_check_refuses_a_wheel_that_points_at_a_checkout(wheel_in_place, root):
    result = check(wheel_in_place.parent, root)
    assert result.returncode == 1
    assert re.search(r"requires a place: lipogram\[analytic,cli,vision\] ?@ file:", result.stdout)


@pytest.mark.parametrize("tag", ["air-v0.1.1", "sea-v0.1.0", "v0.1.0"])
def test_check_refuses_a_tag_of_another_version(dist, root, tag):
    result = check(dist, root, "--tag", tag)
    assert result.returncode == 1
    assert f"tag {tag} fits none of" in result.stdout


def test_check_refuses_an_empty_folder(tmp_path, root):
    result = check(tmp_path, root)
    assert result.returncode == 1
    assert "no wheel and no sdist" in result.stdout


def test_sdist_beside_a_folder_called_shared_keeps_its_range(dist, run, tools, tmp_path):
    """An sdist that is unpacked where some `shared/` lies two levels up is not a checkout."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "pyproject.toml").write_text("[project]\nname = 'lipogram'\n")
    with tarfile.open(next(dist.glob("lipogram_air-*.tar.gz"))) as sdist:
        sdist.extractall(tmp_path / "unpacked", filter="data")
    source = next((tmp_path / "unpacked").iterdir())
    flags = ["--wheel", "--offline", "--no-build-isolation", "--quiet", "--python", sys.executable]
    run(tools / "uv", "build", *flags, "--out-dir", tmp_path / "out", source)
    lines = requirements(next((tmp_path / "out").glob("*.whl")))
    assert "lipogram[analytic,cli,vision]<0.2,>=0.1" in lines
