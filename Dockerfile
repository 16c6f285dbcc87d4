# docker build -t alphabar . && docker run --rm -v "$PWD/outputs:/alphabar/outputs" alphabar schedule=cosine
# With GPUs: docker run --gpus all --shm-size 8g ... alphabar trainer.devices=4
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /alphabar
# The environment first, so that a change of the code does not install it anew.
COPY pyproject.toml README.md Makefile ./
COPY src/alphabar/__init__.py src/alphabar/__init__.py
RUN make install
COPY . .
ENTRYPOINT [".venv/bin/python", "train.py"]
