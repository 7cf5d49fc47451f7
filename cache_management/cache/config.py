"""Configuration of the parts, and the enums that choose between them."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cache_management.cache.errors import ConfigurationError

_HUNDRED_YEARS = 100 * 366 * 24 * 3600  # what every store can still count in milliseconds
GATE_NAMES = (
    *("number", "unit", "id", "symbol", "date", "entity", "polarity", "direction", "action", "question", "destructive"),
    *("freshness", "principal", "variant", "tense", "edited"),
)
NAMESPACE_PATTERN = r"[A-Za-z0-9_.\-]{1,64}"


_CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
_SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_PORT = 26379


class CacheBackend(StrEnum):
    """Where entries are kept."""

    MEMORY = "memory"
    DISK = "disk"
    REDIS = "redis"


class EvictionPolicy(StrEnum):
    """What goes first when a cache is full; see docs/design/0005-eviction.md."""

    LRU = "lru"
    LFU = "lfu"
    TTL = "ttl"
    S3FIFO = "s3fifo"
    GDSF = "gdsf"
    AUTO = "auto"


class EvictionObjective(StrEnum):
    """What `EvictionPolicy.AUTO` aims at."""

    HIT_RATIO = "hit_ratio"
    BALANCED = "balanced"
    MONEY = "money"


class ShardingStrategy(StrEnum):
    """How a cluster's slots are given to its nodes; what each moves when nodes change is in `cluster/slots.py`."""

    CONSISTENT_HASH = "consistent_hash"
    MOD_HASH = "mod_hash"
    RANGE = "range"


class EmbeddingModel(StrEnum):
    """The embedding models of the reference; any sentence-transformers name or folder works too."""

    MINILM = "all-MiniLM-L6-v2"
    MPNET = "all-mpnet-base-v2"
    DISTILBERT = "distilbert-base-nli-mean-tokens"


_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*$", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_size(value: object) -> object:
    """Read `10GB`, `512 MiB` or a number as bytes; leave anything else for the type check.

    Raises:
        ValueError: The text is no size.
    """
    if not isinstance(value, str):
        return value
    found = _SIZE.match(value)
    if found is None:
        raise ValueError(f"{value!r} is no size; write bytes or a unit, as in 500MB or 10GiB")
    number, unit = found.groups()
    return int(float(number) * _UNITS[unit.lower().rstrip("b")])


SizeBytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def parse_policy(value: object) -> object:
    """Read the name of a policy; let a policy of one's own through: an import path, a class or an object.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, str):
        if value in list(EvictionPolicy):
            return EvictionPolicy(value)
        if _IMPORT_PATH.fullmatch(value):
            return value
    elif callable(value) or all(hasattr(value, name) for name in ("on_insert", "on_hit", "on_remove", "victim")):
        return value
    raise ValueError(
        "take 's3fifo', 'gdsf', 'auto', 'lru', 'lfu' or 'ttl', or package.module:Name of a policy of your own"
    )


def _shown_policy(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "__qualname__", type(value).__name__)


# Any, because an evictor may stand here too, and `eviction` lies above this module.
_Policy = Annotated[Any, BeforeValidator(parse_policy), PlainSerializer(_shown_policy, when_used="json")]


def default_data_dir() -> Path:
    """Return the folder where an embedded set-up keeps its data."""
    import platformdirs

    return Path(platformdirs.user_data_dir("cache_management"))


def explain_validation(error: ValidationError, *, what: str) -> str:
    """Turn pydantic's report into lines that name the key, the bad value and the rule."""
    lines = [line if key else f"{what}: {line}" for key, line in problems_of(error)]
    return f"{what} is not valid:\n  " + "\n  ".join(lines)


