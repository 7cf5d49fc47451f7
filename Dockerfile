# Two images of one program: `light` for everything but the queue embed, and `embed`, which holds the model.
#   docker build --target light --tag cache-management:0.1.0-light .
#   docker build --target embed --tag cache-management:0.1.0-embed .
# Both have the versions of constraints.txt and no compiler, and run as an account without rights.
ARG PYTHON=python:3.11.17-slim-trixie

FROM ${PYTHON} AS source
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
RUN python -m venv /opt/cache
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY cache_management ./cache_management

FROM source AS light-built
RUN /opt/cache/bin/pip install --constraint constraints.txt '.[redis,workers,postgres,monitoring,encryption]' flower

FROM source AS embed-built
RUN /opt/cache/bin/pip install --constraint constraints.txt '.[redis,workers,postgres,monitoring,encryption,onnx]'

# torch is needed once, to write the model for ONNX Runtime, and stays behind. `--build-arg PIP_EXTRA_INDEX_URL=...` of an
# index with builds of torch for processors alone spares some gigabytes here.
FROM embed-built AS exported
ARG PIP_EXTRA_INDEX_URL
RUN /opt/cache/bin/pip install --constraint constraints.txt '.[semantic]' \
    && /opt/cache/bin/python -m cache_management.cache.embeddings.onnx_export all-MiniLM-L6-v2 /models \
    && chmod -R a+rX /models

FROM ${PYTHON} AS ground
# The folders are volumes in docker-compose.yml, which take their owner from here.
RUN groupadd --system --gid 10001 cache \
    && useradd --system --uid 10001 --gid cache --no-log-init --no-create-home --home-dir /var/lib/cache --shell /usr/sbin/nologin cache \
    && install --directory --owner=cache --group=cache --mode=0700 /var/lib/cache /var/lib/flower /exports /metrics
ENV PATH=/opt/cache/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CACHE_DATA_DIR=/var/lib/cache \
    CACHE_READY_FILE=/tmp/ready
WORKDIR /var/lib/cache
USER 10001:10001
# What a worker wants: half a minute for what is under way. Scheduler, exporter and Flower are stopped with SIGTERM.
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s CMD ["sh", "-c", "kill -0 \"$(cat \"$CACHE_READY_FILE\")\""]
ENTRYPOINT ["cache-cli"]
CMD ["--help"]

FROM ground AS embed
COPY --from=embed-built /opt/cache /opt/cache
COPY --from=exported /models /opt/share/cache_management/models
ENV XDG_DATA_HOME=/opt/share

# The last one, for whoever names no target.
FROM ground AS light
COPY --from=light-built /opt/cache /opt/cache
