# Two images (docs/decisions/0101-two-images.md):
#
#   docker build --target worker --tag REGISTRY/tessera-worker:0.2.0 .   render workers, controller, beat; no torch
#   docker build --target engine --tag REGISTRY/tessera-engine:0.2.0 .   render pods
#
# Both run as user 10001 with a read-only root; only /tmp, or HOME and TMPDIR, must be writable. Release builds give both
# bases by digest.
ARG BASE=docker.io/library/ubuntu:24.04
# torch 2.13 brings CUDA 13.0 in its wheels; this base adds what older drivers need to run it.
ARG CUDA_BASE=docker.io/nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY constraints.txt constraints-images.txt pyproject.toml ./
RUN python3 -m venv /build \
 && /build/bin/pip install --no-cache-dir --constraint constraints.txt --constraint constraints-images.txt hatchling

# Dependencies lie in a layer of their own: a new version of ours leaves their gigabytes alone.
FROM build AS worker-packages
RUN python3 -m venv --without-pip /opt/tessera \
 && python3 -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *(one for extra in sys.argv[1:] for one in p["optional-dependencies"][extra]), sep="\n")' worker tables serve > packages.txt \
 && /build/bin/pip --python /opt/tessera/bin/python install --no-cache-dir --only-binary=:all: \
      --constraint constraints.txt --constraint constraints-images.txt --requirement packages.txt

FROM build AS engine-packages
RUN python3 -m venv --without-pip /opt/tessera \
 && python3 -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"][sys.argv[1]], sep="\n")' engine > packages.txt \
 && /build/bin/pip --python /opt/tessera/bin/python install --no-cache-dir --only-binary=:all: \
      --constraint constraints.txt --constraint constraints-images.txt --requirement packages.txt

FROM build AS wheel
COPY README.md LICENSE ./
COPY pipeline pipeline
COPY tasks tasks
COPY embedded embedded
COPY distri distri
COPY k8s k8s
COPY examples examples
RUN /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

# The fused kernels, and Triton's binding to the GPU's driver, so that a pod needs no compiler and waits for none.
FROM engine-packages AS kernels
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
 && rm -rf /var/lib/apt/lists/*
COPY distri distri
RUN PYTHONPATH=/source /opt/tessera/bin/python -m distri.layers.kernels.compile

FROM ${BASE} AS worker
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=worker-packages /opt/tessera /opt/tessera
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel --mount=type=bind,from=wheel,source=/build,target=/build \
    /build/bin/pip --python /opt/tessera/bin/python install --no-cache-dir --no-deps /wheel/*.whl
# PYTHONSAFEPATH: never import what lies in the working directory.
ENV PATH=/opt/tessera/bin:$PATH HOME=/tmp LANG=C.UTF-8 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["tessera"]
CMD ["doctor"]

FROM ${CUDA_BASE} AS engine
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=engine-packages /opt/tessera /opt/tessera
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel --mount=type=bind,from=wheel,source=/build,target=/build \
    /build/bin/pip --python /opt/tessera/bin/python install --no-cache-dir --no-deps /wheel/*.whl
COPY --from=kernels /opt/tessera/kernels /opt/tessera/kernels
ENV PATH=/opt/tessera/bin:$PATH HOME=/tmp LANG=C.UTF-8 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["tessera"]
CMD ["doctor"]