def problems_of(error: ValidationError) -> list[tuple[str, str]]:
    """Return each key of pydantic's report ("" for the whole), and a line with it, the bad value and the rule."""
    found = []
    for detail in error.errors(include_url=False):
        key = ".".join(str(part) for part in detail["loc"])
        value = detail.get("input")
        shown = "" if not key or isinstance(value, dict) or is_secret(key) else f" (got {_shorten(repr(value))})"
        words = detail["msg"].removeprefix("Value error, ") + shown
        found.append((key, f"{key}: {words}" if key else words))
    return found


def is_secret(key: str) -> bool:
    """Tell by its name whether a value may hold what nobody should see."""
    # Not every "token": `token_count` is no secret, and its bad value must be seen.
    return key.endswith("token") or any(
        word in key for word in ("password", "secret", "url", "encryption_keys", "command")
    )


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


class _Config(BaseModel):
    """Frozen, strict about names, and plain about what is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as exc:
            text = explain_validation(exc, what=type(self).__name__)
            raise ConfigurationError(text, problems=problems_of(exc)) from None


class CacheConfig(_Config):
    """Where and how long a cache keeps its entries.

    `url` says the same as the separate fields in one line and wins over them:
    `memory://`, `disk:///path`, `redis://[user:password@]host:port/db`, `rediss://…`,
    `unix:///path/to.sock?db=0`, `redis+cluster://[user:password@]host:port[,host:port...]`, `rediss+cluster://…`,
    `redis+sentinel://[user:password@]host:port[,host:port...]/name[/db]`, `rediss+sentinel://…`.
    """

    backend: CacheBackend = CacheBackend.DISK
    url: str | None = Field(default=None, repr=False)
    namespace: str = Field(default="default", pattern=f"^{NAMESPACE_PATTERN}$")

    redis_host: str = "localhost"
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_db: int = Field(default=0, ge=0)
    redis_username: str | None = None
    redis_password: SecretStr | None = None
    redis_ssl: bool = False

    ttl_seconds: int | None = 3600
    max_size: int = Field(default=10_000, gt=0)
    max_entry_bytes: SizeBytes = 64 * 2**20
    memory_limit: SizeBytes | None = None
    near_max_size: int = Field(default=0, ge=0)
    near_memory_limit: SizeBytes = 64 * 2**20
    eviction_policy: _Policy = EvictionPolicy.LRU
    eviction_objective: EvictionObjective = EvictionObjective.HIT_RATIO
    eviction_cost_weight: float = Field(default=1.0, ge=0, le=1)

    redis_memory_limit: SizeBytes | None = None
    eviction_high_watermark: float = Field(default=0.9, gt=0, le=1)
    eviction_low_watermark: float = Field(default=0.8, gt=0, lt=1)

    disk_path: Path = Field(default_factory=lambda: default_data_dir() / "cache")
    disk_size_limit: SizeBytes = 10 * 10**9

    stale_while_revalidate_seconds: float = Field(default=0, ge=0, le=_HUNDRED_YEARS)
    stale_if_error_seconds: float = Field(default=0, ge=0, le=_HUNDRED_YEARS)
    early_refresh_beta: float = Field(default=1.0, ge=0, le=1000)
    ttl_jitter: float = Field(default=0.0, ge=0, lt=1)

    encryption_keys: SecretStr | None = None
    encryption_keys_file: Path | None = None

    timeout_seconds: float = Field(default=0.25, gt=0, le=3600)
    strict: bool = False
    usage_interval_seconds: float = Field(default=10.0, ge=0, le=3600)

    @field_validator("eviction_policy")
    @classmethod
    def _shared_stores_know_the_policy(cls, value: Any, info: ValidationInfo) -> Any:
        backend = info.data.get("backend")
        if backend is not CacheBackend.MEMORY and not isinstance(value, EvictionPolicy):
            raise ValueError(
                f"the {backend} backend knows lru, lfu, ttl, s3fifo, gdsf and auto; your own works with backend: memory"
            )
        return value

    @model_validator(mode="after")
    def _low_lies_below_high(self) -> Self:
        low, high = self.eviction_low_watermark, self.eviction_high_watermark
        if low >= high:
            raise ValueError(
                f"eviction_low_watermark ({low}) must lie below eviction_high_watermark ({high}); set both"
            )
        return self

    @field_validator("near_max_size")
    @classmethod
    def _near_stands_before_something(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("backend") is CacheBackend.MEMORY:
            raise ValueError("the memory backend needs no memory in front of it; leave it at 0")
        return value

    @field_validator("ttl_seconds")
    @classmethod
    def _ttl_means_something(cls, value: int | None) -> int | None:
        return check_ttl(value)

    @model_validator(mode="before")
    @classmethod
    def _read_url(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not data.get("url"):
            return data
        try:
            return {**data, **_parts_of_url(str(data["url"]))}
        except ValueError as exc:
            raise ValueError(f"url: {exc}") from None

    @model_validator(mode="after")
    def _cluster_has_no_numbered_databases(self) -> Self:
        if self.is_cluster and self.redis_db:
            raise ValueError(f"a Redis Cluster has database 0 only, and redis_db is {self.redis_db}; leave it out")
        if self.is_cluster and self.redis_memory_limit is not None:
            raise ValueError(
                "redis_memory_limit is for a single server; the nodes of a Redis Cluster evict by themselves: "
                "set maxmemory and maxmemory-policy on each"
            )
        return self

    def with_eviction_policy(self, policy: object) -> Self:
        """Return the same with another eviction policy.

        Raises:
            ConfigurationError: There is no such policy, or this store cannot follow it.
        """
        try:
            parsed = parse_policy(policy)
        except ValueError as exc:
            raise ConfigurationError(f"eviction_policy: {exc} (got {policy!r:.80})") from None
        if not isinstance(parsed, EvictionPolicy) and self.backend is not CacheBackend.MEMORY:
            raise ConfigurationError("a policy of your own works in memory only: take one of EvictionPolicy")
        return self.model_copy(update={"eviction_policy": parsed})

    @property
    def is_cluster(self) -> bool:
        """Tell whether the store is a Redis Cluster."""
        return self.url is not None and urlsplit(self.url).scheme in _CLUSTER_SCHEMES

    @property
    def cluster_nodes(self) -> list[tuple[str, int]]:
        """Return the hosts and ports by which a Redis Cluster is found, as the url names them."""
        return _places(urlsplit(self.url)) if self.url is not None and self.is_cluster else []

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        """Return the hosts and ports of Sentinels, as the url names them."""
        parts = urlsplit(self.url or "")
        return _places(parts, _SENTINEL_PORT) if parts.scheme in _SENTINEL_SCHEMES else []

    @classmethod
    def from_url(cls, url: str, **rest: Any) -> Self:
        """Build a configuration from one line."""
        return cls(url=url, **rest)


def check_ttl(value: int | None) -> int | None:
    """Return a usable TTL: None (the default), -1 (never expires) or positive seconds.

    Raises:
        ValueError: The value is no number, 0, below -1, or over a hundred years.
    """
    if value is None:
        return None
    # Not a number is neither -1 nor between the bounds.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value == -1 or 0 < value <= _HUNDRED_YEARS):
        raise ValueError("must be positive seconds up to a hundred years, -1 (never expires) or null (the default)")
    return value


def _parts_of_url(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    match parts.scheme:
        case "memory":
            return {"backend": CacheBackend.MEMORY}
        case "disk":
            if not parts.path or parts.path == "/":
                raise ValueError("a disk url needs a folder, as in disk:///var/cache/llm_cache")
            return {"backend": CacheBackend.DISK, "disk_path": Path(unquote(parts.netloc + parts.path))}
        case "redis" | "rediss":
            found: dict[str, Any] = {
                "backend": CacheBackend.REDIS,
                "redis_host": parts.hostname or "localhost",
                "redis_port": _port(parts),
                "redis_ssl": parts.scheme == "rediss",
            }
            if parts.path.strip("/"):
                if not parts.path.strip("/").isdigit():
                    raise ValueError("the path of a redis url is the database number, as in redis://host:6379/0")
                found["redis_db"] = int(parts.path.strip("/"))
            return {**found, **_credentials(parts)}
        case "redis+cluster" | "rediss+cluster":
            if parts.path.strip("/") not in {"", "0"}:
                raise ValueError("a Redis Cluster has database 0 only; end the url with the last host:port")
            if parts.query:
                raise ValueError("a redis+cluster url takes no parameters")
            return _several(parts, _places(parts))
        case "redis+sentinel" | "rediss+sentinel":
            name, _, database = parts.path.strip("/").partition("/")
            if not name or (database and not database.isdigit()):
                raise ValueError(
                    "a redis+sentinel url ends with the name that the Sentinels watch, and a database if it is not 0, "
                    "as in redis+sentinel://host:26379,host:26379/mymaster/0"
                )
            return {**_several(parts, _places(parts, _SENTINEL_PORT)), "redis_db": int(database or 0)}
        case "unix":
            return {"backend": CacheBackend.REDIS}
        case scheme:
            raise ValueError(
                f"the scheme {scheme!r} is unknown; use memory://, disk:///path, redis://, rediss://, "
                "redis+cluster://, redis+sentinel:// (with TLS rediss+cluster://, rediss+sentinel://) or unix://"
            )


def _credentials(parts: SplitResult) -> dict[str, str]:
    given = {"redis_username": parts.username, "redis_password": parts.password}
    return {name: unquote(value) for name, value in given.items() if value}


def _several(parts: SplitResult, places: list[tuple[str, int]]) -> dict[str, Any]:
    return {
        "backend": CacheBackend.REDIS,
        "redis_host": places[0][0],
        "redis_port": places[0][1],
        "redis_ssl": parts.scheme.startswith("rediss"),
        **_credentials(parts),
    }


def _places(parts: SplitResult, default_port: int = 6379) -> list[tuple[str, int]]:
    nodes: list[tuple[str, int]] = []
    for place in parts.netloc.rpartition("@")[2].split(","):
        # One of them is an ordinary netloc: brackets around IPv6, the default port.
        each = urlsplit(f"//{place}")
        node = (each.hostname or "", _port(each, default_port))
        if not node[0] or each.port == 0:
            raise ValueError(f"name the servers as {parts.scheme}://host:port,host:port")
        if node in nodes:
            # By its number: what stands there may be a piece of a password that was not escaped.
            raise ValueError(f"server {len(nodes) + 1} is named before; name each server once")
        nodes.append(node)
    return nodes


def _port(parts: SplitResult, default: int = 6379) -> int:
    try:
        return parts.port or default
    except ValueError:
        # Python's own message quotes what stands there, which may be half of a password.
        raise ValueError("the port is a number up to 65535; write / in a password as %2F") from None


class MeaningConfig(BaseModel):
    """How meaning is compared, beside the model, its threshold and its place; see SimilarityConfig."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    previous_model: EmbeddingModel | str | None = Field(default=None, union_mode="left_to_right")
    engine: Literal["auto", "onnx", "torch"] = "auto"
    device: str | None = None
    gates_off: tuple[str, ...] = ()
    fresh_seconds: float = Field(default=3600, ge=0, le=_HUNDRED_YEARS)
    conversations: Literal["linked", "strict", "off"] = "linked"
    embed_timeout_seconds: float = Field(default=1.0, gt=0, le=3600)
    mode: Literal["static", "verified", "shadow"] | None = None
    max_error_rate: float | None = Field(default=None, gt=0, lt=1)
    recheck_rate: float = Field(default=0.05, ge=0, le=1)
    index_url: SecretStr | None = None

    @field_validator("gates_off")
    @classmethod
    def _gates_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = next((name for name in value if name not in GATE_NAMES), None)
        if unknown is not None:
            raise ValueError(f"there is no gate {unknown!r}; the gates are {', '.join(GATE_NAMES)}")
        return value

    @property
    def budget(self) -> float:
        """Return the share of wrong answers that is allowed, 2 % where nobody says."""
        return self.max_error_rate or 0.02

    @property
    def serves(self) -> Literal["static", "verified", "shadow"]:
        """Return the mode: a budget alone asks for "verified"."""
        return self.mode or ("static" if self.max_error_rate is None else "verified")


