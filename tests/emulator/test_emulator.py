"""The emulator as a tool: limits, workflows of one's own, controls, the command line. No client of ours takes part."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
import requests

from airflow_provider_sim.emulator import BlockError, Pausing, ResponseBlock, SimEmulator
from airflow_provider_sim.emulator.__main__ import main
from airflow_provider_sim.emulator.builtin import builtin_workflows
from airflow_provider_sim.emulator.clock import iso
from airflow_provider_sim.emulator.limits import PLANS
from airflow_provider_sim.emulator.profiles import PROFILES


def post(sim: SimEmulator, workflow_id: str, body: object = None, **headers: str) -> requests.Response:
    """Start a run on v2."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{sim.url}/api/v2/workflows/{workflow_id}/execute"
    return requests.post(url, json=body or {}, headers={"X-API-Key": sim.api_key, **names}, timeout=10)


def post_legacy(sim: SimEmulator, workflow_id: str, body: object = None, **headers: str) -> requests.Response:
    """Start a run on the legacy API."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{sim.url}/api/workflows/{workflow_id}/execute"
    return requests.post(url, json=body or {}, headers={"X-API-Key": sim.api_key, **names}, timeout=10)


def get(sim: SimEmulator, path: str, key: str | None = None) -> requests.Response:
    """Send a GET request."""
    return requests.get(sim.url + path, headers={"X-API-Key": key or sim.api_key}, timeout=10)


def error_of(answer: requests.Response) -> tuple[int, str, str]:
    """The status, code and message of a v2 error."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


class TestRealServerResponses:
    """Observed on a real Sim server, without a recording to replay."""

    @pytest.mark.parametrize(
        ("limit", "code", "message", "bound"),
        [
            (0, "too_small", "limit must be at least 1", {"minimum": 1}),
            (1000, "too_big", "limit cannot exceed 100", {"maximum": 100}),
        ],
    )
    def test_limit_out_of_range_is_rejected(self, emulator, limit, code, message, bound):
        answer = get(emulator, f"/api/v2/workflows/echo/runs?limit={limit}")
        assert error_of(answer) == (400, "BAD_REQUEST", message)
        issue = {"code": code, "path": ["limit"], "message": message, "origin": "number", "inclusive": True, **bound}
        assert answer.json()["error"]["details"] == [issue]

    @pytest.mark.parametrize("path", ["workflows/echo/runs?limit=1", "logs?workspaceId={0}&limit=1"])
    def test_cursor_of_another_order_is_rejected(self, emulator, path):
        path = "/api/v2/" + path.format(emulator.workspace_id)
        for _ in range(2):
            post(emulator, "echo")
        cursor = get(emulator, path).json()["nextCursor"]
        assert get(emulator, f"{path}&cursor={cursor}&order=desc").status_code == 200, "the default order"
        assert error_of(get(emulator, f"{path}&cursor={cursor}&order=asc")) == (
            400,
            "BAD_REQUEST",
            "cursor does not match the requested sortBy/sortOrder. Restart pagination without a cursor after changing"
            " the sort.",
        )
        assert "not a valid" in error_of(get(emulator, f"{path}&cursor={cursor}&startDate=2026-01-01T00:00:00Z"))[2]

    @pytest.mark.parametrize(
        "option", [{"selectedOutputs": ["Echo.result"]}, {"includeThinking": True}, {"includeFileBase64": False}]
    )
    def test_async_run_with_output_options_is_rejected(self, emulator, option):
        message = "Async execution does not support streaming or output-shaping options"
        assert error_of(post(emulator, "echo", {"async": True, **option})) == (400, "BAD_REQUEST", message)

    def test_request_body_above_10_mib_is_rejected(self, emulator):
        answer = post(emulator, "echo", {"input": {"message": "x" * 10_485_800}})
        assert error_of(answer) == (413, "PAYLOAD_TOO_LARGE", "Request body is too large")

    def test_response_block_without_data(self, emulator):
        data = {
            "error": "Response block execution failed",
            "message": "Cannot convert undefined or null to object",
        }
        started = post(emulator, "resp_null").json()["data"]
        polled = get(emulator, f"/api/v2/workflows/resp_null/runs/{started['runId']}?includeOutput=true").json()["data"]
        for run in (started, polled):
            assert (run["status"], run["output"]["data"], run["error"]) == ("completed", data, None)
        legacy = post_legacy(emulator, "resp_null")
        assert (legacy.status_code, legacy.json()) == (500, data)

    def test_resuming_a_sync_run(self, emulator):
        run = post(emulator, "paused").json()["data"]
        path = f"{emulator.url}/api/v2/workflows/paused/runs/{run['runId']}/resume"
        body = {"contextId": run["output"]["data"]["_resume"]["contextId"], "input": {"approved": True}}
        resumed = requests.post(path, json=body, headers={"X-API-Key": emulator.api_key}, timeout=10).json()["data"]
        assert resumed["startedAt"] == run["startedAt"]
        assert resumed["endedAt"] >= run["startedAt"]
        assert resumed["durationMs"] >= 0

    def test_missing_declared_fields(self, emulator):
        @emulator.workflow(
            "typed", inputs={"s": "string", "n": "number", "o": "object", "d": "object"}, defaults={"d": ""}
        )
        def typed(given):
            return given

        output = post(emulator, "typed", {"input": {"other": 1}}).json()["data"]["output"]
        assert output == {"s": "", "n": 0, "o": {}, "d": ""}

    def test_unpaired_surrogate_is_escaped_in_json(self, emulator):
        """Sim's JSON escapes it, in an answer and in a stream whose chunks split an emoji."""

        @emulator.workflow("split", block="Agent", chunks=lambda given: ["\ud83d", "\ude00"])
        def split(given):
            return {"content": "\ud83d", "other": "é"}

        assert post(emulator, "split").json()["data"]["output"] == {"content": "\ud83d", "other": "é"}
        body = {"stream": True, "selectedOutputs": ["Agent.content"]}
        frames = post(emulator, "split", body).text.split("\n\n")
        assert [json.loads(frame.removeprefix("data: ")).get("chunk") for frame in frames[:2]] == ["\ud83d", "\ude00"]


