"""`cache-cli serve` as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

from tests.cli.conftest import Cli
from tests.gateway.conftest import upstream as upstream  # noqa: PLC0414 - a fixture is passed on
from tests.gateway.conftest import upstream_server as upstream_server  # noqa: PLC0414
from tests.gateway.upstream import LocalUpstream


def test_it_serves_until_it_is_told_to_stop_and_tells_no_keys(upstream: LocalUpstream, data_dir: Path) -> None:
    argv = [sys.executable, "-W", "error", "-m", "cache_management.cli", "serve", "--port=0"]
    argv += [f"--upstream={upstream.url}", "--exact-only"]
    env = {**os.environ, "CACHE_URL": "memory://"}
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
            assert address, line
            body = json.dumps({"model": "gpt-x", "messages": [{"role": "user", "content": "private words"}]})
            labels = []
            for _ in range(2):
                headers = {"Authorization": "Bearer sk-private", "Content-Type": "application/json"}
                asked = Request(f"{address.group()}/chat/completions", data=body.encode(), headers=headers)
                with urlopen(asked) as answer:
                    labels.append(answer.headers["x-cache"])
            process.send_signal(signal.SIGTERM)
            code = process.wait(20)
            said = process.stderr.read()
        finally:
            process.kill()

    assert labels == ["miss", "hit-exact"]
    assert code == 0, said
    assert "private" not in line + said
    assert said == ""


def test_an_address_that_is_none_is_refused(cli: Cli) -> None:
    found = cli("serve", "--upstream", "api.openai.com")

    assert found.code == 2
    assert "serve.upstream" in found.err
