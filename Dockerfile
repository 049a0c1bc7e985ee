# The image of a run: astuner with what the tutorials use, as an unprivileged user, in a root that
# may be read-only. How it is built and started: docs/operating.md.
FROM python:3.11-slim-bookworm

# cpu or gpu.
ARG DEVICE=cpu
# Where pip finds torch without CUDA; without it, it takes the build with CUDA.
ARG PIP_EXTRA_INDEX_URL

ENV PATH=/opt/astuner/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1

# bubblewrap is the strongest of the sandboxes for what a model wrote. Triton builds what starts its
# kernels with a C compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap \
        $([ "$DEVICE" = gpu ] && echo gcc libc6-dev) \
    && rm -rf /var/lib/apt/lists/*

RUN python -m venv /opt/astuner

# The packages change with these files only; a change of the code below keeps their layer. Each is
# checked by its hash.
WORKDIR /opt/source
COPY astuner/pins/locked.py astuner/pins/build.txt astuner/pins/cpu.txt astuner/pins/cuda.txt \
    astuner/pins/
COPY locks/quickstart.txt locks/
RUN python astuner/pins/locked.py /opt/astuner locks/quickstart.txt

COPY pyproject.toml README.md LICENSE ./
COPY astuner astuner
RUN pip install --no-deps --no-build-isolation . \
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
