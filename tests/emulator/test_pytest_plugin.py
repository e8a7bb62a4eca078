"""The pytest plugin in a separate pytest process, and the examples of ``docs/guides/test-dags.md``."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from airflow_provider_sim.emulator import SimEmulator
from airflow_provider_sim.emulator.server import DEFAULT_API_KEY
from scripts import local_airflow

TEXT = (Path(__file__).parents[2] / "docs" / "guides" / "test-dags.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = {re.match(r"# (\S+\.py)\n", code)[1]: code for code in BLOCKS}


PLUGIN = 'pytest_plugins = ["airflow_provider_sim.emulator.pytest_plugin"]'


@pytest.fixture
def write(pytester):
    """Write examples of the page to the directory of the inner pytest."""

    def write(*names: str) -> None:
        for name in names:
            path = pytester.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(FILES[name])

    return write


def test_page_has_the_expected_example_files():
    assert sorted(FILES) == [
        "dags/finished_runs.py",
        "dags/letters.py",
        "dags/payments.py",
        "tests/conftest.py",
        "tests/test_finished_runs.py",
        "tests/test_letters.py",
        "tests/test_payments.py",
        "tests/test_servers.py",
    ]


def test_attributes_in_the_table_exist(emulator):
    table = TEXT[TEXT.index("## The fixture") :]
    listed = [cell for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for cell in re.findall(r"`(\w+)", row)]
    assert len(listed) > 10
    assert [name for name in listed if not hasattr(emulator, name)] == []


@pytest.mark.parametrize("settings", [{}, {"password": "another"}])
def test_fixture_sets_the_connection(emulator, settings):
    from airflow_provider_sim.hooks.sim import SimHook

    os.environ["AIRFLOW_CONN_SIM_DEFAULT"] = emulator.connection(**settings)  # the fixture restores it
    fine, _ = SimHook().test_connection()
    assert fine is not bool(settings)


@pytest.mark.slow
def test_fixture_resets_one_server_per_session(pytester):
    pytester.makeconftest(PLUGIN)
    pytester.makepyfile(
        """
        import os, pytest, requests

        seen = []

        @pytest.mark.parametrize("time", [1, 2])
        def test_it(sim_emulator, time):
            sim_emulator.workflow("own")(dict) if time == 1 else None
            assert ("own" in sim_emulator.state.workflows) is (time == 1)
            assert sim_emulator.requests == []
            requests.get(sim_emulator.url, timeout=5)
            assert len(sim_emulator.requests) == 1
            seen.append(sim_emulator.url)

        def test_same_server_and_no_connection():
            assert len(seen) == 2 and len(set(seen)) == 1
            assert "AIRFLOW_CONN_SIM_DEFAULT" not in os.environ

        @pytest.mark.sim_emulator(api_key="another-key", conn_id="elsewhere")
        def test_another(sim_emulator):
            assert sim_emulator.api_key == "another-key" and sim_emulator.url not in seen
            assert sim_emulator.url in os.environ["AIRFLOW_CONN_ELSEWHERE"]
            assert "AIRFLOW_CONN_SIM_DEFAULT" not in os.environ
        """
    )
    pytester.runpytest_subprocess("--strict-markers", "-p", "no:xdist").assert_outcomes(passed=4)


@pytest.mark.slow
def test_invalid_marker_argument_is_an_error(pytester):
    pytester.makeconftest(PLUGIN)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sim_emulator(profile="v9")
        def test_it(sim_emulator): ...
        """
    )
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["*ValueError: *v9*v0.8*"])


def test_plugin_has_no_entry_point():
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "pytest11" not in pyproject["project"]["entry-points"]


@pytest.mark.slow
def test_plugin_is_opt_in(pytester):
    pytester.makepyfile("def test_it(sim_emulator): ...")
    ran = pytester.runpytest_subprocess()
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["*fixture 'sim_emulator' not found*"])


@pytest.mark.slow
def test_examples_without_a_dag(pytester, write):
    write("tests/conftest.py", "tests/test_servers.py")
    pytester.runpytest_subprocess("tests/test_servers.py").assert_outcomes(passed=2)


@pytest.mark.airflow
def test_examples_with_a_dag(pytester, write, monkeypatch):
    """Run the examples on a real Airflow."""
    write(*FILES)
    home, dags = pytester.path / "airflow", pytester.path / "dags"
    own = local_airflow.environment(home, sim_url="http://unused", sim_key=DEFAULT_API_KEY, dags=dags)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert pytester.run(sys.executable, "-m", "airflow", "db", "migrate").ret == 0
    pytester.runpytest_subprocess("tests").assert_outcomes(passed=10)


def test_unknown_package_attribute_is_an_error():
    from airflow_provider_sim import emulator

    assert emulator.SimEmulator is SimEmulator
    with pytest.raises(AttributeError, match="no attribute 'Sim'"):
        _ = emulator.Sim
