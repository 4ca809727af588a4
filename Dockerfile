# The platform in one image: for `docker compose up`, and for every pod of a RayService (`tidemill manifests`).
#   docker build -t registry.example.com/tidemill:0.1.0 .
# Your own models go on top:
#   FROM registry.example.com/tidemill:0.1.0
#   COPY my_model.py /models/
FROM python:3.11-slim AS build
# Some dependencies have no wheel for every machine.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# Of pyproject.toml, separated by commas: embedded brings a Redis, demo the flights, traces what sends traces.
ARG EXTRAS=""
# PyTorch's builds for CPUs; empty takes PyPI's, which bring CUDA.
ARG TORCH_INDEX="https://download.pytorch.org/whl/cpu"
WORKDIR /source
COPY . .
# The versions are within pyproject.toml's ranges.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --disable-pip-version-check --prefix=/installed \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.11-slim
# KubeRay starts Ray through a login shell, which knows /usr/local/bin and nothing of a virtual environment.
COPY --from=build /installed /usr/local
# A number, because Kubernetes must see that it is not root.
RUN groupadd --gid 10001 tidemill && useradd --uid 10001 --gid 10001 --create-home tidemill \
 && mkdir -p /models /data && chown tidemill:tidemill /data
ENV PYTHONPATH=/models \
    PYTHONUNBUFFERED=1 \
    TIDEMILL_HOME=/data \
    TIDEMILL_LOG_FORMAT=json
WORKDIR /models
USER 10001:10001
EXPOSE 8000
VOLUME /data
# For `docker run` and compose; KubeRay has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=3m --retries=3 \
    CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8000/readyz', timeout=4).raise_for_status()"]
CMD ["tidemill", "up", "--host", "0.0.0.0"]
