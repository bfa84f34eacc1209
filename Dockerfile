# docker build -t trislim .
# docker run --rm -v "$PWD:/work" trislim train -c cls/demo.yml
#
# For a GPU: the address of the index that Paddle's install page names for your version of CUDA.
# docker build -t trislim:gpu --build-arg GPU_INDEX=ADDRESS .
# docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" trislim:gpu train -c cls/demo.yml
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY core core
COPY tasks tasks
COPY tools tools
COPY configs configs
COPY trislim trislim
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm
# what OpenCV and the runtimes load beside their own files
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /wheels/
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir -c /wheels/constraints.txt /wheels/*.whl
ARG GPU_INDEX=
RUN if [ -n "$GPU_INDEX" ]; then \
      pip uninstall -y paddlepaddle \
      && pip install --no-cache-dir paddlepaddle-gpu==3.1.1 -i "$GPU_INDEX"; \
    fi
# `docker run --user` has no home of its own; fetched weights are kept under it
ENV HOME=/work TRISLIM_CACHE=/work/.cache/trislim
WORKDIR /work
ENTRYPOINT ["trislim"]
CMD ["--help"]
