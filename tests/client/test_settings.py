"""Settings that can't work are refused before anything is sent."""

from __future__ import annotations

import pytest

from airflow_provider_sim.client.retry import RetryPolicy
from airflow_provider_sim.client.settings import ClientSettings
from airflow_provider_sim.exceptions import SimConfigurationError, SimConnectionError, SimRateLimitError

KEY = "sk-sim-a-key-that-nobody-may-see"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"api_key": ""}, "no API key.*password field or SIM_API_KEY"),
        ({"api_key": None}, "no API key"),
        ({"api_key": " \n"}, "no API key"),
        ({"api_key": f"{KEY}\n{KEY}"}, "line break, a space"),
        ({"api_key": f"{KEY} {KEY}"}, "line break, a space"),
        ({"api_key": f"{KEY}\u200b"}, "another character"),
        ({"base_url": "sim.example.com"}, "not an http or https URL"),
        ({"base_url": "ftp://sim.example.com"}, "not an http or https URL"),
        ({"base_url": ""}, "not an http or https URL"),
        ({"base_url": "http://"}, "not an http or https URL"),
        ({"base_url": "http://sim.example.com:port"}, "host or port is invalid"),
        ({"base_url": "http://[::1"}, "host or port is invalid"),
        ({"base_url": "http://me:secret@sim.example.com"}, "user name or password"),
        ({"base_url": "http://me:secret@sim.example.com:port"}, "host or port is invalid"),
        ({"base_url": f"http://sim.example.com:{KEY}"}, "host or port is invalid"),
        ({"base_url": f"http://sim.example.com?key={KEY}"}, "query or fragment"),
        ({"base_url": KEY}, "not an http or https URL"),
        ({"base_url": f"https://{KEY}"}, "API key in the base URL"),
        ({"base_url": "http://sim.example.com?x=1"}, "query or fragment"),
        ({"base_url": "http://sim.example.com/#top"}, "query or fragment"),
        ({"base_url": "http://sim example.com"}, "not an http or https URL"),
        ({"base_url": 7}, "not a string"),
        ({"api_version": "v3"}, "auto, v2, legacy"),
        ({"timeout": 0}, "seconds above 0"),
        ({"timeout": "soon"}, "seconds above 0"),
        ({"timeout": float("nan")}, "seconds above 0"),
        ({"verify": ""}, "CA bundle"),
        ({"verify": None}, "CA bundle"),
    ],
)
def test_invalid_settings_are_rejected(settings, words):
    with pytest.raises(SimConfigurationError, match=words) as caught:
        ClientSettings(**{"api_key": KEY, **settings})
    assert KEY not in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(SimConfigurationError, match=r"^Connection 'sim_prod' has "):
        ClientSettings(**{"api_key": KEY, "connection": "sim_prod", **settings})


def test_whitespace_around_the_key_is_removed():
    assert ClientSettings(f" {KEY}\r\n").api_key == KEY


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://www.sim.ai/", "https://www.sim.ai"),
        (" https://sim.example.com/prefix// ", "https://sim.example.com/prefix"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_base_url_is_normalized(given, kept):
    assert ClientSettings(KEY, given).base_url == kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_retries", -1),
        ("max_retries", "3"),
        ("initial_delay", -0.1),
        ("max_delay", None),
        ("backoff_multiplier", 0.5),
        ("jitter", float("nan")),
        ("max_elapsed", True),
    ],
)
def test_invalid_retry_settings_are_rejected(name, value):
    with pytest.raises(SimConfigurationError, match=name):
        RetryPolicy(**{name: value})


def test_retry_delay_doubles_to_its_limit_with_jitter():
    policy, error = RetryPolicy(), SimConnectionError("x")
    assert [policy.delay(error, n, chance=lambda: 0.5) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert policy.delay(error, 1, chance=lambda: 0.0) == 0.75
    assert policy.delay(error, 1, chance=lambda: 1.0) == 1.25
    assert policy.delay(error, 10_000, chance=lambda: 0.5) == 30


def test_retry_delay_starts_at_the_default_wait():
    policy = RetryPolicy()
    full = SimRateLimitError("x", default_wait=20.0)
    assert [policy.delay(full, n, chance=lambda: 0.5) for n in (1, 2, 3)] == [20, 30, 30]
    assert sum(policy.delay(full, n, chance=lambda: 0.0) for n in (1, 2, 3)) >= 60, "when Sim fills the bucket"
    assert RetryPolicy(max_delay=2.0).delay(full, 1, chance=lambda: 0.5) == 2, "as the author wants it"


def test_retry_delay_is_at_least_retry_after():
    policy, error = RetryPolicy(max_delay=2), SimRateLimitError("x", retry_after=42)
    assert policy.delay(error, 1, chance=lambda: 0.0) == 42
    assert policy.delay(error, 1, chance=lambda: 1.0) == 42 * 1.25


def test_retry_defaults_equal_the_sdk_defaults():
    policy = RetryPolicy()
    assert (policy.max_retries, policy.initial_delay, policy.max_delay) == (3, 1.0, 30.0)
    assert (policy.backoff_multiplier, policy.jitter) == (2.0, 0.25)