class SimilarityConfig(MeaningConfig, _Config):
    """How meaning is compared.

    `model` is one of `EmbeddingModel`, another sentence-transformers name, or a folder. `engine` runs it: ONNX
    Runtime, torch, or `auto`, whichever is there; `device` is torch's, such as "cuda". While entries are embedded anew
    after a change of the model, `previous_model` finds those that are not yet; with an error budget it serves none.

    `threshold` is a cosine similarity, -1 to 1, taken literally. `gates_off` names gates that shall not
    refuse. What depends on the day (a current price) is served for `fresh_seconds`. Earlier
    turns of a conversation must be answered by the same entries (`linked`), be the same
    (`strict`), or not be there at all (`off`). A text that is not embedded within
    `embed_timeout_seconds` is asked without meaning.

    `max_error_rate` is an error budget: of the answers found by meaning, at most this share may be
    wrong, and none is served before enough is known (`mode` "verified"). `recheck_rate` of those served are
    computed again to see. In `mode` "shadow" none is served, and what would have been is counted; "static" serves by
    threshold and gates alone.

    A `second_opinion` of the manager is asked about what would be served at a similarity below `sure_from`, and refuses
    when nothing comes within `opinion_timeout_seconds`.

    In `folder` vectors of texts are kept for other processes and later starts (`cache_embeddings`), and the index for
    a fast one; None keeps neither. `index_url` is a PostgreSQL with pgvector, which all processes share, in the place
    of an index in each of them.
    """

    model: EmbeddingModel | str = Field(default=EmbeddingModel.MINILM, union_mode="left_to_right")
    threshold: float = Field(default=0.85, ge=-1.0, le=1.0)
    cache_embeddings: bool = True
    namespace: str = Field(default="default", pattern=f"^{NAMESPACE_PATTERN}$")
    sure_from: float = Field(default=0.95, ge=-1.0, le=1.0)
    opinion_timeout_seconds: float = Field(default=1.0, gt=0, le=3600)
    folder: Path | None = None


