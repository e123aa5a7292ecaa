# The node with the embedded model, CPU build. State lives in /var/lib/vald: mount a volume there.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY dicom_node dicom_node
COPY pipeline pipeline
COPY storage storage
RUN python -m venv /opt/vald \
 && /opt/vald/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu "torch==2.13.0" \
 && /opt/vald/bin/pip install --no-cache-dir '.[s3]'

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home /var/lib/vald --create-home vald
COPY --from=build /opt/vald /opt/vald
COPY config.yaml /etc/vald/config.yaml
ENV PATH=/opt/vald/bin:$PATH \
    VALD_CONFIG=/etc/vald/config.yaml \
    VALD_STORAGE__DATABASE=sqlite:////var/lib/vald/vald.db \
    VALD_STORAGE__OBJECTS=/var/lib/vald/objects \
    HF_HUB_OFFLINE=1
USER vald
VOLUME /var/lib/vald
EXPOSE 11112
STOPSIGNAL SIGTERM
ENTRYPOINT ["vald-node"]
CMD ["serve"]
