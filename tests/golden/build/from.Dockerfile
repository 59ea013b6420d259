FROM BASE AS s
RUN mkdir -p /o && echo 1 > /o/f && chown 3:4 /o/f && chmod 640 /o/f && ln -s f /o/l && ln /o/f /o/h
FROM BASE
COPY --from=s /o /o
COPY --from=s /o/f /g
COPY --from=0 /o/l /ll
COPY --from=BASE /bin/busybox /bb
