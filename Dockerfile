# CPU image:  docker build -t farfield:cpu .
# GPU image:  docker build -t farfield:cuda13 --build-arg EXTRAS=server,cuda13 .
#
# Needs BuildKit (the default since Docker 23), for the cache mount.

ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS=server
WORKDIR /src
RUN python -m venv --without-pip /opt/farfield
COPY . .
# The cache mount keeps the large CUDA wheels out of the image and saves a download when only the source changed.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/farfield/bin/python install -c constraints.txt ".[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
# g++: the CPU engine compiles its kernels at run time.
# tini: as process 1 it reaps what a killed worker leaves behind, such as a compiler in mid-run.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ tini \
    && rm -rf /var/lib/apt/lists/*
# The home is the cache, so that CuPy and the CUDA driver keep their own caches there too.
RUN groupadd --gid 10001 farfield \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/farfield \
        --shell /usr/sbin/nologin farfield \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/cache/farfield
COPY --from=build /opt/farfield /opt/farfield

# NVIDIA_DRIVER_CAPABILITIES is read by the NVIDIA container runtime alone; it brings in libcuda and NVML.
# NVIDIA_VISIBLE_DEVICES is absent on purpose: who runs the image says which GPUs it sees.
ENV PATH=/opt/farfield/bin:$PATH \
    HOME=/var/cache/farfield \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    FARFIELD_HOST=0.0.0.0 \
    FARFIELD_PORT=8642 \
    FARFIELD_KEYS_FILE=/etc/farfield/keys.json \
    FARFIELD_CACHE_DIR=/var/cache/farfield/kernels

USER 10001:10001
WORKDIR /tmp
EXPOSE 8642
STOPSIGNAL SIGTERM
# The empty ProxyHandler: a proxy set in the environment must not see, or fail, a call to ourselves.
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s --retries=3 \
    CMD ["python", "-c", "import os; from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:' + os.environ['FARFIELD_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["tini", "--", "farfield", "serve"]
