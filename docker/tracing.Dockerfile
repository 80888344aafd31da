# What builds archives: the kit, its packages and, with AWS's container as BASE, the Neuron SDK's compiler. Never serves.
#
#   docker build -f docker/tracing.Dockerfile -t torchserve-neuron:tracing .
#   docker run --rm -v "$PWD/model_store:/store" torchserve-neuron:tracing mar cifar10 --store /store --build /tmp/build
#
# BASE is a Python image for TARGET cpu, or a container of docker/images.json for inf1 and inf2: it has torch and the
# compiler then, and REQUIREMENTS names what it lacks.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE}
USER root
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="torchserve-neuron tracing" \
      org.opencontainers.image.description="Builds archives of torchserve-neuron; not for serving" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
ARG PIP_NO_INDEX=""
ARG PIP_FIND_LINKS="/tmp/packages/wheels"
# requirements.txt for a Python image; docker/requirements-tracing-neuron.txt for AWS's containers.
ARG REQUIREMENTS=requirements.txt
COPY requirements.txt docker/requirements-tracing-neuron.txt /tmp/packages/
COPY docker/wheels /tmp/packages/wheels
# In an environment of its own that sees the base's packages, and so leaves them as they are.
RUN python -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
        -r "/tmp/packages/${REQUIREMENTS}" \
    && rm -rf /tmp/packages
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONPATH=/opt/kit \
    PYTHONUNBUFFERED=1
COPY handlers /opt/kit/handlers
COPY tracing /opt/kit/tracing
COPY serving /opt/kit/serving
COPY cli /opt/kit/cli
WORKDIR /opt/kit
ENTRYPOINT ["python", "-m", "cli.main"]
