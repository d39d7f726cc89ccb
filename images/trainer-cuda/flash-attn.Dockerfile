# flash-attn, compiled from its sources: hours on a small machine, so it is an image of its own, made once for each version.
#
#     docker build -f images/trainer-cuda/flash-attn.Dockerfile -t tunewright/flash-attn:2.8.3 .
#     docker build ... --build-arg FLASH_ATTENTION=tunewright/flash-attn:2.8.3       (images/trainer-cuda)
#
# It needs the network, and no GPU: compiler and headers of CUDA are wheels. What pip has to know of your index, and its
# credentials, goes in as a secret: --secret id=pip,src=pip.conf
ARG BASE_IMAGE=tunewright/base:bookworm

FROM ${BASE_IMAGE} AS compilers
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-dev && rm -rf /var/lib/apt/lists/*
COPY 3rdparty/python/flash-attn-build.lock 3rdparty/python/flash-attn.lock /locks/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3.11 -m venv /build && /build/bin/pip install --no-deps --require-hashes -r /locks/flash-attn-build.lock
ENV CUDA_HOME=/build/lib/python3.11/site-packages/nvidia/cu13
# The wheel has the library under its full name only, and the linker looks for this one.
RUN ln -s libcudart.so.13 "$CUDA_HOME/lib/libcudart.so"

FROM compilers AS wheel
ARG FLASH_ATTN_CUDA_ARCHS="80;90"
ARG MAX_JOBS=
ENV FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=${FLASH_ATTN_CUDA_ARCHS} MAX_JOBS=${MAX_JOBS}
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    PATH=/build/bin:$PATH /build/bin/pip wheel --no-build-isolation --no-deps --require-hashes \
    --wheel-dir /wheels -r /locks/flash-attn.lock
RUN /build/bin/pip install --no-deps --no-compile --target /flash-attention/app/lib/python3.11/site-packages /wheels/*.whl \
    && find /flash-attention -exec touch -hd @1700000000 {} +

FROM scratch
COPY --from=wheel /flash-attention/ /flash-attention/
