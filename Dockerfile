# The image of a run: astuner with what the tutorials use, as an unprivileged user, in a root that
# may be read-only. How it is built and started: docs/operating.md.
FROM python:3.11-slim-bookworm

# cpu or gpu.
ARG DEVICE=cpu
# Extras of pyproject.toml; a GPU adds its own.
ARG EXTRAS=quickstart
# Where torch without CUDA lies; the one with CUDA lies where all other packages do.
ARG CPU_TORCH=https://download.pytorch.org/whl/cpu

ENV PATH=/opt/astuner/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1

# Triton builds what starts its kernels with a C compiler.
RUN if [ "$DEVICE" = gpu ]; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi

RUN python -m venv /opt/astuner

# The packages change with these files only; a change of the code below keeps their layers.
WORKDIR /opt/source
COPY constraints.txt ./
RUN pip install --constraint constraints.txt setuptools \
    && if [ "$DEVICE" = cpu ]; then \
        torch=$(grep '^torch==' constraints.txt) \
        && pip install --no-deps --index-url "$CPU_TORCH" "$torch"; \
    fi
COPY pyproject.toml README.md LICENSE ./
COPY astuner/__init__.py astuner/
RUN if [ "$DEVICE" = gpu ]; then EXTRAS="$EXTRAS,gpu"; fi \
    && pip install --constraint constraints.txt --no-build-isolation ".[$EXTRAS]"

COPY astuner astuner
RUN pip install --no-deps --no-build-isolation --force-reinstall . \
    && install --directory --owner=10001 --group=0 --mode=0775 /runs

# Whoever runs it, by a user id without a name too, has these. Models that are fetched by their
# name are kept with the runs.
ENV HOME=/tmp \
    USER=astuner \
    HF_HOME=/runs/.huggingface

VOLUME ["/runs"]
WORKDIR /project
USER 10001:0
ENTRYPOINT ["astuner"]
CMD ["--help"]