class TestPlans:
    """Buckets of twice the rate, refilled once a minute."""

    @pytest.mark.parametrize("name", PLANS)
    def test_execution_rate_limit(self, name):
        plan = PLANS[name]
        with SimEmulator(plan=name) as sim:
            sim.state.limits.endpoint_per_minute = sim.state.limits.endpoint_per_minute * 1000
            sim.state.limits.clear()
            sim.state.limits.per_address = False
            for _ in range(2 * plan.sync_per_minute - 2):
                sim.state.limits.sync.take()
            answers = [post(sim, "echo") for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]
            refused = answers[-1]
            assert refused.json()["error"]["details"] == {"code": "RATE_LIMIT_EXCEEDED"}
            assert 0 < int(refused.headers["retry-after"]) <= 60
            sim.clock.advance(60)
            assert sim.state.limits.sync.remaining == plan.sync_per_minute, "one minute's worth, not all of it"

    @pytest.mark.sim_emulator(plan="free")
    def test_request_rate_limit_per_operation(self, emulator):
        run_id = post(emulator, "echo").json()["data"]["runId"]
        path = f"/api/v2/workflows/echo/runs/{run_id}"
        answers = [get(emulator, path) for _ in range(61)]
        assert [answer.status_code for answer in answers] == [200] * 60 + [429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers[:2]] == ["59", "58"]
        assert answers[0].headers["x-ratelimit-limit"] == "60"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", answers[0].headers["x-ratelimit-reset"])
        assert get(emulator, "/api/v2/workspaces").status_code == 200, "another operation has another bucket"
        assert get(emulator, "/api/users/me/usage-limits").status_code == 200, "the legacy API has none"

    @pytest.mark.sim_emulator(plan="free")
    def test_concurrent_run_limit(self, emulator):
        body = {"input": {"seconds": 60}, "async": True}
        answers = [post(emulator, "slow", body) for _ in range(11)]
        assert [answer.status_code for answer in answers] == [202] * 10 + [429]
        assert answers[-1].json()["error"]["details"]["code"] == "EXECUTION_CONCURRENCY_LIMIT"
        assert answers[-1].headers["retry-after"] == "5"
        emulator.clock.advance(61)
        assert post(emulator, "slow", body).status_code == 202

    def test_v2_rate_limit_per_address(self, emulator):
        for _ in range(599):
            emulator.state.limits.address.take()
        first, second = (get(emulator, "/api/v2/workspaces") for _ in range(2))
        assert (first.status_code, second.status_code) == (200, 429)
        assert second.headers["x-ratelimit-limit"] == "600"
        assert get(emulator, "/api/users/me/usage-limits").status_code == 200, "the legacy API is not concerned"

    def test_admission_gate(self, emulator):
        emulator.state.limits.admission_gate = 1
        with emulator.hold(when="accepted") as hold:
            thread = threading.Thread(target=post, args=(emulator, "echo"))
            thread.start()
            hold.wait_until_held()
            refused = post_legacy(emulator, "echo")
        thread.join()
        assert (refused.status_code, refused.json()["code"]) == (429, "ADMISSION_GATE_CAPACITY")

    @pytest.mark.sim_emulator(plan="free")
    def test_runs_add_to_the_usage_cost(self, emulator):
        for _ in range(3):
            post(emulator, "echo")
        usage = get(emulator, "/api/users/me/usage-limits").json()["usage"]
        assert usage == {"currentPeriodCost": pytest.approx(0.015), "limit": 1.0, "plan": "free"}

    def test_unknown_plan_is_rejected(self):
        with pytest.raises(ValueError, match="free, pro, team, enterprise"):
            SimEmulator(plan="gold")


