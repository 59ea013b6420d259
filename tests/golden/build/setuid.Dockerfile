FROM BASE
RUN cp /bin/busybox /su && chmod 4755 /su && mkdir -m 2775 /sg && chown 0:7 /sg
FROM BASE
COPY --from=0 /su /sg /
