"""One frozen Settings: defaults, then what is running, the YAML file, `CACHE_*`, explicit arguments.

The later wins. Unknown keys are errors that suggest the nearest known one. `CACHE_<KEY>_FILE` names a file that holds
the value of `CACHE_<KEY>`: a secret then stands neither in the environment nor on a command line.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from cache_management.cache.cluster.addresses import check_nodes
from cache_management.cache.config import (
    CacheConfig,
    EmbeddingModel,
    MeaningConfig,
    ReplicationConfig,
    SimilarityConfig,
    SizeBytes,
    default_data_dir,
)
from cache_management.cache.errors import ConfigurationError
from cache_management.cache.identity import check_namespace
from cache_management.cache.redact import hide_passwords

DEFAULT_FILE = Path("cache_config.yaml")
ENV_PREFIX = "CACHE_"
_FILE_LIMIT_BYTES = 1_000_000
_IN_FILE = "_FILE"
LISTS = frozenset({"nodes", "gates_off"})
"""Settings, by the last part of their name, that hold several texts; in one line with commas between."""
_BROKER_SCHEMES = ("redis", "rediss", "redis+socket", "memory")  # memory: within one process, for tests
_METADATA_SCHEMES = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg", "postgres")
_NOT_SETTINGS = {"CACHE_CONFIG", "CACHE_CELERY_CONFIG", "CACHE_READY_FILE"}

_TABLES = {"prices": "model names and dollars", "tenants": "digests of keys and namespaces"}

Source = Literal["default", "running set", "file", "environment", "argument"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DistributedSettings(_Part):
    """The replicated cache over several nodes."""

    enabled: bool = False
    nodes: tuple[str, ...] = ()
    sharding: Literal["consistent_hash", "mod_hash", "range"] = "consistent_hash"
    replicas: int = Field(default=2, ge=0, le=4)
    consistency: Literal["one", "quorum", "all"] = "quorum"
    max_outage_seconds: float = Field(default=3600, gt=0, le=10**9)
    on_majority_loss: Literal["accept", "wait"] = "accept"
    degrade: Literal["refuse", "one"] = "refuse"

    def replication(self) -> ReplicationConfig:
        """Return how many copies are kept, and what is waited for."""
        return ReplicationConfig(
            replicas=self.replicas,
            consistency_level=self.consistency,
            max_outage_seconds=self.max_outage_seconds,
            on_majority_loss=self.on_majority_loss,
            degrade=self.degrade,
        )

    @model_validator(mode="after")
    def _nodes_are_enough(self) -> Self:
        if self.enabled:
            try:
                check_nodes(self.nodes, self.replication())
            except ConfigurationError as exc:
                raise ValueError(str(exc)) from None
        return self


class ProviderSettings(_Part):
    """Who answers prompts that have no answer yet, and how fast it may be asked; `rate_per_second: 0` is no limit."""

    command: str | None = Field(default=None, repr=False)
    callable: str | None = None
    timeout_seconds: float = Field(default=60.0, gt=0, le=100)
    concurrency: int = Field(default=4, ge=1, le=64)
    rate_per_second: float = Field(default=0.0, ge=0, le=100_000)
    burst: int = Field(default=1, ge=1, le=100_000)

    @model_validator(mode="after")
    def _one_answers(self) -> Self:
        if self.command and self.callable:
            raise ValueError("command and callable both answer prompts: set one of them")
        return self

    @property
    def is_set(self) -> bool:
        """Tell whether prompts without an answer can be asked."""
        return bool(self.command or self.callable)


class JobsSettings(_Part):
    """Limits of background jobs; `namespace_concurrency: 0` is no limit."""

    namespace_concurrency: int = Field(default=0, ge=0, le=1000)


class MetricsSettings(_Part):
    """The Prometheus endpoint, and the folder in which the processes of a machine count together."""

    enabled: bool = True
    port: int = Field(default=9090, ge=0, le=65535)
    path: str = "/metrics"
    folder: Path | None = None


class ServeSettings(_Part):
    """The proxy of `cache-cli serve`; `tenants` are namespaces by the SHA-256 of a caller's key."""

    host: str = "127.0.0.1"
    port: int = Field(default=8800, ge=0, le=65535)
    upstream: str = "https://api.openai.com"
    anthropic_upstream: str = "https://api.anthropic.com"
    upstream_key: SecretStr | None = None
    anthropic_key: SecretStr | None = None
    digest_key: SecretStr | None = None
    tenants: dict[str, str] = Field(default_factory=dict)
    allow_namespaces: bool = False
    ignored_headers: list[str] = Field(default_factory=list)
    hosts: list[str] = Field(default_factory=list)
    body_limit: SizeBytes = 20 * 10**6
    timeout_seconds: float = Field(default=600.0, gt=0, le=86_400)
    concurrency: int = Field(default=256, ge=1, le=100_000)
    drain_seconds: float = Field(default=30.0, ge=0, le=3600)

    @field_validator("upstream", "anthropic_upstream")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an address such as https://api.openai.com")
        return value.rstrip("/").removesuffix("/v1").rstrip("/")

    @field_validator("ignored_headers", "hosts")
    @classmethod
    def _are_names(cls, value: list[str]) -> list[str]:
        for name in value:
            if re.fullmatch(r"[A-Za-z0-9._-]{1,253}", name) is None:
                raise ValueError(f"must be names, which {name[:40]!r} is not")
        return [name.lower() for name in value]

    @field_validator("tenants")
    @classmethod
    def _are_digests(cls, value: dict[str, str]) -> dict[str, str]:
        for digest, namespace in value.items():
            if re.fullmatch(r"[0-9a-fA-F]{64}", digest) is None:
                raise ValueError("names callers by the SHA-256 of their key: printf %s KEY | sha256sum")
            check_namespace(namespace)
        return value

    @field_validator("upstream_key", "anthropic_key", "digest_key")
    @classmethod
    def _is_one_line(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (not value.get_secret_value().isascii() or not value.get_secret_value().isprintable()):
            raise ValueError("must be one line of printable ASCII")
        return value


class LoggingSettings(_Part):
    """What is logged, and where to; `file: null` is standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    file: Path | None = None


class Settings(CacheConfig):
    """Everything that can be set. The cache's own keys are those of CacheConfig."""

    data_dir: Path = Field(default_factory=default_data_dir)
    metadata_url: str = Field(default="", repr=False)
    broker_url: str | None = Field(default=None, repr=False)

    embedding_model: EmbeddingModel | str = Field(default=EmbeddingModel.MINILM, union_mode="left_to_right")
    similarity_threshold: float = Field(default=0.85, ge=-1.0, le=1.0)
    cache_embeddings: bool = True
    semantic: MeaningConfig = MeaningConfig()

    distributed: DistributedSettings = DistributedSettings()
    provider: ProviderSettings = ProviderSettings()
    prices: dict[str, Annotated[float, Field(ge=0, le=1_000_000)]] = Field(default_factory=dict)
    jobs: JobsSettings = JobsSettings()
    metrics: MetricsSettings = MetricsSettings()
    serve: ServeSettings = ServeSettings()
    logging: LoggingSettings = LoggingSettings()

    @field_validator("broker_url")
    @classmethod
    def _broker_is_known(cls, value: str | None) -> str | None:
        if value:
            _check_scheme(value, _BROKER_SCHEMES, "a standalone Redis or Valkey as redis://host:6379/0 or rediss://…")
        return value

    @field_validator("metadata_url")
    @classmethod
    def _database_is_known(cls, value: str) -> str:
        if value:
            _check_scheme(
                value, _METADATA_SCHEMES, "postgresql://user@host/database or sqlite:////path/metadata.sqlite"
            )
        return value

    @model_validator(mode="after")
    def _entries_have_one_place(self) -> Self:
        if self.distributed.enabled and self.url:
            raise ValueError("url and distributed.enabled both say where entries are kept: leave one of them out")
        return self

    @model_validator(mode="before")
    @classmethod
    def _place_data(cls, data: Any) -> Any:
        """Put what has no place of its own below `data_dir`."""
        if not isinstance(data, dict):
            return data
        folder = Path(data.get("data_dir") or default_data_dir()).expanduser()
        placed = {
            "data_dir": folder,
            "disk_path": folder / "cache",
            "metadata_url": f"sqlite:///{folder.absolute() / 'metadata.sqlite'}",
        }
        return placed | {
            key: value for key, value in data.items() if key != "data_dir" and (value is not None or key not in placed)
        }

    @property
    def metrics_folder(self) -> Path | None:
        """Return where the processes of this machine count; None when they do not."""
        return (self.metrics.folder or self.data_dir / "metrics") if self.metrics.enabled else None

    def similarity(self) -> SimilarityConfig:
        """Return the part that compares meaning."""
        return SimilarityConfig(
            model=self.embedding_model,
            threshold=self.similarity_threshold,
            cache_embeddings=self.cache_embeddings,
            namespace=self.namespace,
            folder=self.data_dir / "vectors",
            **self.semantic.model_dump(),
        )


def _check_scheme(url: str, known: Sequence[str], way_out: str) -> None:
    scheme, separator, _ = url.partition("://")
    if scheme.lower() not in known or not separator:
        said = f"{scheme}:// cannot be used" if separator else "this is no URL"  # which may be a password
        raise ValueError(f"{said}; give {way_out}")


class Loaded(BaseModel):
    """Settings, and where each key that is not a default came from."""

    model_config = ConfigDict(frozen=True)

    settings: Settings
    sources: dict[str, Source]
    file: Path | None


def load_settings(
    file: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    running: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read the settings.

    Args:
        file: Must exist when given. Else `CACHE_CONFIG`, else ./cache_config.yaml if it is there.
        env: Replaces the process's environment.
        running: What a running embedded set offers, such as its broker_url.
        arguments: Explicit values; None means not given.

    Raises:
        ConfigurationError: Names the key, the bad value and the fix.
    """
    env = os.environ if env is None else env
    path = _find_file(file, env)
    text = None
    if path is not None:
        from cache_management.settings_file import read_text  # a program without a file needs no YAML

        text = read_text(path)
    return _load(path, text, env=env, running=running, arguments=arguments)


def check_text(text: str, *, path: Path) -> Loaded:
    """Read the text of a configuration file alone, without the environment.

    Raises:
        ConfigurationError: Names each key, the bad value and the fix; they are its `problems`, too.
    """
    return _load(path, text, env={})


def _load(
    path: Path | None,
    text: str | None,
    *,
    env: Mapping[str, str],
    running: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Loaded:
    in_file: dict[str, Any] = {}
    lines: Mapping[tuple[str, ...], int] = {}
    if text is not None:
        from cache_management.settings_file import read_written

        in_file, lines = read_written(text, where=str(path))
    known, unknown = _known_part(in_file, Settings)
    layers: list[tuple[Source, dict[str, Any]]] = [
        ("running set", dict(running or {})),
        ("file", known),
        ("environment", _read_env(env)),
        ("argument", {key: value for key, value in (arguments or {}).items() if value is not None}),
    ]
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for source, layer in layers:
        for key, value in _leaves(layer):
            _put(values, key, value)
            sources[".".join(key)] = source
    # A backend that is named later overrides an url that was given earlier, not only the other way round.
    order = [source for source, _ in layers]
    if "url" in sources and "backend" in sources and order.index(sources["backend"]) > order.index(sources["url"]):
        del values["url"], sources["url"]
    settings = None
    try:
        settings = Settings(**values)
    except ConfigurationError as exc:
        unknown += exc.problems or [("", str(exc))]
    if settings is None or unknown:
        raise _refusal(unknown, path, lines, sources)
    return Loaded(settings=settings, sources=sources, file=path)


class Problem(NamedTuple):
    """Something that is wrong in a configuration: the key, "" for all of it, and the line if it stands in a file."""

    key: str
    line: int | None
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class WrongSettings(ConfigurationError):
    """A configuration of which something is wrong; the message has a line for each of it."""

    def __init__(self, where: str, found: Sequence[Problem]) -> None:
        first = found[0]
        if len(found) == 1:
            super().__init__(f"{where}, {first}" if first.line else f"{where}: {first}")
        else:
            super().__init__("\n  ".join([f"{where} has {len(found)} problems:", *map(str, found)]))
        self.found = tuple(found)


def _refusal(
    problems: Sequence[tuple[str, str]],
    path: Path | None,
    lines: Mapping[tuple[str, ...], int],
    sources: Mapping[str, Source],
) -> WrongSettings:
    found = []
    for key, words in problems:
        text = hide_passwords(words)
        named = tuple((key or text.partition(":")[0]).split("."))
        if sources.get(key) == "environment":
            found.append(Problem(key, None, f"{variable_of(named)} in the environment: {text}"))
            continue
        while named and named not in lines:  # an item of a list has no line of its own
            named = named[:-1]
        found.append(Problem(key, lines.get(named), text))
    found.sort(key=lambda problem: problem.line or 0)
    return WrongSettings(str(path) if path else "the configuration", found)


def variable_of(key: Sequence[str]) -> str:
    """Return the environment variable of a setting, given by the parts of its name."""
    return ENV_PREFIX + "__".join(key).upper()


def setting_names() -> list[str]:
    """Return every key that can be set, nested ones with dots, in the order of the table."""
    return [".".join(key) for key in _known_leaves(Settings)]


def _find_file(file: Path | None, env: Mapping[str, str]) -> Path | None:
    if file is None and env.get("CACHE_CONFIG"):
        file = Path(env["CACHE_CONFIG"])
    if file is not None:
        if not file.exists():
            raise ConfigurationError(f"the configuration file {file} does not exist; create it or leave out -c")
        return _plain_file(file)
    if DEFAULT_FILE.is_symlink() and not DEFAULT_FILE.exists():
        raise ConfigurationError(f"the configuration file {DEFAULT_FILE} is a link to nothing; mend or remove it")
    return _plain_file(DEFAULT_FILE) if DEFAULT_FILE.exists() else None


def _plain_file(path: Path) -> Path:
    if path.is_dir():
        raise ConfigurationError(f"the configuration file {path} is a folder; name a file, or remove it")
    if not path.is_file():
        raise ConfigurationError(f"the configuration file {path} is no plain file, and it is read more than once")
    return path


def _read_env(env: Mapping[str, str]) -> dict[str, Any]:
    """Read `CACHE_*`. A name that is near a known one is taken for a mistake; others belong to somebody else."""
    known = {variable_of(key): key for key in _known_leaves(Settings)}
    # A setting of its own that ends so, as `encryption_keys_file` does, stays what it is.
    in_files = {name + _IN_FILE: name for name in known if name + _IN_FILE not in known}
    found: dict[str, Any] = {}
    given: dict[str, str] = {}
    for name, value in sorted(env.items()):
        if not name.startswith(ENV_PREFIX) or name in _NOT_SETTINGS:
            continue
        plain = in_files.get(name.upper(), name.upper())
        key = known.get(plain)
        if key is None:
            near = difflib.get_close_matches(name, [*known, *in_files], n=1, cutoff=0.87)
            if near:
                raise ConfigurationError(f"the environment variable {name} is unknown; did you mean {near[0]}?")
            continue
        if plain != name.upper() and not value.strip():
            continue
        if plain in given:
            raise ConfigurationError(f"{given[plain]} and {name} both say what {'.'.join(key)} is: leave one out")
        given[plain] = name
        _put(found, key, _env_value(key, value) if plain == name.upper() else _value_in_file(name, key, Path(value)))
    return found


def _value_in_file(variable: str, key: tuple[str, ...], path: Path) -> Any:
    """Read the value of a setting from a file; a line's end behind it is no part of it."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT_BYTES + 1)
        text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as exc:
        raise ConfigurationError(f"{variable}: {path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{variable}: {path} is not UTF-8 at byte {exc.start}") from None
    if len(data) > _FILE_LIMIT_BYTES:
        raise ConfigurationError(f"{variable}: {path} has more than 1 MB; it holds one value")
    if not text.strip():
        raise ConfigurationError(f"{variable}: {path} is empty; put the value there, or unset {variable}")
    # What is written there is meant: "none" may be a password.
    return _listed(key, text)


def _env_value(key: tuple[str, ...], value: str) -> Any:
    return None if value.strip().lower() in {"", "null", "none"} else _listed(key, value)


def _listed(key: tuple[str, ...], value: str) -> Any:
    """Take apart what is more than one value."""
    if key[-1] in _TABLES:
        try:
            return json.loads(value)
        except ValueError:
            name = ENV_PREFIX + "__".join(key).upper()
            raise ConfigurationError(f"{name} is no JSON object of {_TABLES[key[-1]]}") from None
    if key[-1] in LISTS:
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _known_part(
    data: Mapping[str, Any], model: type[BaseModel], above: str = ""
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return what is known of the keys in a file, and what is wrong with the others."""
    known: dict[str, Any] = {}
    wrong: list[tuple[str, str]] = []
    for key, value in data.items():
        field = model.model_fields.get(key)
        if field is None:
            wrong.append((above + key, _unknown(above, key)))
            continue
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if not isinstance(value, dict):
                wrong.append(
                    (above + key, f"{above}{key} needs keys below it, such as {next(iter(inner.model_fields))}")
                )
                continue
            known[key], below = _known_part(value, inner, f"{above}{key}.")
            wrong += below
        else:
            known[key] = value
    return known, wrong


def _unknown(above: str, key: str) -> str:
    near = _nearest(above, key)
    hint = f"did you mean {near}?" if near else "`cache-cli config show` lists the keys"
    return f"unknown key {above}{key}; {hint}"


def check_key(name: str) -> tuple[str, ...]:
    """Return the parts of a setting's name, such as `logging.level`.

    Raises:
        ConfigurationError: There is no such setting; suggests the nearest.
    """
    names = setting_names()
    if name in names:
        return tuple(name.split("."))
    below = [each for each in names if each.startswith(f"{name}.")]
    if below:
        raise ConfigurationError(f"{name} is a group: set one of {', '.join(below)}")
    above, _, last = name.rpartition(".")
    raise ConfigurationError(_unknown(f"{above}." if above else "", last))


def _nearest(above: str, key: str) -> str | None:
    """Return the setting that an unknown one may mean: written nearly so, or else one that shares a word with it."""
    settings = [".".join(name) for name in _known_leaves(Settings)]
    last = {name.rpartition(".")[2]: name for name in reversed(settings)}
    # As in the environment, where everything begins so.
    bare = key.lower().removeprefix(ENV_PREFIX.lower())
    if bare in last or bare.replace("__", ".") in settings:
        return last.get(bare, bare.replace("__", "."))
    words = set(bare.split("_"))
    akin = [name for name in settings if words & set(name.rpartition(".")[2].split("_"))]
    near = difflib.get_close_matches(above + key, settings, n=1) or difflib.get_close_matches(bare, last, n=1) or akin
    return last.get(near[0], near[0]) if near else None


def _known_leaves(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _known_leaves(inner, (*above, name))
        else:
            yield (*above, name)


def _leaves(data: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _put(values: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    for part in key[:-1]:
        values = values.setdefault(part, {})
    values[key[-1]] = value
