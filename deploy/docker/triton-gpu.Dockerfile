# Triton with vLLM on GPUs: NVIDIA's image, and our models on top. NVIDIA's registry asks for no account for it. Build
# with `make images IMAGES=triton-gpu`, which says version, revision and time.

# 26.07 or newer: older ones have known chains to remote code execution. Give a digest for a build that can be repeated.
ARG BASE=nvcr.io/nvidia/tritonserver:26.07-vllm-python-py3

FROM ${BASE} AS wheels
WORKDIR /build
COPY README.md LICENSE pyproject.toml ./
COPY clients/python clients/python
COPY services services
RUN ["python3", "-m", "pip", "wheel", "--quiet", "--no-cache-dir", "--no-deps", "--wheel-dir", "/wheels", "./clients/python", "."]

FROM ${BASE} AS packages
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# It sees all that NVIDIA installed; what is added comes before it, and replaces nothing.
RUN ["python3", "-m", "venv", "--system-site-packages", "--without-pip", "/opt/evalfleet/venv"]
COPY requirements/triton-gpu.txt requirements/
COPY --from=wheels /wheels /wheels
RUN ["python3", "-m", "pip", "--python", "/opt/evalfleet/venv/bin/python", "install", "--quiet", "--no-deps", "--no-compile", \
    "--requirement", "requirements/triton-gpu.txt"]
RUN ["python3", "-m", "pip", "--python", "/opt/evalfleet/venv/bin/python", "install", "--quiet", "--no-deps", "--no-compile", \
    "--no-index", "--find-links", "/wheels", "evalfleet", "evalfleet-services"]
RUN ["/opt/evalfleet/venv/bin/python", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", "/opt/evalfleet/venv/lib"]
# The safety service tells Triton of its guard's head by the path that it has in its own image, of Debian's Python.
RUN ["python3", "-c", "from pathlib import Path; lib = Path('/opt/evalfleet/venv/lib'); own = next(lib.glob('python3.*')); own.name == 'python3.11' or (lib / 'python3.11').symlink_to(own.name)"]
# A base image that lacks something, or has Triton elsewhere, ends the build here.
COPY deploy/docker/sbom.py deploy/docker/check_triton.py deploy/docker/
RUN ["/opt/evalfleet/venv/bin/python", "-m", "deploy.docker.check_triton", "/opt/tritonserver"]
RUN ["/opt/evalfleet/venv/bin/python", "-m", "deploy.docker.sbom", "/opt/evalfleet/sbom.cdx.json", "triton-gpu"]

FROM ${BASE} AS triton-gpu
ARG BASE
LABEL org.opencontainers.image.title="evalfleet/triton-gpu" \
    org.opencontainers.image.description="Triton Inference Server with vLLM and EvalFleet's engines, for GPUs" \
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
# Caches of kernels that are compiled while serving go where the pod may write.
ENV PATH=/opt/evalfleet/venv/bin:${PATH} \
    LANG=C.UTF-8 \
    HOME=/tmp \
    USER=evalfleet \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    TRITON_CACHE_DIR=/tmp/triton \
    EVALFLEET_TRITON_DIR=/opt/tritonserver \
    EVALFLEET_STATE_DIR=/var/lib/evalfleet \
    EVALFLEET_LOG_FORMAT=json
USER 64900:64900
WORKDIR /var/lib/evalfleet
STOPSIGNAL SIGTERM
# NVIDIA's prints a banner by a shell script.
ENTRYPOINT []
CMD ["python", "-m", "services.inference"]
