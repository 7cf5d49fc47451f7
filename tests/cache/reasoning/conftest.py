"""Three nodes for what is kept on a replicated cache."""

from tests.cache.cluster.conftest import nodes as nodes  # noqa: PLC0414 - a fixture is passed on
from tests.cache.cluster.conftest import three_servers as three_servers  # noqa: PLC0414
