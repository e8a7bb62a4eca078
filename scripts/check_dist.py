"""Check the wheel and the sdist in ``dist/``: their files, and an installation of the wheel.

``--release [TAG]`` also checks what a published version needs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path

from airflow_provider_sim import __version__
from scripts.local_airflow import REPO

IN_WHEEL = ("airflow_provider_sim/py.typed", "{info}/licenses/LICENSE", "{info}/METADATA")
IN_SDIST = ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "scripts/readme_hook.py", "example_dags", "tests")
ENTRY_POINT = "[apache_airflow_provider]\nprovider_info = airflow_provider_sim.get_provider_info:get_provider_info"
IMPORT = "from airflow_provider_sim import __version__, get_provider_info; get_provider_info.get_provider_info()"


def main(arguments: list[str] | None = None) -> int:
    """Print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dist", type=Path, default=REPO / "dist")
    parser.add_argument("--release", action="store_true")
    parser.add_argument("tag", nargs="?")
    options = parser.parse_args(arguments)
    problems = [
        *_dist_problems(options.dist),
        *(_release_problems(options.dist, options.tag) if options.release else ()),
    ]
    print("\n".join(problems) or f"{__version__}: wheel and sdist are complete.")
    return 1 if problems else 0


def _dist_problems(dist: Path) -> list[str]:
    wheel, sdist = (
        dist / f"airflow_provider_sim-{__version__}-py3-none-any.whl",
        dist / f"airflow_provider_sim-{__version__}.tar.gz",
    )
    if missing := [path.name for path in (wheel, sdist) if not path.exists()]:
        return [f"dist/ has no {name}" for name in missing]
    info = f"airflow_provider_sim-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as files, tarfile.open(sdist) as archive:
        names, paths = set(files.namelist()), {name.partition("/")[2] for name in archive.getnames()}
        problems = [
            f"the wheel has no {name}" for name in (one.format(info=info) for one in IN_WHEEL) if name not in names
        ]
        problems += [
            f"the wheel has {name}"
            for name in sorted(names)
            if name.split("/")[0] not in ("airflow_provider_sim", info)
        ]
        sources = {str(path.relative_to(REPO)) for path in (REPO / "airflow_provider_sim").rglob("*.py")}
        problems += [f"the wheel has no {name}" for name in sorted(sources - names)]
        problems += [
            f"the sdist has no {one}" for one in IN_SDIST if not any(p == one or p.startswith(f"{one}/") for p in paths)
        ]
        if ENTRY_POINT not in files.read(f"{info}/entry_points.txt").decode():
            problems.append("the wheel has no entry point for Airflow")
    return problems or _installation_problems(wheel)


def _installation_problems(wheel: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        uv = [str(Path(sys.executable).with_name("uv"))]
        for command in (
            [*uv, "venv", "--quiet", "--python", sys.executable, folder],
            [*uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--python", str(python), str(wheel)],
            [str(python), "-I", "-c", IMPORT],
        ):
            ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
            if ran.returncode:
                return [f"{' '.join(command)}: {ran.stderr.strip()[-500:]}"]
    return []


def _release_problems(dist: Path, tag: str | None) -> list[str]:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as files:
        metadata = message_from_bytes(files.read(f"airflow_provider_sim-{__version__}.dist-info/METADATA"))
    urls = {url.partition(",")[0] for url in metadata.get_all("Project-URL", [])}
    problems = [
        f"[project.urls] of pyproject.toml has no {name}" for name in ("Source", "Documentation") if name not in urls
    ]
    if not re.search(
        rf"^## {re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)$", (REPO / "CHANGELOG.md").read_text(), re.MULTILINE
    ):
        problems.append(f"CHANGELOG.md has no heading '## {__version__} (YYYY-MM-DD)'")
    if tag and tag != f"v{__version__}":
        problems.append(f"the tag {tag} is not v{__version__}, the version of airflow_provider_sim/__init__.py")
    return problems


if __name__ == "__main__":
    sys.exit(main())
