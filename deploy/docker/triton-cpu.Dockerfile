# Triton with the transformers engine, for machines without a GPU: the tritonserver of the wheel nvidia-pytriton, our
# engines, and the public sentence encoder. Build with `make images`.

ARG BASE=docker.io/library/debian:bookworm-slim

# Triton starts its model processes by bash, and they load Python's shared library: this image keeps Debian's root.
FROM ${BASE} AS debian
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 libpython3.11 \
    && rm -rf /var/lib/apt/lists/*

FROM debian AS builder
ARG SOURCE_DATE_EPOCH=0
# Where the CPU build of torch is, if the index that pip is set to has another one:
# https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_EXTRA_INDEX_URL=${TORCH_INDEX}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*
RUN ["/usr/bin/python3", "-m", "venv", "/opt/build"]
RUN ["/usr/bin/python3", "-m", "venv", "--without-pip", "/opt/evalfleet/venv"]

FROM builder AS wheels
WORKDIR /build
COPY README.md LICENSE pyproject.toml ./
COPY clients/python clients/python
COPY services services
RUN ["/opt/build/bin/pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "/wheels", "./clients/python", "."]
COPY --from=debian /var/lib/dpkg/status /wheels/debian/

FROM builder AS packages
WORKDIR /build
COPY requirements requirements
COPY pyproject.toml ./
COPY clients/python/pyproject.toml clients/python/
COPY deploy/docker/image_contents.py deploy/docker/install_packages.py deploy/docker/sbom.py \
    deploy/docker/unneeded_files.py deploy/docker/
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "third-party", "triton-cpu"]
COPY --from=wheels /wheels /wheels
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "own", "triton-cpu"]

FROM debian AS triton-cpu
ARG BASE
LABEL org.opencontainers.image.title="evalfleet/triton-cpu" \
    org.opencontainers.image.description="Triton Inference Server with EvalFleet's engines, for CPUs" \
    org.opencontainers.image.vendor="EvalFleet" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="${BASE}" \
    dev.evalfleet.sbom.format="CycloneDX 1.6" \
    dev.evalfleet.sbom.path="/opt/evalfleet/sbom.cdx.json"
COPY --from=packages /opt/evalfleet /opt/evalfleet
# Behind what changes: buildah takes a label's step from its cache although the argument in it is another.
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# A new volume takes the owner of the folder that it is mounted on.
RUN ["install", "--directory", "--owner=64900", "--group=64900", "/var/lib/evalfleet", "/run/evalfleet", "/models"]
ENV PATH=/opt/evalfleet/venv/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    EVALFLEET_STATE_DIR=/var/lib/evalfleet \
    EVALFLEET_LOG_FORMAT=json
USER 64900:64900
WORKDIR /var/lib/evalfleet
STOPSIGNAL SIGTERM
CMD ["python", "-m", "services.inference"]
