# The thin services: one stage, and one image, for each, which holds what that service needs and nothing else.
# Debian's Python stands on an empty root: no shell, no package manager, no torch. Build with `make images`.

# Give a digest (debian:bookworm-slim@sha256:…) for a build that can be repeated.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS debian
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv ca-certificates binutils libstdc++6 \
    && rm -rf /var/lib/apt/lists/*

FROM debian AS root
COPY deploy/docker/root_files.py /build/
RUN ["/usr/bin/python3", "/build/root_files.py", "/rootfs"]

FROM debian AS builder
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN ["/usr/bin/python3", "-m", "venv", "/opt/build"]
RUN ["/usr/bin/python3", "-m", "venv", "--without-pip", "/opt/evalfleet/venv"]

FROM builder AS wheels
WORKDIR /build
COPY README.md LICENSE pyproject.toml ./
COPY clients/python clients/python
COPY services services
RUN ["/opt/build/bin/pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "/wheels", "./clients/python", "."]
COPY --from=root /rootfs/var/lib/dpkg/status.d /wheels/debian

FROM builder AS requirements
WORKDIR /build
COPY requirements requirements
COPY pyproject.toml ./
COPY clients/python/pyproject.toml clients/python/
COPY deploy/docker/image_contents.py deploy/docker/install_packages.py deploy/docker/sbom.py \
    deploy/docker/unneeded_files.py deploy/docker/unneeded_files.txt deploy/docker/

FROM requirements AS generation-packages
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "third-party", "generation"]
COPY --from=wheels /wheels /wheels
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "own", "generation"]

FROM requirements AS safety-packages
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "third-party", "safety"]
COPY --from=wheels /wheels /wheels
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "own", "safety"]

FROM requirements AS safety-ngrams-packages
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "third-party", "safety-ngrams"]
COPY --from=wheels /wheels /wheels
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "own", "safety-ngrams"]

FROM requirements AS scoring-packages
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "third-party", "scoring"]
COPY --from=wheels /wheels /wheels
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "own", "scoring"]

FROM requirements AS aggregation-packages
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "third-party", "aggregation"]
COPY --from=wheels /wheels /wheels
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "own", "aggregation"]

FROM requirements AS evaluation-packages
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "third-party", "evaluation"]
COPY --from=wheels /wheels /wheels
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "own", "evaluation"]

FROM requirements AS dashboard-packages
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "third-party", "dashboard"]
COPY --from=wheels /wheels /wheels
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "own", "dashboard"]

FROM requirements AS code-runner-packages
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "third-party", "code-runner"]
COPY --from=wheels /wheels /wheels
RUN ["/opt/build/bin/python", "-m", "deploy.docker.install_packages", "own", "code-runner"]
# Python for the programs of models: made by root, so that the service cannot change it.
RUN ["/opt/evalfleet/venv/bin/python", "-m", "services.sandbox.runtime_root", "/opt/evalfleet/sandbox"]

FROM scratch AS thin
ARG BASE
LABEL org.opencontainers.image.vendor="EvalFleet" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="${BASE}" \
    dev.evalfleet.sbom.format="CycloneDX 1.6" \
    dev.evalfleet.sbom.path="/opt/evalfleet/sbom.cdx.json"
COPY --from=root /rootfs /
ENV PATH=/opt/evalfleet/venv/bin \
    LANG=C.UTF-8 \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    EVALFLEET_STATE_DIR=/var/lib/evalfleet \
    EVALFLEET_LOG_FORMAT=json
# Numeric, so that Kubernetes can see that it is not root; the owner of the state folder.
USER 64900:64900
WORKDIR /var/lib/evalfleet
# Interpreters end with SIGTERM; services drain first.
STOPSIGNAL SIGTERM

FROM thin AS generation
LABEL org.opencontainers.image.title="evalfleet/generation" \
    org.opencontainers.image.description="Checkpoints, sampling, log-likelihoods and the generation cache"
COPY --from=generation-packages /opt/evalfleet /opt/evalfleet
# Behind what changes: buildah takes a label's step from its cache although the argument in it is another.
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
CMD ["python", "-m", "services.generation"]

FROM thin AS safety
LABEL org.opencontainers.image.title="evalfleet/safety" \
    org.opencontainers.image.description="Guards, policies and the verdict cache"
COPY --from=safety-packages /opt/evalfleet /opt/evalfleet
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
CMD ["python", "-m", "services.safety"]

FROM thin AS safety-ngrams
LABEL org.opencontainers.image.title="evalfleet/safety-ngrams" \
    org.opencontainers.image.description="Guards, policies and the verdict cache, with linear guards on n-grams"
COPY --from=safety-ngrams-packages /opt/evalfleet /opt/evalfleet
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
CMD ["python", "-m", "services.safety"]

FROM thin AS scoring
LABEL org.opencontainers.image.title="evalfleet/scoring" \
    org.opencontainers.image.description="Scorers, from exact match to judges"
COPY --from=scoring-packages /opt/evalfleet /opt/evalfleet
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
CMD ["python", "-m", "services.scoring"]

FROM thin AS aggregation
LABEL org.opencontainers.image.title="evalfleet/aggregation" \
    org.opencontainers.image.description="The ledger of results, estimates and comparisons"
COPY --from=aggregation-packages /opt/evalfleet /opt/evalfleet
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
CMD ["python", "-m", "services.aggregation"]

FROM thin AS evaluation
LABEL org.opencontainers.image.title="evalfleet/evaluation" \
    org.opencontainers.image.description="Suites, runs, budgets and stopping"
COPY --from=evaluation-packages /opt/evalfleet /opt/evalfleet
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
CMD ["python", "-m", "services.evaluation"]

FROM thin AS code-runner
LABEL org.opencontainers.image.title="evalfleet/code-runner" \
    org.opencontainers.image.description="Runs programs that models wrote, inside gVisor"
COPY --from=code-runner-packages /opt/evalfleet /opt/evalfleet
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
ENV EVALFLEET_SANDBOX=gvisor
CMD ["python", "-m", "services.code_runner"]

FROM thin AS dashboard
LABEL org.opencontainers.image.title="evalfleet/dashboard" \
    org.opencontainers.image.description="The dashboard, and the command line evalfleet"
COPY --from=dashboard-packages /opt/evalfleet /opt/evalfleet
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
CMD ["python", "-m", "services.dashboard"]