class TestRuns:
    """Runs as their callers see them."""

    def test_disconnect_cancels_a_sync_run(self, emulator):
        noticed = threading.Event()
        emulator.on_request(lambda _: noticed.set())
        with pytest.raises(requests.Timeout):
            requests.post(
                f"{emulator.url}/api/v2/workflows/slow/execute",
                json={"input": {"seconds": 60}},
                headers={"X-API-Key": emulator.api_key},
                timeout=0.2,
            )
        assert noticed.wait(30)
        assert emulator.runs[0].status == "cancelled"

    def test_queued_run_is_not_listed_and_has_no_log(self, emulator):
        emulator.state.queue_delay = 60
        run_id = post(emulator, "echo", {"async": True}).json()["data"]["runId"]
        assert get(emulator, "/api/v2/workflows/echo/runs").json()["data"] == []
        assert get(emulator, f"/api/v2/logs/{run_id}").status_code == 404
        assert get(emulator, f"/api/v2/workflows/echo/runs/{run_id}").json()["data"]["status"] == "queued"
        emulator.clock.advance(61)
        assert len(get(emulator, f"/api/v2/logs?workspaceId={emulator.workspace_id}").json()["data"]) == 1
        assert (
            get(emulator, f"/api/v2/logs/{run_id}").json()["data"]["workflow"]["workspaceId"] == emulator.workspace_id
        )

    def test_large_value_becomes_a_reference(self, emulator):
        run_id = post(emulator, "large", {"input": {"count": 9 * 1024}, "async": True}).json()["data"]["runId"]
        shown = get(emulator, f"/api/v2/workflows/large/runs/{run_id}?includeOutput=true").json()["data"]["output"]
        assert shown["result"]["blob"]["__simLargeValueRef"] is True

    def test_lost_run_stays_running_until_cleanup(self, emulator):
        post(emulator, "echo", {"async": True}, X_Run_Id="r")
        emulator.runs[0].stuck = True
        emulator.clock.advance(8 * 24 * 3600)
        path = "/api/v2/workflows/echo/runs/r"
        assert get(emulator, path).json()["data"]["status"] == "running"
        emulator.runs[0].sweep()
        told = get(emulator, path).json()["data"]
        assert (told["status"], told["error"]) == ("failed", None)
        assert "10085 minutes" in get(emulator, "/api/jobs/workflow-execution:r").json()["error"]

    @pytest.mark.parametrize("answer", [{"approved": True}, None])
    def test_answer_a_pause_in_the_ui(self, emulator, answer):
        post(emulator, "paused", {"async": True}, X_Run_Id="r")
        emulator.resume("r", answer)
        assert emulator.runs[0].status == "completed"

    def test_cancel_in_the_ui(self, emulator):
        post(emulator, "slow", {"async": True}, X_Run_Id="r")
        emulator.cancel("r")
        assert get(emulator, "/api/v2/workflows/slow/runs/r").json()["data"]["status"] == "cancelled"

    def test_timed_pause_ends(self, emulator):
        post(emulator, "waiting", {"async": True}, X_Run_Id="r")
        assert emulator.runs[0].status == "paused"
        emulator.clock.advance(61)
        assert emulator.runs[0].status == "completed"

    def test_files_are_stored_for_sync_runs_only(self, emulator):
        file = {"type": "file", "name": "a.txt", "data": "data:text/plain;base64,aGk="}
        stored = post(emulator, "file_echo", {"input": {"files": [file]}}).json()["data"]["output"]["result"]
        assert (stored[0]["size"], stored[0]["type"], stored[0]["context"]) == (2, "text/plain", "execution")
        run_id = post(emulator, "file_echo", {"input": {"files": [file]}, "async": True}).json()["data"]["runId"]
        shown = get(emulator, f"/api/jobs/workflow-execution:{run_id}").json()["output"]["output"]["result"]
        assert shown == [file], "Sim forgets to for asynchronous runs"
        broken = post(emulator, "file_echo", {"input": {"files": [{**file, "data": "data:text/plain;base64,?"}]}})
        assert (broken.status_code, "File processing failed" in broken.text) == (400, True)