class ReplicationConfig(_Config):
    """How many copies a cluster keeps, and how many nodes must agree.

    `replicas` are the copies beside the first: 2 means three copies. A quorum is a majority of a slot's voters. With
    one replica a third node votes, and keeps what one of the two missed: a majority of two would be both.

    `consistency_level` "one" takes the first answer: what was acknowledged can be lost with a node, and what is read
    can be old. "quorum" outlives the loss of a node; "all" waits for every voter, and fails while one is away.

    A node that was away longer than `max_outage_seconds` comes back empty; deleted entries are remembered as long. When
    most voters of a slot lost their data, "accept" goes on with what the others hold and says so in an event; "wait"
    refuses that slot until an operator decides. With fewer nodes than voters a cluster is refused, unless `degrade` is
    "one": then it starts, with the promises of consistency "one".
    """

    replicas: int = Field(default=2, ge=0, le=4)
    consistency_level: Literal["one", "quorum", "all"] = "quorum"
    max_outage_seconds: float = Field(default=3600, gt=0, le=_HUNDRED_YEARS)
    on_majority_loss: Literal["accept", "wait"] = "accept"
    degrade: Literal["refuse", "one"] = "refuse"

    @property
    def copies(self) -> int:
        """Return how many nodes keep an entry's data."""
        return self.replicas + 1

    @property
    def voters(self) -> int:
        """Return how many nodes vote on an entry: those with its data, and with one replica a third."""
        return 3 if self.replicas == 1 else self.copies

    @property
    def quorum(self) -> int:
        """Return how many voters are a majority."""
        return self.voters // 2 + 1
