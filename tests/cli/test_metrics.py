"""cache-cli metrics, printed and served."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Cli
from tests.scraping import free_port, scrape
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _without_broker(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that refuses at once."""
    monkeypatch.setenv("CACHE_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")


def test_they_are_printed_for_prometheus_and_for_scripts(cli: Cli) -> None:
    cli("db", "upgrade")

    text, as_json, as_yaml = cli("metrics"), cli("metrics", "-f", "json"), cli("metrics", "-f", "yaml")

    assert (text.code, as_json.code, as_yaml.code) == (0, 0, 0)
    assert "# TYPE cache_job_items_total counter\n" in text.out
    assert "cache_broker_up 0.0\n" in text.out
    assert (as_json.data["cache_jobs_up"], as_json.data["cache_broker_up"]) == (1, 0)
    assert yaml.safe_load(as_yaml.out) == as_json.data == cli("metrics", "--json").data


def test_a_database_without_tables_is_said_and_none_is_made(cli: Cli, data_dir: Path) -> None:
    found = cli("metrics", "--json")

    assert (found.code, found.data) == (
        0,
        {
            "cache_jobs_up": 0,
            "cache_broker_up": 0,
            "cache_store_up": 1,
            "cache_store_used_bytes": 0,
            "cache_store_limit_bytes": 10_000_000_000,
        },
    )


def test_a_format_is_for_printing_only(cli: Cli) -> None:
    assert cli("metrics", "--serve", "-f", "json").code == 2


def test_a_port_that_is_taken_is_named(cli: Cli) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        found = cli("metrics", "--port", port)

    assert (found.code, f"127.0.0.1:{port}: Address already in use" in found.err) == (2, True)


def test_they_are_served_on_their_path_until_stopped(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("db", "upgrade")
    port = free_port()
    monkeypatch.setenv("CACHE_METRICS__PATH", "/told")
    process = subprocess.Popen(
        [sys.executable, "-m", "cache_management.cli", "metrics", "--port", str(port)],
        stderr=subprocess.PIPE,
        env=dict(os.environ),
        text=True,
    )
    with process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline().startswith(f"Metrics are at http://127.0.0.1:{port}/told,")

            assert "cache_jobs_up 1.0" in scrape(f"http://127.0.0.1:{port}/told")
            assert '"status":"ok"' in scrape(f"http://127.0.0.1:{port}/healthz")
            with pytest.raises(urllib.error.HTTPError, match="503") as unready:
                scrape(f"http://127.0.0.1:{port}/readyz")
            assert b"the broker" in unready.value.read()
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                scrape(f"http://127.0.0.1:{port}/metrics")
            unready.value.close()
            refused.value.close()
        finally:
            process.terminate()
        wait_until(lambda: process.poll() is not None)
        assert process.returncode == 0
