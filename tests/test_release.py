"""Checks of what is published."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from airflow_provider_sim import __version__
from scripts import check_dist
from scripts.readme_hook import linked

NAME = f"airflow_provider_sim-{__version__}"


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](docs/index.md)", "[a](https://x/blob/v1/docs/index.md)"),
        ("![b](docs/images/b.png)", "![b](https://x/blob/v1/docs/images/b.png)"),
        ("[c](https://y/z) [d](#e) [f](mailto:g@h)", "[c](https://y/z) [d](#e) [f](mailto:g@h)"),
    ],
)
def test_relative_links_of_the_readme_become_absolute(link, expected):
    assert linked(link, "https://x/blob/v1") == expected


def test_incomplete_wheel_and_sdist_are_reported(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / f"{NAME}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{NAME}.dist-info/entry_points.txt", "")
        wheel.writestr(f"{NAME}.dist-info/METADATA", f"Name: airflow-provider-sim\nVersion: {__version__}\n")
        wheel.writestr("tests/test_a.py", "")
    with tarfile.open(tmp_path / f"{NAME}.tar.gz", "w:gz") as sdist:
        sdist.addfile(tarfile.TarInfo(f"{NAME}/README.md"), io.BytesIO())
    assert check_dist.main(["--dist", str(tmp_path), "--release", "v0.0.0"]) == 1
    printed = capsys.readouterr().out
    for problem in (
        "the wheel has tests/test_a.py",
        "the wheel has no airflow_provider_sim/py.typed",
        "the wheel has no airflow_provider_sim/operators/sim.py",
        f"the wheel has no {NAME}.dist-info/licenses/LICENSE",
        "the wheel has no entry point",
        "the sdist has no LICENSE",
        "[project.urls] of pyproject.toml has no Source",
        "the tag v0.0.0 is not",
    ):
        assert problem in printed
    assert "the sdist has no README.md" not in printed


def test_missing_files_are_reported(tmp_path, capsys):
    assert check_dist.main(["--dist", str(tmp_path)]) == 1
    assert "dist/ has no airflow_provider_sim" in capsys.readouterr().out
