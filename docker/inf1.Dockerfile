# A server on Inferentia 1: AWS's Deep Learning Container with this kit's entrypoint instead of its own.
#
#   docker build -f docker/inf1.Dockerfile -t torchserve-neuron:inf1 docker
#
# torch, the Neuron runtime, TorchServe 0.11.0 and Java are the base's and stay as they are (docker/images.json). Its own
# entrypoint, which opens the management port and outlives TorchServe, is replaced, and so is its HEALTHCHECK.
ARG BASE=public.ecr.aws/neuron/pytorch-inference-neuron:1.13.1-neuron-py310-sdk2.20.2-ubuntu20.04

# --- Packages, in a stage of their own: pip's settings stay out of the image that serves. ---
FROM ${BASE} AS packages
USER root
# Where pip looks, as pip's own variables.
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
ARG PIP_NO_INDEX=""
ARG PIP_FIND_LINKS="/tmp/packages/wheels"
ARG PIP_ONLY_BINARY=":all:"
COPY requirements*.txt /tmp/packages/
COPY wheels /tmp/packages/wheels
# In a folder of their own, so that nothing of AWS's environment changes.
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --target /opt/torchserve-neuron/packages \
        -r /tmp/packages/requirements-signatures.txt
# What handlers of the archives need besides: "name==1.2.3 other==4.5", with all that those need.
ARG PACKAGES=""
RUN [ -z "${PACKAGES}" ] || python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
        --target /opt/torchserve-neuron/packages ${PACKAGES}

# --- The server ---
FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="torchserve-neuron inf1" \
      org.opencontainers.image.description="TorchServe with archives of torchserve-neuron, on AWS Inferentia 1" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER root

# nginx is the guard of TSN_GUARD=1, without which TorchServe 0.11.0 has no tokens; GUARD=0 leaves it out.
ARG GUARD=1
RUN if [ "${GUARD}" = 1 ] && ! command -v nginx >/dev/null; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nginx-light \
        && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log; \
    fi

# The base runs everything as root. This user needs /dev/neuron* readable and writable: see docs/containers.md.
RUN groupadd --gid 10001 server \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/torchserve-neuron \
        --shell /usr/sbin/nologin server \
    && install -d -m 1777 /var/lib/torchserve-neuron \
    && install -d -m 0755 /models

COPY --from=packages /opt/torchserve-neuron/packages /opt/torchserve-neuron/packages
# All that the server writes lies below one folder: under a read-only root it is a tmpfs, which may hide what is in it.
ENV PYTHONPATH=/opt/torchserve-neuron/packages \
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
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "/opt/torchserve-neuron/entrypoint", "healthcheck"]
# The base's arguments are for its own entrypoint.
CMD []
ENTRYPOINT ["python", "/opt/torchserve-neuron/entrypoint"]
