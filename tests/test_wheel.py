"""The built wheel, installed in an environment of its own, works from an empty folder."""

import importlib.util
import os
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # links: setuptools leaves a build folder beside what it builds
    source = folder / "source"
    source.mkdir()
    for name in ("compressor", "configs", "pyproject.toml", "setup.py", "README.md"):
        os.symlink(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(folder)]
    # without setuptools at hand pip fetches one into an environment for the build
    if importlib.util.find_spec("setuptools") is not None:
        command.append("--no-build-isolation")
    subprocess.run([*command, str(source)], check=True, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory) -> Path:
    """compress-run in a new environment that sees this one's packages, but not this project."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    base = {"base": str(folder), "platbase": str(folder)}
    # plain paths: the outer folder's own .pth files, an editable install's among them, stay unread
    outer = Path(sysconfig.get_path("purelib", vars=base)) / "outer.pth"
    outer.write_text("\n".join(outer_packages()) + "\n")
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--no-deps", "--force-reinstall", "--quiet"]
    subprocess.run([*install, str(wheel)], check=True, timeout=300)
    return folder / "bin" / "compress-run"


def outer_packages() -> list[str]:
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return list(dict.fromkeys(paths))


def answer(command: Path, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(command), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_yaml_file_travels_in_the_wheel(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".yaml")}
    assert packed == {f"compressor/{name}" for name in CONFIGS}


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"compressor"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "compressor").rglob("*.py")}
    assert modules <= set(names)


def test_the_installed_command_reads_its_own_files(command, tmp_path):
    done = answer(command, "--cfg", "job", "prune.ratio=0.25", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ratio: 0.25" in done.stdout
    page = answer(command, "--help", folder=tmp_path).stdout
    assert "thinet*" in page and "resnet50" in page
    code = "import compressor; print(compressor.__file__)"
    where = answer(command.with_name("python"), "-c", code, folder=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(command.parents[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["compress-report", "compress-cache"])
def test_the_other_commands_are_installed_too(command, name, tmp_path):
    page = answer(command.with_name(name), "--help", folder=tmp_path)
    assert page.returncode == 0 and name in page.stdout
    refused = answer(command.with_name(name), "--nonsense", folder=tmp_path)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr


def test_the_installed_command_refuses_a_misspelt_option(command, tmp_path):
    done = answer(command, "prune=thinnet", folder=tmp_path)
    assert done.returncode == 2
    assert "did you mean prune=thinet?" in done.stderr


@pytest.fixture
def user_folder(tmp_path) -> Path:
    (tmp_path / "conf" / "prune").mkdir(parents=True)
    (tmp_path / "conf" / "prune" / "mine.yaml").write_text(
        "defaults: [_base]\n_target_: mine.Mine\nknob: 3\n"
    )
    return tmp_path


@pytest.mark.parametrize("flags", [["--config-dir", "conf"], ["hydra.searchpath=[conf]"]])
def test_a_users_file_joins_the_installed_ones(command, user_folder, flags):
    words = [*flags, "--cfg", "job", "prune=mine", "prune.knob=5"]
    done = answer(command, *words, folder=user_folder)
    assert done.returncode == 0, done.stderr
    assert "knob: 5" in done.stdout and "ratio: 0.5" in done.stdout


def test_a_users_own_primary_file_can_stand_on_the_installed_ones(command, user_folder):
    (user_folder / "own").mkdir()
    (user_folder / "own" / "small.yaml").write_text(
        "defaults: [run, _self_]\nseed: 5\nhydra:\n  searchpath: [pkg://compressor.configs]\n"
    )
    flags = ["--config-path", str(user_folder / "own"), "--config-name", "small"]
    done = answer(command, *flags, "--cfg", "job", "prune=apoz", folder=user_folder)
    assert done.returncode == 0, done.stderr
    assert "seed: 5" in done.stdout and "APoZ" in done.stdout
