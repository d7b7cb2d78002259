# giga in a container: for a CPU, or for CUDA with TORCH=cu126, a folder of https://download.pytorch.org/whl.
#
#   docker build -t giga .
#   docker build -t giga:cuda --build-arg TORCH=cu126 .
#   docker run --rm -v "$PWD:/work" giga giga info cohort.zarr
#
# With the tests, which `docker run --rm giga-test` then runs:
#
#   docker build -t giga-test --target test .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS giga
ARG TORCH=cpu
WORKDIR /giga
RUN python -m venv .venv
ENV PATH=/giga/.venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Alone and first: it is large, and a change of giga then leaves it as it is.
COPY constraints.txt .
RUN pip install -c constraints.txt --index-url "https://download.pytorch.org/whl/${TORCH}" torch torchvision
COPY . .
RUN pip install -c constraints.txt '.[anndata,hub,parquet,s3,survival,timm,transformers,xlsx]'
# Sparse convolutions, of --recipe paper: the builds of spconv for a CPU and for CUDA exclude each other.
RUN if [ "$TORCH" = cpu ]; then pip install -c constraints.txt spconv; else pip install "spconv-cu126"; fi

FROM giga AS test
ARG TORCH=cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends make g++ chromium chromium-driver \
    && rm -rf /var/lib/apt/lists/*
RUN make .venv/.installed-test
# Which brought the build of spconv for a CPU.
RUN if [ "$TORCH" != cpu ]; then pip uninstall -y spconv cumm && pip install --force-reinstall --no-deps spconv-cu126 cumm-cu126; fi
CMD ["make", "test"]

# The last stage is the one that is built where none is named.
FROM giga
WORKDIR /work
CMD ["giga", "--help"]