class TestLists:
    """Runs in start order, one page at a time."""

    def ids(self, sim: SimEmulator, **query: object) -> tuple[list[str], str | None]:
        """The run ids of a page of the log, and the next page's cursor."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        body = get(sim, f"/api/v2/logs?workspaceId={sim.workspace_id}&{words}").json()
        return [item["runId"] for item in body["data"]], body["nextCursor"]

    def test_pages_in_both_orders_while_runs_start(self, emulator):
        for number in range(5):
            post(emulator, "echo", {"async": True}, X_Run_Id=f"r{number}")
        first, cursor = self.ids(emulator, limit=2)
        post(emulator, "echo", {"async": True}, X_Run_Id="r5")
        second, cursor = self.ids(emulator, limit=2, cursor=cursor)
        third, end = self.ids(emulator, limit=2, cursor=cursor)
        assert (first, second, third, end) == (["r4", "r3"], ["r2", "r1"], ["r0"], None)
        first, cursor = self.ids(emulator, limit=4, order="asc")
        post(emulator, "echo", {"async": True}, X_Run_Id="r6")
        assert self.ids(emulator, limit=4, order="asc", cursor=cursor) == (["r4", "r5", "r6"], None)

    def test_queued_run_is_listed_by_its_start(self, emulator):
        for run_id, emulator.state.queue_delay in (("slowly", 60), ("quickly", 0)):
            post(emulator, "echo", {"async": True}, X_Run_Id=run_id)
        emulator.clock.advance(61)
        assert self.ids(emulator, order="asc") == (["quickly", "slowly"], None)

    def test_start_and_end_date_filters(self, emulator):
        moments = []
        for number in range(3):
            post(emulator, "echo", {"async": True}, X_Run_Id=f"r{number}")
            moments.append(iso(emulator.runs[-1].started_at))
            emulator.clock.advance(10)
        assert self.ids(emulator, startDate=moments[1])[0] == ["r2", "r1"]
        assert self.ids(emulator, endDate=moments[1])[0] == ["r1", "r0"]
        assert self.ids(emulator, startDate=moments[1], endDate=moments[1])[0] == ["r1"]
        second = re.sub(r"\.\d+Z", "Z", moments[1])
        assert self.ids(emulator, startDate=second)[0] == ["r2", "r1"], "a moment without milliseconds is one, too"
        assert self.ids(emulator, startDate=moments[2], endDate=moments[0])[0] == []

    def test_page_cost_is_independent_of_the_number_of_runs(self, emulator):
        reads = []
        workflow = emulator.workflow("counted", duration=lambda _: reads.append(1) or 3600.0)
        workflow(lambda given: given)
        for _ in range(60):
            post(emulator, "counted", {"async": True})
        cost = []
        for query in ({"limit": 2}, {"limit": 2, "order": "asc"}, {"startDate": "2099-01-01T00:00:00Z"}):
            reads.clear()
            self.ids(emulator, **query)
            cost.append(len(reads))
        assert max(cost) < 60
        assert cost[2] == 0


class TestKeys:
    """API keys of two users and two workspaces."""

    def test_access_of_each_key(self, emulator):
        path = "/api/v2/workflows/echo"
        keys = [emulator.api_key, emulator.workspace_key, emulator.other_user_key, emulator.other_workspace_key, "x"]
        assert [get(emulator, path, key).status_code for key in keys] == [200, 200, 404, 404, 401]

    def test_workspace_key_cannot_deploy(self, emulator):
        url, headers = f"{emulator.url}/api/v2/workflows/echo/deploy", {"X-API-Key": emulator.workspace_key}
        assert requests.post(url, headers=headers, timeout=5).status_code == 403

    def test_recorded_requests_contain_no_key(self, emulator):
        post(emulator, "echo")
        assert emulator.api_key not in repr(emulator.requests)


class TestCustomWorkflows:
    """Workflows defined by functions and files."""

    def test_workflow_functions(self, emulator):
        @emulator.workflow("double")
        def double(given):
            return {"number": 2 * given["number"]}

        @emulator.workflow("refuse")
        def refuse(given):
            raise BlockError("no", block="Judge")

        @emulator.workflow("respond", inputs={"n": "number"})
        def respond(given):
            return ResponseBlock({"n": given["n"]}, 202)

        @emulator.workflow("ask")
        def ask(given):
            return Pausing(lambda said: {"said": said}, question="Sure?")

        assert post(emulator, "double", {"input": {"number": 4}}).json()["data"]["output"] == {"number": 8}
        assert post(emulator, "refuse").json()["data"]["error"]["blockName"] == "Judge"
        assert post_legacy(emulator, "respond", {"n": "7"}).json() == {"n": 7}
        assert post(emulator, "ask").json()["data"]["status"] == "paused"

    def test_listeners_see_starts_and_requests(self, emulator):
        seen = []
        emulator.on_start("echo", lambda run: seen.append(run.run_id))
        emulator.on_request(lambda request: seen.append(request.status))
        post(emulator, "echo", X_Run_Id="r")
        post(emulator, "echo_plain")
        assert seen == ["r", 200, 200]

    def test_clear_and_reset(self, emulator):
        emulator.workflow("mine")(lambda given: given)
        post(emulator, "mine")
        emulator.clear()
        assert (emulator.runs, emulator.requests) == ([], [])
        assert post(emulator, "mine").status_code == 200
        emulator.reset()
        assert post(emulator, "mine").status_code == 404


class TestServer:
    """Starting and stopping the server, and missing dependencies."""

    def test_stopped_server_refuses_connections(self):
        with SimEmulator() as sim:
            url = sim.url
            assert requests.get(f"{url}/api/nowhere", timeout=5).status_code == 404
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=5)

    def test_server_listens_on_localhost(self, emulator):
        assert emulator.url.startswith("http://127.0.0.1:")

    def test_unknown_profile_is_rejected(self):
        with pytest.raises(ValueError, match=r"v0\.5\.44.*v0\.8"):
            SimEmulator(profile="v9")

    @pytest.mark.parametrize("profile", PROFILES)
    def test_v2_availability_per_profile(self, profile):
        with SimEmulator(profile=profile) as sim:
            answer = post(sim, "echo")
        expected = {"v0.8": (200, "json"), "v0.8-legacy": (404, "json")}.get(profile, (404, "html"))
        assert answer.status_code == expected[0]
        assert expected[1] in answer.headers["content-type"]

    def test_missing_starlette_error_names_the_extra(self):
        code = "import sys; sys.modules['starlette'] = None; from airflow_provider_sim.emulator import SimEmulator"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert "pip install 'airflow-provider-sim[emulator]'" in ran.stderr


class TestCommandLine:
    """``python -m airflow_provider_sim.emulator``."""

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "airflow_provider_sim.emulator", *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
    def test_signal_stops_the_server(self, number):
        options = ("--profile", "v0.6.40", "--plan", "free", "--api-key", "sk-mine", "--log-requests")
        process = self.start("--port", "0", *options)
        first, *_ = iter(process.stdout.readline, "Ctrl-C stops it.\n")
        url, key = re.fullmatch(r"Sim v0\.6\.40 at (\S+)  key (\S+)\n", first).groups()
        assert key == "sk-mine"
        limits = requests.get(f"{url}/api/users/me/usage-limits", headers={"X-API-Key": key}, timeout=5).json()
        assert limits["usage"]["plan"] == "free"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0
        [logged] = err.splitlines()
        assert logged.endswith(" 200 GET /api/users/me/usage-limits")

    @pytest.mark.slow
    def test_startup_output_lists_workflows(self):
        process = self.start("--port", "0")
        first, *listed, empty = iter(process.stdout.readline, "Ctrl-C stops it.\n")
        process.terminate()
        process.communicate(timeout=20)
        assert re.fullmatch(r"Sim v0\.8 at http://127\.0\.0\.1:\d+  key sk-sim-emulator-personal-key\n", first)
        assert listed[:2] == ["\n", "Workflows:\n"]
        descriptions = dict(line.split(maxsplit=1) for line in listed[2:])
        assert descriptions == {workflow.workflow_id: f"{workflow.description}\n" for workflow in builtin_workflows()}
        assert empty == "\n"
        assert process.returncode == 0

    def test_port_in_use_is_an_error(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            process = self.start("--port", str(taken.getsockname()[1]))
            _, err = process.communicate(timeout=20)
        assert process.returncode == 1
        assert err.startswith("Can't start: ")

    def test_unknown_profile_option_is_rejected(self, capsys):
        with pytest.raises(SystemExit) as error:
            main(["--profile", "v9"])
        assert error.value.code == 2
        assert "v0.5.44" in capsys.readouterr().err


def test_emulator_does_not_import_the_client():
    """Shared code could contain the same mistake on both sides."""
    code = "import sys, airflow_provider_sim.emulator.__main__; print([n for n in sys.modules if 'sim.client' in n])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout.replace("'", '"')) == []
