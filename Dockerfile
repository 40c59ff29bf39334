# One image for the broker and the agents: compose.yaml says which is which.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends openssl openssh-client && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home market && mkdir /state && chown market /state
WORKDIR /opt/fl-market
COPY constraints.txt ./
# https://download.pytorch.org/whl/cpu for machines without a GPU
ARG TORCH_INDEX=https://pypi.org/simple
RUN pip install --no-cache-dir --constraint constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch
COPY pyproject.toml README.md LICENSE ./
COPY fl_market fl_market
COPY clients clients
COPY strategies strategies
COPY scripts scripts
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[postgresql]'
USER market
VOLUME /state
