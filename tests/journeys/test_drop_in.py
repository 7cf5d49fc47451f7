"""Apps as they are, one changed line each, and a page that shows at once what it brought."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.gateway.conftest import upstream as upstream  # noqa: PLC0414 - a fixture is passed on
from tests.gateway.conftest import upstream_server as upstream_server  # noqa: PLC0414
from tests.gateway.upstream import LocalUpstream
from tests.waiting import eventually

OPENAI_APP = """\
from openai import OpenAI

client = OpenAI()
for question in ("What is Python?", "What is Rust?"):
    asked = {"model": "gpt-4", "messages": [{"role": "user", "content": question}]}
    print(client.chat.completions.create(**asked).choices[0].message.content)
    with client.chat.completions.create(**asked, stream=True) as events:
        print("".join(event.choices[0].delta.content or "" for event in events if event.choices))
"""
LANGCHAIN_APP = """\
import json
from urllib.request import Request, urlopen

from langchain_core.globals import set_llm_cache
from langchain_core.language_models import LLM


class Provider(LLM):
    url: str

    @property
    def _llm_type(self):
        return "provider"

    def _call(self, prompt, stop=None, run_manager=None, **_):
        body = {"model": "own", "messages": [{"role": "user", "content": prompt}]}
        headers = {"Content-Type": "application/json"}
        answer = urlopen(Request(self.url + "/chat/completions", json.dumps(body).encode(), headers))
        return json.load(answer)["choices"][0]["message"]["content"]


# the line
model = Provider(url=URL)
for question in ("What is Go?", "What is Zig?"):
    print(model.invoke(question))
"""


@pytest.fixture
def env(redis_url: str, tmp_path: Path) -> dict[str, str]:
    """One store for all apps, which tell of their use without delay."""
    return {
        **os.environ,
        "CACHE_URL": redis_url,
        "CACHE_DATA_DIR": str(tmp_path),
        "CACHE_USAGE_INTERVAL_SECONDS": "0.1",
        "OPENAI_API_KEY": "sk-app",
    }


@pytest.fixture
def proxy(upstream: LocalUpstream, env: dict[str, str]) -> Iterator[str]:
    """The address of `cache-cli serve --dashboard`."""
    argv = [sys.executable, "-m", "cache_management.cli", "serve", "--port=0", "--dashboard", "--exact-only"]
    argv.append(f"--upstream={upstream.url}")
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stderr is not None
            address = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
            assert address
            yield address.group()
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


def run(app: str, env: dict[str, str]) -> list[str]:
    done = subprocess.run([sys.executable, "-c", app], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_two_apps_get_hits_by_one_line_each_and_the_page_shows_them(
    upstream: LocalUpstream, proxy: str, env: dict[str, str]
) -> None:
    def use() -> dict[str, Any]:
        with urlopen(f"{proxy}/api/state", timeout=20) as answer:
            day: dict[str, Any] = json.load(answer)["usage"]["day"]
        return day

    changed = OPENAI_APP.replace("OpenAI()", f'OpenAI(base_url="{proxy}/v1")')
    first, second = run(changed, env), run(changed, env)

    assert first == second
    assert first[0] == first[1] != first[2] == first[3]
    assert len(upstream.seen) == 2

    async def is_shown() -> bool:
        return (use()["exact"], use()["misses"]) == (6, 2)

    await eventually(is_shown)

    line = (
        "from cache_management.adapters.langchain import ManagedCache; "
        "from cache_management.sync import CacheManager, LLMCache; from cache_management import CacheConfig; "
        "set_llm_cache(ManagedCache(CacheManager(LLMCache(CacheConfig(url=STORE)))))"
    )
    plain = LANGCHAIN_APP.replace("URL)", repr(upstream.url) + ")").replace("STORE", repr(env["CACHE_URL"]))
    changed = plain.replace("# the line", line.replace("STORE", repr(env["CACHE_URL"])))
    first, second = run(changed, env), run(changed, env)

    assert first == second == run(plain, env)
    assert len(upstream.seen) == 2 + 2 + 2, "the app without the line asks each time"

    async def are_both_shown() -> bool:
        return (use()["exact"], use()["misses"]) == (6 + 2, 2 + 2)

    await eventually(are_both_shown)
