# vqr1 on CPUs, as README.md installs and starts it.
#
#   docker build --tag vqr1 .
#   docker run --rm --volume "$PWD/outputs:/vqr1/outputs" vqr1
#   docker run --rm --volume "$PWD/photos:/photos:ro" vqr1 .venv/bin/vqr1 score /photos
FROM python:3.11-slim-bookworm

# Versions are those of the base image's Debian release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 vqr1 && install --directory --owner vqr1 /vqr1
USER 1000
WORKDIR /vqr1
COPY --chown=vqr1 . .
RUN make setup

CMD ["make", "train"]
